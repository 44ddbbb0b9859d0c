"""Figures of each variant of a study, with intervals, and how it compares with the standard one."""

# N captions, D features

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.artifacts.schema import features_of
from pipelines.core.folder import Folder
from pipelines.evaluation.images import decode_thumbnails
from pipelines.evaluation.metrics.against_real import kernel_distance
from pipelines.evaluation.metrics.colour import (
    colour_distances,
    foreground_colours,
    shares_closer_to_own,
)
from pipelines.evaluation.metrics.metric import Figure, weights_of
from pipelines.evaluation.rows import input_file
from pipelines.evaluation.samples import to_matrix
from pipelines.study.draw import IMAGE
from pipelines.study.variants import Variant
from unclip.metrics import Estimate, clip_scores, mean_of

Record = dict[str, Any]
CLIP_SCORE, COLOUR = "clip_score", "closer_in_colour"
LOWER_IS_BETTER = ("kid",)  # ends of names


def measure(
    folder: Folder,
    names: Sequence[str],
    variants: Sequence[Variant],
    judges: Sequence[str],
    standard: str,
) -> list[Record]:
    """A record for each variant: its settings, its figures, and their gain over the standard one.

    standard: a variant's name. A gain is positive where the variant is better.
    """
    captions = _read(folder, map(input_file, names)).sort_by("key")
    drawn = _read(folder, (f"{name}.parquet" for name in names))
    estimates = {
        variant.name: estimates_of(
            drawn.filter(pc.equal(drawn["variant"], variant.name)).sort_by("key"), captions, judges
        )
        for variant in variants
    }
    weights = weights_of(len(captions))
    values = {
        name: {metric: estimate(weights) for metric, estimate in by_metric.items()}
        for name, by_metric in estimates.items()
    }
    return [
        {
            **asdict(variant),
            "name": variant.name,
            "captions": len(captions),
            "figures": {m: Figure.of(v)._asdict() for m, v in values[variant.name].items()},
            "gains": {
                m: Figure.of((v - values[standard][m]) * sign_of(m))._asdict()
                for m, v in values[variant.name].items()
            },
        }
        for variant in variants
    ]


def estimates_of(
    drawn: pa.Table, captions: pa.Table, judges: Sequence[str]
) -> Mapping[str, Estimate]:
    """The estimates of one variant; the rows of both tables are in the order of their keys."""
    assert drawn["key"].equals(captions["key"])
    distances = {
        f"{judge}/kid": kernel_distance(
            to_matrix(drawn[features_of(IMAGE, judge)]),
            to_matrix(captions[features_of("original", judge)]),
        )
        for judge in judges
    }
    colours = colour_distances(
        foreground_colours(decode_thumbnails(drawn["thumbnail"].to_pylist())),
        foreground_colours(decode_thumbnails(captions["original_thumbnail"].to_pylist())),
    )
    scores = clip_scores(to_matrix(drawn["image_embeds"]), to_matrix(captions["text_embeds"]))
    return {
        **distances,
        COLOUR: mean_of(shares_closer_to_own(colours)),
        CLIP_SCORE: mean_of(scores),
    }


def sign_of(metric: str) -> int:
    """1 if a higher value is better, else -1."""
    return -1 if metric.endswith(LOWER_IS_BETTER) else 1


def _read(folder: Folder, files: Iterable[str]) -> pa.Table:
    return pa.concat_tables([folder.read_table(file) for file in files])
