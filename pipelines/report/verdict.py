"""The verdict in words: what is good, what is bad, and what to try next.

Only independent judges decide about the images. The CLIP that conditions the models is quoted where
it describes itself: whether its embeddings have collapsed, and whether the prior overfits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from pipelines.evaluation.samples import HELD_OUT, TRAINING
from pipelines.report.findings import Evidence, Finding, interval
from pipelines.report.page import number, percent

COLLAPSED = 1 / 4  # effective rank of the image embeddings, of their width
LOST_VARIETY = 1 / 2  # recall of generated images, of that of real ones
# Ratios to the statistics of real images; within them, images look alike in this respect.
SPECKLED, BLURRY = 1.5, 0.67  # roughness
SATURATED = 1.3  # colourfulness
CLEARLY = 0.85  # share of comparisons of colours
MANY_DUPLICATES = 0.2  # share of the pairs
MEMORISED = 1 / 3  # share of training captions whose image is nearest to their own original


# What the distance to real images means.
UNTRAINED = Finding(
    "bad",
    "Images",
    "The generated images are noise, or no better: no closer to real ones than those of untrained "
    "models. Until this changes, no other figure says anything about quality.",
    "Train longer.",
)
BLOBS = Finding(
    "bad",
    "Images",
    "The generated images are farther from real ones than real images at a quarter of their "
    "resolution. Expect colours and blobs, not objects.",
    "Train the decoder longer, or make it larger.",
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


def findings(evidence: Evidence, of_study: Iterable[Finding] = ()) -> list[Finding]:
    """All that can be said, with what to do first at the end.

    of_study: what a study adds. A finding whose metrics were not measured is left out. Images that
    are no better than those of untrained models allow no diagnosis.
    """
    found: list[Finding] = []
    noise = is_noise(evidence)
    for find in (fidelity,) if noise else FINDERS:
        try:
            found += find(evidence)
        except KeyError:
            continue
    if noise:
        return [*found, *duplicates(evidence)]
    return [*found, *of_study, *duplicates(evidence), *first_step(found)]


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
        steps = ", ".join(f"{model} {count:,}" for model, count in evidence.steps.items())
        found = replace(UNTRAINED, advice=f"Train longer. Steps so far: {steps or 'unknown'}.")
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
    yield Finding("fair", "Decoder", text, "Train the decoder longer, or make it larger.")


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
    objects = (
        f" By {evidence.judge}, the nearest original is the caption's own for "
        f"{interval(evidence.figure(own), percent)} of the images "
        f"({percent(evidence.figure(own, 'baseline')['value'])} by chance)."
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


def clip(evidence: Evidence) -> Iterator[Finding]:
    """Whether the CLIP uses the dimensions of its embeddings, and works on new pairs."""
    rank, width = evidence.components["effective_rank"], evidence.components["width"]
    if rank >= COLLAPSED * width:
        return
    known, new = (evidence.figure("clip/retrieval_at_1", split=s) for s in (TRAINING, HELD_OUT))
    overfits = known["low"] > 2 * new["high"]
    yield Finding(
        "bad",
        "CLIP",
        f"The image embeddings have collapsed: they vary in effectively {number(rank)} of {width} "
        "dimensions, enough for colours and outlines, not for objects. The caption's own image is "
        f"the nearest for {percent(known['value'])} of the training captions and "
        f"{percent(new['value'])} of the held-out ones.",
        "Use a pretrained CLIP, or train it on more pairs or for fewer passes."
        if overfits
        else "Train the CLIP longer, or use a pretrained one.",
    )


def duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Whether the selection dropped many pairs because their embeddings look alike."""
    share = evidence.near_duplicates
    if share > MANY_DUPLICATES:
        yield Finding(
            "bad",
            "Data",
            f"The selection dropped {percent(share)} of the pairs as near duplicates. If the CLIP "
            "cannot tell images apart yet, they are none.",
            "Look at the near duplicates in the data report; raise "
            "select.near_duplicate_similarity, or train the CLIP longer.",
        )


def first_step(found: Sequence[Finding]) -> Iterator[Finding]:
    """Which advice to follow first, if there is more than one."""
    advised = [finding.subject for finding in found if finding.advice]
    if "CLIP" in advised and len(advised) > 1:
        yield Finding(
            "fair",
            "What to do first",
            "Improve the CLIP: the prior and the decoder are trained on its embeddings, so both "
            "have to be trained again after it.",
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
            "Train on more pairs, or take fewer steps with the decoder; compare the samples with "
            "the nearest training images beside them.",
        )


def prior(evidence: Evidence) -> Iterator[Finding]:
    """Whether the prior is better than a constant, and as good on held-out captions."""
    name = f"{evidence.prior}/cosine_over_mean"
    known, new = (evidence.figure(name, split=split) for split in (TRAINING, HELD_OUT))
    if not evidence.is_better(name):
        yield Finding(
            "bad",
            "Prior",
            "The prior predicts held-out embeddings no better than their mean does: cosines of "
            f"{interval(new)} and {interval(evidence.figure(name, 'baseline'))}.",
            "Train the prior longer; if it is good on training captions, train on more pairs.",
        )
    elif known["low"] > new["high"]:
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
    captions,
    texture,
    saturation,
    clip,
    prior,
    memorisation,
)
