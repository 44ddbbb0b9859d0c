"""Metrics over CLIP embeddings: of CLIP itself, of the priors, and of the generated images."""

# N rows, E width of the CLIP embeddings

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from pipelines.evaluation.metrics.against_real import (
    against_real,
    frechet,
    precision,
    recall,
    unbiased_cmmd,
)
from pipelines.evaluation.metrics.metric import Metric, Score, Split, TooFewRows
from pipelines.evaluation.samples import CLIP
from unclip.metrics import clip_scores, constant, cosines, found_at_k, mean_of

RANKS = (1, 10)
# The CLIP conditions the models, so it praises what it asked for.
by_clip = partial(Metric, independent=False)


def clip_metrics() -> Iterator[Metric]:
    """How well the frozen CLIP matches captions to images, which limits all other metrics."""
    for rank in RANKS:
        yield by_clip(
            name=f"clip/retrieval_at_{rank}",
            score=partial(retrieval, queries="text_embeds", rank=rank),
            baseline_name="chance",
            meaning=f"share of captions whose own image is {nearest(rank)} of all by CLIP",
        )


def prior_metrics(name: str, column: str) -> Iterator[Metric]:
    """How close the predictions of the prior `name`, in `column`, are to the image embeddings."""
    meaning = "cosine of the embedding that the prior predicts to the image's own"

    def over_shuffled(split: Split) -> Score:
        predicted, images = split.samples.embeds(column), split.samples.embeds("image_embeds")
        return Score(
            mean_of(cosines(predicted, images)), mean_of(cosines(shuffled(predicted), images))
        )

    def over_mean(split: Split) -> Score:
        predicted, images = split.samples.embeds(column), split.samples.embeds("image_embeds")
        mean = split.reference.embeds.mean(dim=0).expand_as(images)
        return Score(mean_of(cosines(predicted, images)), mean_of(cosines(mean, images)))

    yield by_clip(
        name=f"{name}/cosine",
        score=over_shuffled,
        baseline_name="the prediction for another caption",
        meaning=meaning,
    )
    yield by_clip(
        name=f"{name}/cosine_over_mean",
        score=over_mean,
        baseline_name="the mean embedding of training images",
        meaning=meaning,
    )
    for rank in RANKS:
        yield by_clip(
            name=f"{name}/retrieval_at_{rank}",
            score=partial(retrieval, queries=column, rank=rank),
            baseline_name="chance",
            meaning=f"share of predicted embeddings whose own image is {nearest(rank)} of all",
        )


def retrieval(split: Split, *, queries: str, rank: int) -> Score:
    """How often a row's own image is among the `rank` nearest.

    Raises `TooFewRows` if a miss is impossible.
    """
    if rank >= len(split.samples):
        raise TooFewRows(rank + 1)
    embeds = split.samples.embeds
    found = found_at_k(embeds(queries), embeds("image_embeds"), k=rank)
    return Score(mean_of(found), constant(rank / len(split.samples)))


def nearest(rank: int) -> str:
    """The first `rank` of a ranking, in words."""
    return "the nearest" if rank == 1 else f"among the {rank} nearest"


def fidelity_metrics() -> Iterator[Metric]:
    """How far the distribution of generated images is from that of real images."""
    make = partial(
        by_clip,
        baseline_name="untrained models",
        reference_name="{reference_count} real training images",
    )
    lower = partial(make, higher_is_better=False)
    compared = partial(against_real, judge=CLIP)
    yield lower(
        name="fidelity/frechet_distance",
        score=partial(compared, measure=frechet),
        meaning="Fréchet distance (as in FID) between generated and real images over CLIP "
        "features; it falls as their number grows",
    )
    yield lower(
        name="fidelity/cmmd",
        score=partial(compared, measure=unbiased_cmmd),
        meaning="maximum mean discrepancy between the CLIP features of generated and real images",
    )
    yield make(
        name="fidelity/precision",
        score=partial(compared, measure=precision),
        is_descriptive=True,
        meaning="share of generated images that lie among real ones; equal grey images can reach "
        "100% too, so read it together with recall",
    )
    yield make(
        name="fidelity/recall",
        score=partial(compared, measure=recall),
        meaning="share of real images that lie among generated ones",
    )


def alignment_metrics() -> Iterator[Metric]:
    """Whether generated images show what the caption says."""

    def score(split: Split, *, untrained: bool) -> Score:
        embeds = split.samples.embeds
        generated, texts = embeds("generated_embeds"), embeds("text_embeds")
        baseline = (
            (embeds("untrained_embeds"), texts) if untrained else (generated, shuffled(texts))
        )
        return Score(
            mean_of(clip_scores(generated, texts)),
            baseline=mean_of(clip_scores(*baseline)),
            reference=mean_of(clip_scores(embeds("image_embeds"), texts)),
        )

    make = partial(
        by_clip,
        reference_name="real images",
        meaning="100 times the CLIP cosine of the generated image to its caption",
    )
    yield make(
        name="generated/clip_score",
        score=partial(score, untrained=False),
        baseline_name="another caption",
    )
    yield make(
        name="generated/clip_score_over_untrained",
        score=partial(score, untrained=True),
        baseline_name="untrained models",
    )


def shuffled(vectors: Tensor) -> Tensor:
    """Each row replaced by the one before it, which is a random one because keys are random."""
    return vectors.roll(1, dims=0)
