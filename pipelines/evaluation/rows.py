"""Choose the captions to evaluate, and gather the inputs of each before images are generated."""

import heapq
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.inputs import Sources

log = logging.getLogger(__name__)

INPUTS = ".inputs"  # one file for each shard of samples; deleted when the stage is done
# image_embeds of training pairs outside the samples; if there are none, of the training samples.
REFERENCE = f"{INPUTS}/reference.parquet"

Values = dict[str, Any]  # one row, by column


class Row(NamedTuple):
    """Where a pair is stored.

    Rows are ordered by key. Keys are hashes, so the first n rows are a random sample.
    """

    key: str
    held_out: bool
    shard: str
    position: int


def gather(sources: Sources, config: EvaluateConfig, folder: Folder) -> list[str]:
    """Write an input file for each shard of samples, and the reference; returns the shards' names.

    Rows are in the order of the pairs' shards, so each of these is read about once. Raises
    `PipelineError` if a split has too few pairs.
    """
    held_out = choose(sources.selection, config.held_out_samples, held_out=True)
    known = choose(
        sources.selection, config.training_samples + config.reference_rows, held_out=False
    )
    training, others = known[: config.training_samples], known[config.training_samples :]
    embeds = read_rows(sources.embeddings, [*held_out, *known])
    reference = [embeds[row.key]["image_embeds"] for row in others or training]
    _write(folder, REFERENCE, [{"image_embeds": vector} for vector in reference])
    extras = {
        **_extras(held_out, embeds, config.probe_samples),
        **_extras(training, embeds, config.probe_samples),
    }
    names = []
    in_stored_order = sorted([*held_out, *training], key=lambda row: (row.shard, row.position))
    for number, batch in enumerate(_batches(in_stored_order, config.batch_size)):
        pairs = read_rows(sources.pairs, batch, ["key", "caption", "image"])
        rows = [{**pairs[row.key], **embeds[row.key], **extras[row.key]} for row in batch]
        names.append(shard_name(number))
        _write(folder, input_file(names[-1]), rows)
    log.info(
        "Evaluating %d held-out and %d training captions in %d shards, with %d reference rows",
        len(held_out),
        len(training),
        len(names),
        len(reference),
    )
    return names


def shard_name(number: int) -> str:
    """The name of a shard of samples; numbers start from 0, and there is at least one shard."""
    return f"samples-{number:05d}"


def input_file(name: str) -> str:
    """The file with the inputs of a shard of samples."""
    return f"{INPUTS}/{name}.parquet"


def choose(selection: SelectionShards, limit: int, *, held_out: bool) -> list[Row]:
    """The rows of one split with the smallest keys, in order, at most `limit`.

    Raises `PipelineError` if the split has fewer than two.
    """
    chosen: list[Row] = []
    for shard in selection.rows:
        rows = (
            Row(r["key"], r["held_out"], shard, r["row"])
            for r in selection.read(shard).to_pylist()
            if r["held_out"] is held_out
        )
        chosen = heapq.nsmallest(limit, [*chosen, *rows])
    if len(chosen) < 2:
        raise PipelineError(
            f"Stage evaluate: the {'held-out' if held_out else 'training'} split has {len(chosen)} "
            "pairs, but comparing needs at least 2. Start from more pairs, select less strictly, "
            "or change select.held_out_fraction."
        )
    return chosen


def read_rows(
    shards: PairShards | EmbeddingShards, rows: Iterable[Row], columns: list[str] | None = None
) -> dict[str, Values]:
    """The values of some rows, by key. Raises `PipelineError` if a row has another key."""
    by_shard: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_shard[row.shard].append(row)
    values: dict[str, Values] = {}
    for shard, wanted in by_shard.items():
        table = shards.read(shard, columns).take([row.position for row in wanted])
        for row, found in zip(wanted, table.to_pylist(), strict=True):
            if found["key"] != row.key:
                raise PipelineError(
                    f"{shards.folder.file(shard)}.parquet has {found['key']} in row "
                    f"{row.position}, but the selection has {row.key}: they were made from "
                    "different pairs. Run the pipeline again with --from embed."
                )
            values[row.key] = found
    return values


def _extras(rows: Sequence[Row], embeds: dict[str, Values], probes: int) -> dict[str, Values]:
    """By key: the split, whether the row is a probe, and the embedding of another row."""
    others = [*rows[1:], rows[0]]  # keys are random, so the next row is a random one
    return {
        row.key: {
            "held_out": row.held_out,
            "probe": position < probes,
            "other_image_embeds": embeds[other.key]["image_embeds"],
            "other_image_norm": embeds[other.key]["image_norm"],
        }
        for position, (row, other) in enumerate(zip(rows, others, strict=True))
    }


def _batches(rows: Sequence[Row], size: int) -> Iterable[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _write(folder: Folder, name: str, rows: list[Values]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), local)
        folder.publish(local, name)
