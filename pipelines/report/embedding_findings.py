"""Findings about the CLIP, the prior and the data, from the embeddings that describe themselves."""

from collections.abc import Iterator

from pipelines.evaluation.samples import TRAINING
from pipelines.report.findings import Evidence, Finding, interval
from pipelines.report.page import number, percent

COLLAPSED = 1 / 4  # effective rank of the image embeddings, of their width
MANY_DUPLICATES = 0.2  # share of the pairs


def clip(evidence: Evidence) -> Iterator[Finding]:
    """Whether the CLIP recognises pairs, also new ones, with all dimensions of its embeddings."""
    name = "clip/retrieval_at_1"
    known, new = evidence.figure(name, split=TRAINING), evidence.figure(name)
    chance = evidence.figure(name, "baseline")
    found = (
        f"The caption's own image is the nearest one for {percent(known['value'])} of the training "
        f"captions and {percent(new['value'])} of the held-out ones ({percent(chance['value'])} by "
        "chance)."
    )
    if not evidence.is_better(name):
        text = f"The CLIP does not recognise held-out pairs. {found}"
        yield Finding("bad", "CLIP", text, "Train the CLIP longer, or use a pretrained one.")
        return
    rank, width = evidence.components["effective_rank"], evidence.components["width"]
    if rank < COLLAPSED * width:
        overfits = known["low"] > 2 * new["high"]
        yield Finding(
            "bad",
            "CLIP",
            f"The image embeddings have collapsed: their effective rank is {number(rank)} of "
            f"{width}, enough for colours and outlines, not for objects. {found}"
            f"{' The CLIP also overfits.' if overfits else ''}",
            "Use a pretrained CLIP, or train it on more pairs or more varied captions."
            if overfits
            else "Train the CLIP longer, or use a pretrained one.",
        )


def prior(evidence: Evidence) -> Iterator[Finding]:
    """Whether the prior is better than a constant, and as good on held-out captions."""
    name = f"{evidence.prior}/cosine_over_mean"
    known, new = evidence.figure(name, split=TRAINING), evidence.figure(name)
    if not evidence.is_better(name):
        yield Finding(
            "bad",
            "Prior",
            "The prior predicts held-out embeddings no better than their mean does: cosines of "
            f"{interval(new)} and {interval(evidence.figure(name, 'baseline'))}.",
            "Train the prior longer; if it is good on training captions, train on more pairs.",
        )
    elif known["low"] > new["high"]:
        yield _gap(evidence, known, new)


def _gap(evidence: Evidence, known: dict[str, float], new: dict[str, float]) -> Finding:
    """The prior is better on training captions: by its own fault, or by the CLIP's."""
    text = (
        f"The cosine of the predicted embedding to the image's is {interval(known)} for training "
        f"captions and {interval(new)} for held-out ones."
    )
    own, of_clip = (evidence.figure(f"{who}/retrieval_at_1") for who in (evidence.prior, "clip"))
    if own["high"] >= of_clip["low"]:
        shares = f"{interval(own, percent)} and {interval(of_clip, percent)}"
        text += (
            " But for held-out captions, it finds the caption's own image about as often as the "
            f"text embedding of the CLIP does ({shares}): the CLIP limits it."
        )
        return Finding("fair", "Prior", text)
    advice = "Train on more pairs, or take fewer steps with the prior."
    return Finding("bad", "Prior", f"The prior overfits. {text}", advice)


def duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Whether the selection dropped many pairs because their embeddings look alike."""
    share = evidence.near_duplicates
    if share > MANY_DUPLICATES:
        yield Finding(
            "bad",
            "Data",
            f"The selection dropped {percent(share)} of the pairs as near duplicates.",
            "Look at them in the data section. If they show different things, the CLIP cannot tell "
            "them apart: train it longer.",
        )
