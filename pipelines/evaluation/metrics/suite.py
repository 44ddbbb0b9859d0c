"""All metrics of an evaluation, and their values on both splits."""

from collections.abc import Iterator
from typing import NamedTuple

from pipelines.artifacts.schema import predicted_by
from pipelines.core.folder import Folder
from pipelines.evaluation.metrics.colour import colour_metrics
from pipelines.evaluation.metrics.decoder import decoder_metrics
from pipelines.evaluation.metrics.embeddings import (
    alignment_metrics,
    clip_metrics,
    fidelity_metrics,
    prior_metrics,
)
from pipelines.evaluation.metrics.judges import judge_metrics
from pipelines.evaluation.metrics.metric import Measurement, Metric, Split, TooFewRows
from pipelines.evaluation.metrics.pixels import pixel_metrics
from pipelines.evaluation.rows import Names
from pipelines.evaluation.samples import HELD_OUT, SPLITS, Reference, Samples


class Subjects(NamedTuple):
    """The names of what is measured, and of what judges."""

    priors: tuple[str, ...]  # the first drew the images
    judges: tuple[str, ...]


def metrics_of(subjects: Subjects) -> Iterator[Metric]:
    """All metrics, in the order of the report: independent ones first."""
    for judge in subjects.judges:
        yield from judge_metrics(judge)
    yield from colour_metrics()
    yield from pixel_metrics()
    yield from clip_metrics()
    for number, name in enumerate(subjects.priors):
        yield from prior_metrics(name, predicted_by(name) if number else "predicted_image_embeds")
    yield from fidelity_metrics()
    yield from alignment_metrics()
    yield from decoder_metrics()


class Measured(NamedTuple):
    """The metrics of one or both splits."""

    measurements: list[Measurement]
    notes: list[str]  # which metrics need more rows, and how many


def measure_split(split: Split, subjects: Subjects) -> Measured:
    """Every metric for which the split has enough rows."""
    measurements, left_out = [], []
    for metric in metrics_of(subjects):
        try:
            measurements.append(metric.measure(split))
        except TooFewRows as error:
            left_out.append(f"{metric.name} ({error})")
    note = (
        f"the {len(split.samples)} captions of the split {split.name} are too few for "
        f"{', '.join(left_out)}; raise evaluate.{split.name}_samples, or start from more pairs"
    )
    return Measured(measurements, [note] if left_out else [])


def measure(folder: Folder, names: Names, subjects: Subjects) -> Measured:
    """Every metric of both splits, from the shards of these names."""
    reference = Reference.read(folder, names.reference)
    measured = Measured([], [])
    for name in SPLITS:
        samples = Samples.read(
            folder,
            names.samples,
            held_out=name == HELD_OUT,
            other_priors=subjects.priors[1:],
            judges=subjects.judges,
        )
        found = measure_split(Split(name, samples, reference), subjects)
        measured.measurements.extend(found.measurements)
        measured.notes.extend(found.notes)
    return measured
