"""Runs the search for near duplicates on workers; see `pipelines.embeddings.near_duplicates`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipelines.artifacts import EmbeddingShards, PairShards
from pipelines.core.folder import Folder
from pipelines.core.stage import Context
from pipelines.data.out_of_core import Budget
from pipelines.data.repeats import Repeats
from pipelines.embeddings.near_duplicates import SIMILAR, CompareWorker, drop_near_duplicates
from pipelines.embeddings.partitions import (
    PARTITIONS,
    WORK,
    AssignWorker,
    SampleWorker,
    assign_groups,
    count_partitions,
    sampled,
    train_partitions,
)


def find_near_duplicates(
    ctx: Context, pairs: PairShards, embeddings: EmbeddingShards, threshold: float
) -> Repeats:
    """Which embeddings repeat better ones; `Repeats.url` refers to shards in the order of names.

    threshold: minimum cosine of two near duplicates.
    """
    groups = assign_groups({name: entry.rows for name, entry in embeddings.shards.items()})
    samples = ctx.map_shards(
        SampleWorker(embeddings),
        {f"{WORK}/sample-{number:05d}": group for number, group in enumerate(groups)},
        schema=sampled(embeddings.width),
        unit="groups sampled",
    )
    ctx.call(train_partitions, ctx.folder, list(samples), embeddings)
    images = {name: pairs.url(name) for name in embeddings.shards}
    assigned = ctx.map_shards(
        AssignWorker(embeddings, images, ctx.folder, threshold),
        {f"{WORK}/assigned-{number:05d}": group for number, group in enumerate(groups)},
        schema=PARTITIONS,
        unit="groups assigned",
    )
    files = tuple((name, record.metadata["file"]) for name, record in assigned.items())
    partitions = range(count_partitions(embeddings.total_rows))
    similar = ctx.map_shards(
        CompareWorker(ctx.folder, files, threshold),
        {f"{WORK}/similar-{number:05d}": number for number in partitions},
        schema=SIMILAR,
        unit="partitions",
    )
    names = sorted(embeddings.shards)
    repeats: Repeats = ctx.call(_decide, ctx.folder, list(similar), threshold, names)
    Folder(ctx.folder.file(WORK)).remove()
    return repeats


def _decide(
    folder: Folder, partitions: Sequence[str], threshold: float, names: list[str]
) -> Repeats:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "repeats.parquet"
        drop_near_duplicates(folder, partitions, threshold, path, Budget.of_worker())
        return Repeats.publish(path, folder, names)
