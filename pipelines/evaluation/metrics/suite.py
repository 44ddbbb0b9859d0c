"""All metrics of an evaluation, and their values on both splits."""

import logging
from collections.abc import Iterator, Sequence

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
from pipelines.evaluation.metrics.metric import Measurement, Metric, Split
from pipelines.evaluation.samples import HELD_OUT, SPLITS, Samples, read_reference

log = logging.getLogger(__name__)


def metrics_of(priors: Sequence[str]) -> Iterator[Metric]:
    """All metrics, in the order of the report.

    priors: their names; the first drew the images.
    """
    yield from clip_metrics()
    for number, name in enumerate(priors):
        yield from prior_metrics(name, predicted_by(name) if number else "predicted_image_embeds")
    yield from fidelity_metrics()
    yield from alignment_metrics()
    yield from decoder_metrics()
    yield from colour_metrics()


def measure_split(split: Split, priors: Sequence[str]) -> list[Measurement]:
    """Every metric for which the split has enough rows."""
    measurements = []
    for metric in metrics_of(priors):
        measurement = metric.measure(split)
        if measurement is None:
            count = len(split.samples)
            log.info("%s/%s: %d rows are too few to measure it", split.name, metric.name, count)
        else:
            measurements.append(measurement)
    return measurements


def measure(folder: Folder, names: Sequence[str], priors: Sequence[str]) -> list[Measurement]:
    """Every metric of both splits.

    names: of the sample shards in `folder`. priors: their names; the first drew the images.
    """
    reference = read_reference(folder)
    measurements = []
    for name in SPLITS:
        samples = Samples.read(folder, names, held_out=name == HELD_OUT, other_priors=priors[1:])
        measurements += measure_split(Split(name, samples, reference), priors)
    return measurements
