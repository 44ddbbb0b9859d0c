"""The metrics of one split, each with a baseline that nothing learned would reach."""

# N rows, P of them probes, R reference rows, E width of the CLIP embeddings

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from pipelines.evaluation.colour import distances, foreground_colours, share_closer_to_own
from pipelines.evaluation.metric import Metric
from pipelines.evaluation.samples import Samples
from unclip.metrics import (
    clip_score,
    cmmd,
    cosines,
    frechet_distance,
    precision_recall,
    retrieval_at_k,
)

LEAST_FOR_DISTRIBUTIONS = 8  # rows; of fewer, a covariance says nothing
RANKS = (1, 10)
PRIORS = {  # subject of metrics → the column of what it predicts
    "prior": "predicted_image_embeds",
    "second_prior": "second_predicted_image_embeds",
}


def precision(generated: Tensor, real: Tensor) -> float:
    """The share of generated pictures that lie among real ones."""
    return precision_recall(real, generated).precision


def recall(generated: Tensor, real: Tensor) -> float:
    """The share of real pictures that lie among generated ones."""
    return precision_recall(real, generated).recall


# name, measure of (generated, real), whether more is better, meaning
DISTRIBUTIONS: tuple[tuple[str, Callable[[Tensor, Tensor], float], bool, str], ...] = (
    (
        "frechet_distance",
        frechet_distance,
        False,
        "Fréchet distance (as in FID) of generated to real pictures over CLIP features; it falls "
        "with their number",
    ),
    ("cmmd", cmmd, False, "maximum mean discrepancy of generated to real pictures' CLIP features"),
    ("precision", precision, True, "share of generated pictures that lie among real ones"),
    ("recall", recall, True, "share of real pictures that lie among generated ones"),
)


@dataclass(frozen=True)
class MetricSuite:
    """The samples of a split, and real pictures of training pairs that are not among them."""

    split: str
    samples: Samples
    reference: Tensor  # image_embeds of training pairs, (R, E)

    def measured(self) -> Iterator[Metric]:
        """All metrics of the split."""
        yield from self.retrieval()
        for subject, column in PRIORS.items():
            if self.samples.has(column):
                yield from self.prior(subject, column)
        yield from self.fidelity()
        yield from self.alignment()
        yield from self.decoder()
        yield from self.colour()

    def retrieval(self) -> Iterator[Metric]:
        """How well the frozen CLIP knows these captions: what all else builds on."""
        texts, images = self.samples.embeds("text_embeds"), self.samples.embeds("image_embeds")
        for rank in self.ranks():
            found = retrieval_at_k(texts, images, k=rank)
            yield self.make(
                f"clip/retrieval_at_{rank}",
                found.recall,
                baseline=found.chance,
                baseline_name="chance",
                meaning=f"share of captions whose own picture is among the {rank} nearest of "
                f"{len(images)} by CLIP",
            )

    def prior(self, subject: str, column: str) -> Iterator[Metric]:
        """Whether a prior's embeddings are those of the caption's picture."""
        predicted = self.samples.embeds(column)
        images = self.samples.embeds("image_embeds")
        make = partial(
            self.make,
            value=cosine(predicted, images),
            meaning="cosine of the embedding that the prior predicts to the picture's own",
        )
        yield make(
            f"{subject}/cosine",
            baseline=cosine(shuffled(predicted), images),
            baseline_name="the prediction for another caption",
        )
        mean = self.reference.mean(dim=0).expand_as(images)
        yield make(
            f"{subject}/cosine_over_mean",
            baseline=cosine(mean, images),
            baseline_name="the mean embedding of training pictures",
        )
        for rank in self.ranks():
            found = retrieval_at_k(predicted, images, k=rank)
            yield self.make(
                f"{subject}/retrieval_at_{rank}",
                found.recall,
                baseline=found.chance,
                baseline_name="chance",
                meaning=f"share of predicted embeddings whose own picture is among the {rank} "
                f"nearest of {len(images)}",
            )

    def fidelity(self) -> Iterator[Metric]:
        """How far the distribution of generated pictures is from that of real ones."""
        real = self.samples.embeds("image_embeds")
        count = min(len(real), len(self.reference))
        if count < LEAST_FOR_DISTRIBUTIONS:
            return
        for name, measure, higher_is_better, meaning in DISTRIBUTIONS:
            yield self.make(
                f"fidelity/{name}",
                measure(self.samples.embeds("generated_embeds"), real),
                baseline=measure(self.samples.embeds("untrained_embeds"), real),
                baseline_name="untrained models",
                higher_is_better=higher_is_better,
                reference=measure(self.reference[:count], real),
                reference_name=f"{count} real training pictures",
                meaning=meaning,
            )

    def alignment(self) -> Iterator[Metric]:
        """Whether generated pictures show what the caption says."""
        texts = self.samples.embeds("text_embeds")
        generated = self.samples.embeds("generated_embeds")
        make = partial(
            self.make,
            value=clip_score(generated, texts),
            reference=clip_score(self.samples.embeds("image_embeds"), texts),
            reference_name="real pictures",
            meaning="100 times the CLIP cosine of the generated picture to its caption",
        )
        yield make(
            "generated/clip_score",
            baseline=clip_score(generated, shuffled(texts)),
            baseline_name="another caption",
        )
        yield make(
            "generated/clip_score_over_untrained",
            baseline=clip_score(self.samples.embeds("untrained_embeds"), texts),
            baseline_name="untrained models",
        )

    def decoder(self) -> Iterator[Metric]:
        """Whether the decoder paints what the embedding says, no caption being given."""
        probes = self.samples.probes
        images, original = probes.embeds("image_embeds"), probes.thumbnails("original")
        by_cosine = partial(
            self.make,
            value=cosine(probes.embeds("from_true_embedding_embeds"), images),
            meaning="CLIP cosine to the original of a picture decoded from its embedding",
        )
        by_error = partial(
            self.make,
            value=squared_error(probes.thumbnails("from_true_embedding"), original),
            higher_is_better=False,
            meaning="mean squared error at 16 pixels of a picture decoded from the original's "
            "embedding, colours in [0, 1]",
        )
        for other, suffix, message in (
            ("from_shuffled_embedding", "", "decoded from another picture's embedding"),
            ("generated", "_over_text", "drawn from the caption"),
        ):
            yield by_cosine(
                f"decoder/clip_cosine{suffix}",
                baseline=cosine(probes.embeds(f"{other}_embeds"), images),
                baseline_name=message,
            )
            yield by_error(
                f"decoder/squared_error{suffix}",
                baseline=squared_error(probes.thumbnails(other), original),
                baseline_name=message,
            )

    def colour(self) -> Iterator[Metric]:
        """Whether generated pictures have the colour of the caption's own picture."""
        apart = distances(
            foreground_colours(self.samples.thumbnails("generated")),
            foreground_colours(self.samples.thumbnails("original")),
        )  # (N, N)
        yield self.make(
            "colour/distance",
            float(np.diag(apart).mean()),
            baseline=float(np.diag(np.roll(apart, 1, axis=1)).mean()),
            baseline_name="another caption's original",
            higher_is_better=False,
            meaning="distance in RGB of the generated foreground's mean colour to the original's",
        )
        yield self.make(
            "colour/closer_to_own",
            share_closer_to_own(apart),
            baseline=0.5,
            baseline_name="chance",
            meaning="how often the generated colour is nearer to the caption's own original than "
            "to another original",
        )

    def ranks(self) -> list[int]:
        """The ranks at which a miss is possible."""
        return [rank for rank in RANKS if rank < len(self.samples)]

    def make(
        self,
        name: str,
        value: float,
        *,
        baseline: float,
        baseline_name: str,
        meaning: str,
        higher_is_better: bool = True,
        reference: float | None = None,
        reference_name: str | None = None,
    ) -> Metric:
        """A metric of this split."""
        return Metric(
            split=self.split,
            name=name,
            value=value,
            baseline=baseline,
            baseline_name=baseline_name,
            higher_is_better=higher_is_better,
            meaning=meaning,
            reference=reference,
            reference_name=reference_name,
        )


def cosine(vectors: Tensor, others: Tensor) -> float:
    """The mean cosine of paired rows, each (N, E)."""
    return cosines(vectors, others).mean().item()


def shuffled(vectors: Tensor) -> Tensor:
    """Each row replaced by its neighbour's; rows are in the order of random keys."""
    return vectors.roll(1, dims=0)


def squared_error(pictures: np.ndarray, others: np.ndarray) -> float:
    """The mean over all values of two arrays of pictures."""
    return float(np.square(pictures - others).mean())
