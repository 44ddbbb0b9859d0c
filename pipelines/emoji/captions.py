"""Captions of emoji as people write them, from a label, tags and the style of the drawing."""

import random
import re
from collections.abc import Sequence

from pipelines.demo.dataset import caption

STYLES = {  # by family: how captions name it; images of the first one also go without
    "fluent_3d": "3D",
    "fluent_flat": "flat",
    "noto": "Noto",
    "twemoji": "Twemoji",
}
UNNAMED = "fluent_3d"
MAX_TAGS = 4
UNCOUNTED = re.compile(  # labels that take no article
    r".*([^s]s|’clock)$|.*\b(people|art|tennis|boxing)$|.*\b(on|off|no one|the)\b"
)


def captions(key: str, label: str, tags: Sequence[str], family: str) -> list[str]:
    """Captions of one image, each of them different.

    key: seeds the choice of tags. The family without a named style has the demo's caption first.
    """
    style, spoken = STYLES[family], phrase(label)
    known = [tag for tag in tags if tag.isascii()]
    some = random.Random(key).sample(known, k=min(MAX_TAGS, len(known)))
    named = [f"{spoken} in {style} style", ", ".join([label, *some, f"{style} style"])]
    if family != UNNAMED:
        return named
    return list(dict.fromkeys([caption(label, tags), spoken, *named, ", ".join(some) or label]))


def phrase(label: str) -> str:
    """The label in a phrase: "the flag of Brazil", "a red heart", "grapes"."""
    kind, _, name = label.partition(": ")
    if kind == "flag":
        return f"the flag of {name}"
    if kind == "keycap":
        return f"the key {name}"
    if UNCOUNTED.match(label) or not label[0].isalpha():
        return label
    return f"{'an' if label[0].lower() in 'aeio' else 'a'} {label}"
