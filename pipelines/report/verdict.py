"""The verdict in words: what is good, what is bad, and what to try next.

Only independent judges decide about the images. The CLIP that conditions the models is quoted where
it describes itself: whether its embeddings have collapsed, and whether the prior overfits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipelines.evaluation.samples import HELD_OUT
from pipelines.report.embedding_findings import clip, duplicates, prior
from pipelines.report.findings import Evidence, Finding, interval
from pipelines.report.image_findings import (
    captions,
    limits,
    memorisation,
    saturation,
    texture,
    variety,
)
from pipelines.report.page import number

# What the distance to real images means.
NOISE = Finding(
    "bad",
    "Images",
    "The generated images are no better than noise: {judge} finds them {compared} real images than "
    "those of untrained models. Until this changes, the other figures say nothing about quality.",
    "Train longer. Steps so far: {steps}.",
    brief="noise: KID × 1000 of {generated}; untrained models {untrained}, real images at a "
    "quarter of their resolution {quarter}",
)
BLOBS = Finding(
    "bad",
    "Images",
    "The generated images are farther from real ones than real images at a quarter of their "
    "resolution. Expect colours and blobs, not objects.",
    "Train the decoder longer, or make it larger.",
    brief="blobs: KID × 1000 of {generated}; real images at a quarter of their resolution "
    "{quarter}, untrained models {untrained}",
)
SOFT = Finding(
    "fair",
    "Images",
    "The generated images are between real images at half and at a quarter of their resolution. "
    "Expect recognisable but soft or distorted objects.",
    "Train the decoder longer; then try more sampling steps.",
    brief="soft or distorted objects: KID × 1000 of {generated}; real images at half their "
    "resolution {half}, at a quarter {quarter}",
)
SHARP = Finding(
    "good",
    "Images",
    "The generated images are about as close to real ones as real images at half their resolution, "
    "or closer, and can still be distinguished from real ones.",
    brief="close to real images: KID × 1000 of {generated}; real images at half their resolution "
    "{half}, other real images {real}",
)
REAL = Finding(
    "good",
    "Images",
    "The judge cannot tell the generated images from real ones.",
    "Evaluate more captions: a smaller difference may show.",
    brief="like real images: KID × 1000 of {generated}; real images at half their resolution "
    "{half}, other real images {real}",
)
SCALE = (
    "Distances to real images by {judge} (KID × 1000): generated images {generated}; real images "
    "at half their resolution {half}, at a quarter {quarter}; images of untrained models "
    "{untrained}; other real images {real}."
)
FIRST = "What to do first"  # the subject of a finding


def findings(evidence: Evidence, of_study: Iterable[Finding] = ()) -> list[Finding]:
    """All that can be said: first the images, then what to do first.

    of_study: what a study adds. A finding whose metrics were not measured is left out. Images that
    are no better than those of untrained models allow no diagnosis but that of the CLIP.
    """
    noise = is_noise(evidence)
    images, *others = [
        list(_measured(find, evidence)) for find in (NOISE_FINDERS if noise else FINDERS)
    ]
    diagnoses = [found for each in others for found in each]
    if not noise:
        diagnoses += [*of_study, *duplicates(evidence)]
    elif not diagnoses:
        diagnoses += duplicates(evidence)
    return [*images, *first_step([*images, *diagnoses]), *diagnoses]


def _measured(
    find: Callable[[Evidence], Iterator[Finding]], evidence: Evidence
) -> Iterator[Finding]:
    """What a function finds; nothing if it needs a metric that was not measured."""
    try:
        yield from find(evidence)
    except KeyError:
        return


def is_noise(evidence: Evidence) -> bool:
    """Whether the images are known to be no better than those of untrained models."""
    name = f"{evidence.judge}/kid"
    return f"{HELD_OUT}/{name}" in evidence.records and not evidence.is_better(name)


def fidelity(evidence: Evidence) -> Iterator[Finding]:
    """How far generated images are from real ones, measured by real images that were blurred."""
    name = f"{evidence.judge}/kid"
    kid, untrained, real = (evidence.figure(name, p) for p in ("value", "baseline", "reference"))
    half, quarter = (evidence.figure(f"{name}_blurred_{times}") for times in (2, 4))
    if is_noise(evidence):
        found = noise(evidence)
    elif kid["low"] > quarter["high"]:
        found = BLOBS
    elif kid["low"] > half["high"]:
        found = SOFT
    elif kid["low"] > real["high"]:
        found = SHARP
    else:
        found = REAL
    yardsticks = {"untrained": untrained, "half": half, "quarter": quarter, "real": real}
    figures = {name: number(figure["value"]) for name, figure in yardsticks.items()}
    figures["generated"] = interval(kid)
    scale = SCALE.format(judge=evidence.judge, **figures)
    yield replace(found, text=f"{found.text} {scale}", brief=found.brief.format(**figures))


def noise(evidence: Evidence) -> Finding:
    """That the images are no better than those of untrained models."""
    comparison = evidence.records[f"{HELD_OUT}/{evidence.judge}/kid"]["comparison"]
    compared = "farther from" if comparison == "worse" else "no closer to"
    steps = ", ".join(f"{model} {count:,}" for model, count in evidence.steps.items())
    text = NOISE.text.format(judge=evidence.judge, compared=compared)
    return replace(NOISE, text=text, advice=NOISE.advice.format(steps=steps or "unknown"))


def first_step(found: Sequence[Finding]) -> Iterator[Finding]:
    """Which advice to follow first, if there is more than one."""
    advised = [finding.subject for finding in found if finding.advice]
    if "CLIP" in advised and len(advised) > 1:
        yield Finding(
            "fair",
            FIRST,
            "Improve the CLIP: the prior and the decoder are trained on its embeddings, so both "
            "have to be trained again after it.",
        )


class Brief(NamedTuple):
    """The verdict in two lines, of which each may be empty."""

    images: str  # what they are, with the distance that decides
    first_step: str


def in_brief(found: Sequence[Finding]) -> Brief:
    """The most important of the `findings`."""
    images = [finding.brief for finding in found if finding.brief]
    ranked = [finding.text for finding in found if finding.subject == FIRST]
    advice = [finding.advice for finding in found if finding.advice]
    return Brief(next(iter(images), ""), next(iter([*ranked, *advice]), ""))


FINDERS: Sequence[Callable[[Evidence], Iterator[Finding]]] = (
    fidelity,  # the images come first
    limits,
    variety,
    captions,
    texture,
    saturation,
    clip,
    prior,
    memorisation,
)
NOISE_FINDERS = (fidelity, clip)
