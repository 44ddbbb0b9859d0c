"""Findings about the images, by independent judges only."""

from collections.abc import Iterator
from dataclasses import replace

from pipelines.evaluation.samples import TRAINING
from pipelines.report.findings import Evidence, Finding, interval
from pipelines.report.page import percent

LOST_VARIETY = 1 / 2  # recall of generated images, of that of real ones
# Ratios to the statistics of real images; within them, images look alike in this respect.
SPECKLED, BLURRY = 1.5, 0.67  # roughness
SATURATED = 1.3  # colourfulness
CLEARLY = 0.85  # share of comparisons of colours
MEMORISED = 1 / 3  # share of training captions whose image is nearest to their own original


def limits(evidence: Evidence) -> Iterator[Finding]:
    """Whether the decoder or the prior limits the images."""
    name = f"{evidence.judge}/kid"
    decoded, generated = evidence.figure(f"{name}_from_true_embedding"), evidence.figure(name)
    real = evidence.figure(name, "reference")
    if generated["low"] <= real["high"]:
        return
    closer = f"({interval(decoded)} and {interval(generated)})"
    if decoded["high"] < generated["low"]:
        yield Finding(
            "fair",
            "Prior",
            "Images decoded from the originals' own embeddings are closer to real ones than those "
            f"from captions {closer}: the prior limits the images.",
            "Train the prior longer, on more pairs, or raise its guidance scale.",
        )
        return
    text = (
        "Images decoded from the originals' own embeddings look no more real than those from "
        f"captions {closer}: the decoder limits how real the images look."
    )
    if evidence.is_better("decoder/squared_error_over_text"):
        text += (
            " But they are more like their originals: what is drawn is limited by the embeddings "
            "that are predicted from captions."
        )
    yield Finding("fair", "Decoder", text)


def variety(evidence: Evidence) -> Iterator[Finding]:
    """Whether the images cover what real ones show."""
    recall = evidence.figure(f"{evidence.judge}/recall")
    real = evidence.figure(f"{evidence.judge}/recall", "reference")
    precision, real_precision = (
        evidence.figure(f"{evidence.judge}/precision", part) for part in ("value", "reference")
    )
    looks_real = precision["low"] > LOST_VARIETY * real_precision["high"]
    if looks_real and recall["high"] < LOST_VARIETY * real["low"]:
        yield Finding(
            "bad",
            "Variety",
            f"{percent(precision['value'])} of the generated images look real, but only "
            f"{percent(recall['value'])} of the real images have a generated one like them (other "
            f"real images: {percent(real['value'])}): the images are too much alike.",
            "Lower the guidance scale of the decoder.",
        )


def captions(evidence: Evidence) -> Iterator[Finding]:
    """Whether the images follow the caption, judged by colours and by the judge."""
    name = "colour/closer_to_own"
    share = evidence.figure(name)
    colours = (
        "a generated image is closer in colour to its caption's original than to another one in "
        f"{interval(share, percent)} of all comparisons (50% by chance)."
    )
    if not evidence.is_better(name):
        text = f"Not even colours follow the caption: {colours}"
        advice = "Train the prior and the decoder longer, and check that captions describe images."
        yield Finding("bad", "Captions", text, advice)
        return
    own = f"{evidence.judge}/own_original"
    chance = percent(evidence.figure(own, "baseline")["value"])
    objects = (
        f" By {evidence.judge}, the nearest original is the caption's own for "
        f"{interval(evidence.figure(own), percent)} of the images, "
        f"{'' if evidence.is_better(own) else 'not clearly '}more than by chance ({chance})."
    )
    found = Finding("good", "Captions", f"Colours follow the caption: {colours}{objects}")
    if share["low"] <= CLEARLY:
        text = f"Colours follow the caption more often than not: {colours}{objects}"
        found = replace(found, level="fair", text=text)
    yield found


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


def memorisation(evidence: Evidence) -> Iterator[Finding]:
    """Whether images for training captions are copies of their originals."""
    name = f"{evidence.judge}/own_original"
    known, new = (evidence.figure(name, split=TRAINING), evidence.figure(name))
    if known["low"] > MEMORISED and known["low"] > new["high"]:
        yield Finding(
            "bad",
            "Memorisation",
            "The models reproduce training images: the nearest original is the caption's own for "
            f"{interval(known, percent)} of the training captions and {interval(new, percent)} of "
            "the held-out ones.",
            "Train on more pairs, or take fewer steps with the decoder; compare the samples with "
            "the nearest training images beside them.",
        )
