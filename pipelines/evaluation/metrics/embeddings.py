"""Metrics over CLIP embeddings: of CLIP itself, of the priors, and of the generated images."""

# N rows, R reference rows, E width of the CLIP embeddings

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from pipelines.evaluation.metrics.metric import Metric, Score, Split
from unclip.metrics import (
    Estimate,
    clip_scores,
    cmmd,
    constant,
    cosines,
    found_at_k,
    frechet_resampled,
    inside,
    mean_of,
)

MIN_ROWS_FOR_DISTRIBUTIONS = 8  # statistics of fewer rows are meaningless
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
            meaning=f"share of captions whose own image is {nearest(rank)} of {{count}} by CLIP",
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
            meaning="share of predicted embeddings whose own image is "
            f"{nearest(rank)} of {{count}}",
        )


def retrieval(split: Split, *, queries: str, rank: int) -> Score | None:
    """How often a row's own image is among the `rank` nearest; None if a miss is impossible."""
    if rank >= len(split.samples):
        return None
    embeds = split.samples.embeds
    found = found_at_k(embeds(queries), embeds("image_embeds"), k=rank)
    return Score(mean_of(found), constant(rank / len(split.samples)))


def nearest(rank: int) -> str:
    """The first `rank` of a ranking, in words."""
    return "the nearest" if rank == 1 else f"among the {rank} nearest"


def frechet(generated: Tensor, real: Tensor) -> Estimate:
    """The Fréchet distance of generated images to real ones."""
    return lambda weights: frechet_resampled(generated, real, weights)


def unbiased_cmmd(generated: Tensor, real: Tensor) -> Estimate:
    """The unbiased squared maximum mean discrepancy of generated and real images."""
    return lambda weights: cmmd(generated, real, weights=weights)


def precision(generated: Tensor, real: Tensor) -> Estimate:
    """The share of generated images that lie among real ones."""
    return mean_of(inside(generated, real))


def recall(generated: Tensor, real: Tensor) -> Estimate:
    """The share of real images that lie among generated ones."""
    return mean_of(inside(real, generated))


def fidelity_metrics() -> Iterator[Metric]:
    """How far the distribution of generated images is from that of real images."""
    make = partial(
        by_clip,
        baseline_name="untrained models",
        reference_name="{reference_count} real training images",
    )
    lower = partial(make, higher_is_better=False)
    yield lower(
        name="fidelity/frechet_distance",
        score=partial(fidelity, measure=frechet),
        meaning="Fréchet distance (as in FID) between generated and real images over CLIP "
        "features; it falls as their number grows",
    )
    yield lower(
        name="fidelity/cmmd",
        score=partial(fidelity, measure=unbiased_cmmd),
        meaning="maximum mean discrepancy between the CLIP features of generated and real images",
    )
    yield make(
        name="fidelity/precision",
        score=partial(fidelity, measure=precision),
        meaning="share of generated images that lie among real ones",
    )
    yield make(
        name="fidelity/recall",
        score=partial(fidelity, measure=recall),
        meaning="share of real images that lie among generated ones",
    )


def fidelity(split: Split, *, measure: Callable[[Tensor, Tensor], Estimate]) -> Score | None:
    """`measure` of (generated, real) embeddings, with untrained models as the baseline.

    None if there are fewer than `MIN_ROWS_FOR_DISTRIBUTIONS` rows.
    """
    count = split.reference_count
    if count < MIN_ROWS_FOR_DISTRIBUTIONS:
        return None
    embeds = split.samples.embeds
    real = embeds("image_embeds")
    floor = measure(split.reference.embeds[:count], real[:count])
    return Score(
        measure(embeds("generated_embeds"), real),
        baseline=measure(embeds("untrained_embeds"), real),
        reference=lambda weights: floor(weights[:, :count]),
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
