"""The verdict in words: what is good, what is bad, and what to try next.

Only independent judges decide about the images. The CLIP that conditions the models is quoted where
it describes itself: whether its embeddings have collapsed, and whether the prior overfits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.evaluation.samples import HELD_OUT, TRAINING
from pipelines.report.page import number, percent

Records = Mapping[str, dict[str, Any]]  # metrics.json
Level = Literal["good", "fair", "bad"]

COLLAPSED = 1 / 4  # effective rank of the image embeddings, of their width
LOST_VARIETY = 1 / 2  # recall of generated images, of that of real ones
# Ratios to the statistics of real images; within them, images look alike in this respect.
SPECKLED, BLURRY = 1.5, 0.67  # roughness
SATURATED = 1.3  # colourfulness
MEMORISED = 1 / 3  # share of training captions whose image is nearest to their own original


@dataclass(frozen=True)
class Finding:
    """One statement about a run."""

    level: Level
    subject: str
    text: str
    advice: str = ""


# What the distance to real images means.
UNTRAINED = Finding(
    "bad",
    "Images",
    "The generated images are no closer to real ones than those of untrained models.",
    "Train longer. Until this changes, no other figure says anything about quality.",
)
BLOBS = Finding(
    "bad",
    "Images",
    "The generated images are farther from real ones than real images at a quarter of their "
    "resolution. Expect colours and blobs, not objects.",
    "Train the decoder longer or make it larger before changing anything else.",
)
SOFT = Finding(
    "fair",
    "Images",
    "The generated images are between real images at half and at a quarter of their resolution. "
    "Expect recognisable but soft or distorted objects.",
    "Train the decoder longer; then try more sampling steps.",
)
SHARP = Finding(
    "good",
    "Images",
    "The generated images are about as close to real ones as real images at half their resolution, "
    "or closer, and can still be told from real ones.",
)
REAL = Finding(
    "good",
    "Images",
    "The judge cannot tell the generated images from real ones.",
    "Evaluate more captions: a smaller difference may show.",
)


@dataclass(frozen=True)
class Evidence:
    """What the findings are read from."""

    records: Records
    judge: str  # the first one
    prior: str  # the first one
    components: Mapping[str, Any]  # of the image embeddings, from the data report

    def figure(self, name: str, part: str = "value", split: str = HELD_OUT) -> dict[str, float]:
        """A figure of a metric: its value, low and high. Raises `KeyError` if not measured."""
        found: dict[str, float] | None = self.records[f"{split}/{name}"][part]
        if found is None:
            raise KeyError(name)
        return found


def findings(evidence: Evidence) -> list[Finding]:
    """All that can be said; a finding whose metrics were not measured is left out."""
    found: list[Finding] = []
    for find in FINDERS:
        try:
            found += find(evidence)
        except KeyError:
            continue
    return found


def fidelity(evidence: Evidence) -> Iterator[Finding]:
    """How far generated images are from real ones, measured by real images that were blurred."""
    name = f"{evidence.judge}/kid"
    kid, untrained, real = (evidence.figure(name, p) for p in ("value", "baseline", "reference"))
    half, quarter = (evidence.figure(f"{name}_blurred_{times}") for times in (2, 4))
    if evidence.records[f"{HELD_OUT}/{name}"]["comparison"] != "better":
        found = UNTRAINED
    elif kid["low"] > quarter["high"]:
        found = BLOBS
    elif kid["low"] > half["high"]:
        found = SOFT
    elif kid["low"] > real["high"]:
        found = SHARP
    else:
        found = REAL
    scale = (
        f"The judge {evidence.judge} puts them at a distance (KID × 1000) of {interval(kid)}; real "
        f"images at half their resolution are at {number(half['value'])}, at a quarter at "
        f"{number(quarter['value'])}, untrained models at {number(untrained['value'])}, and other "
        f"real images at {number(real['value'])}."
    )
    yield replace(found, text=f"{found.text} {scale}")


def limits(evidence: Evidence) -> Iterator[Finding]:
    """Whether the decoder or the prior limits the images."""
    name = f"{evidence.judge}/kid"
    decoded, generated = evidence.figure(f"{name}_from_true_embedding"), evidence.figure(name)
    real = evidence.figure(name, "reference")
    if generated["low"] <= real["high"]:
        return
    if decoded["high"] < generated["low"]:
        yield Finding(
            "fair",
            "Prior",
            "Images decoded from the originals' own embeddings are closer to real ones "
            f"({interval(decoded)}) than those from captions ({interval(generated)}): the prior "
            "limits the images.",
            "Train the prior longer, on more pairs, or raise its guidance scale.",
        )
    else:
        yield Finding(
            "fair",
            "Decoder",
            "Images decoded from the originals' own embeddings are no better than those from "
            f"captions ({interval(decoded)} and {interval(generated)}): the decoder limits the "
            "images, not the prior.",
            "Improve the decoder first; a better prior would not show.",
        )


def variety(evidence: Evidence) -> Iterator[Finding]:
    """Whether the images cover what real ones show."""
    recall = evidence.figure(f"{evidence.judge}/recall")
    real = evidence.figure(f"{evidence.judge}/recall", "reference")
    precision, real_precision = (
        evidence.figure(f"{evidence.judge}/precision", part) for part in ("value", "reference")
    )
    if recall["high"] >= LOST_VARIETY * real["low"]:
        return
    # Guidance gives up variety for images that look real; images that do not have other faults.
    guided = precision["low"] > LOST_VARIETY * real_precision["high"]
    yield Finding(
        "bad",
        "Variety",
        f"The generated images cover {percent(recall['value'])} of the variety of real ones (other "
        f"real images: {percent(real['value'])})"
        + (f", although {percent(precision['value'])} of them look real." if guided else "."),
        "Lower the guidance scale of the decoder."
        if guided
        else "Make single images better first.",
    )


def colours(evidence: Evidence) -> Iterator[Finding]:
    """Whether the images follow the caption at all, judged by pixels."""
    record = evidence.records[f"{HELD_OUT}/colour/closer_to_own"]
    share = interval(evidence.figure("colour/closer_to_own"), percent)
    if record["comparison"] == "better":
        yield Finding(
            "good",
            "Captions",
            f"Colours follow the caption: a generated image is closer in colour to its caption's "
            f"original than to another one in {share} of all comparisons (50% by chance).",
        )
    else:
        yield Finding(
            "bad",
            "Captions",
            f"Not even colours follow the caption: a generated image is closer in colour to its "
            f"caption's original than to another one in {share} of all comparisons (50% by "
            "chance).",
            "Train the prior and the decoder longer, and check that captions describe the images.",
        )


def texture(evidence: Evidence) -> Iterator[Finding]:
    """Whether the images are speckled or blurred."""
    ratio = evidence.figure("pixels/roughness")
    if ratio["low"] > SPECKLED:
        yield Finding(
            "bad",
            "Texture",
            f"The images are {interval(ratio)} times as rough as real ones: speckle or noise.",
            "Compare the images of the cascade below: if those of the decoder are smooth, train "
            "the upsamplers longer; else take more sampling steps.",
        )
    elif ratio["high"] < BLURRY:
        yield Finding(
            "fair",
            "Texture",
            f"The images are blurred: {interval(ratio)} times as rough as real ones.",
            "Train the upsamplers longer.",
        )


def saturation(evidence: Evidence) -> Iterator[Finding]:
    """Whether guidance has made the colours too strong."""
    ratio = evidence.figure("pixels/colourfulness")
    if ratio["low"] > SATURATED:
        yield Finding(
            "bad",
            "Guidance",
            f"The colours are {interval(ratio)} times as strong as those of real images: the "
            "guidance is too strong.",
            "Lower evaluate.sampling.decoder.guidance_scale, or set its dynamic_threshold.",
        )


def collapse(evidence: Evidence) -> Iterator[Finding]:
    """Whether the CLIP uses the dimensions of its embeddings."""
    rank, width = evidence.components["effective_rank"], evidence.components["width"]
    if rank < COLLAPSED * width:
        yield Finding(
            "bad",
            "CLIP",
            f"The image embeddings have collapsed: they vary in effectively {number(rank)} of "
            f"{width} dimensions, so that they say little about an image.",
            "Use a pretrained CLIP, or train it on more pairs, in larger batches, or for fewer "
            "passes over the same pairs.",
        )


def memorisation(evidence: Evidence) -> Iterator[Finding]:
    """Whether images for training captions are copies of their originals."""
    name = f"{evidence.judge}/own_original"
    known, new = (evidence.figure(name, split=split) for split in (TRAINING, HELD_OUT))
    if known["low"] > MEMORISED and known["low"] > new["high"]:
        yield Finding(
            "bad",
            "Memorisation",
            "The models reproduce training images: the nearest original is the caption's own for "
            f"{interval(known, percent)} of the training captions and {interval(new, percent)} of "
            "the held-out ones.",
            "Train on more pairs, or take fewer steps with the decoder; compare the samples of the "
            "training split below.",
        )


def overfitting(evidence: Evidence) -> Iterator[Finding]:
    """Whether the prior does better on training captions than on held-out ones."""
    name = f"{evidence.prior}/cosine"
    known, new = (evidence.figure(name, split=split) for split in (TRAINING, HELD_OUT))
    if known["low"] > new["high"]:
        yield Finding(
            "bad",
            "Prior",
            "The prior overfits: its cosine to the image's embedding is "
            f"{interval(known)} for training captions and {interval(new)} for held-out ones.",
            "Train on more pairs, or take fewer steps with the prior.",
        )


FINDERS: Sequence[Callable[[Evidence], Iterator[Finding]]] = (
    fidelity,
    limits,
    variety,
    colours,
    texture,
    saturation,
    collapse,
    overfitting,
    memorisation,
)


def interval(figure: Mapping[str, float], text: Callable[[float], str] = number) -> str:
    """A value with its confidence interval."""
    return f"{text(figure['value'])} [{text(figure['low'])} to {text(figure['high'])}]"
