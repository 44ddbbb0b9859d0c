"""Choose the captions to evaluate, and gather the inputs of each before images are generated."""

import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.artifacts.schema import SELECTION
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.scan import scan
from pipelines.core.tables import ParquetRows, to_numpy
from pipelines.data.out_of_core import Budget, scratch_database
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.inputs import Sources

log = logging.getLogger(__name__)

INPUTS = ".inputs"  # one file for each shard; deleted when the stage is done
SAMPLES, REFERENCE = "samples", "reference"  # kinds of shards

READERS = 8  # shards that are read at the same time
VERDICT = pa.schema([SELECTION.field(n) for n in ("key", "row", "position", "held_out", "reason")])
SMALLEST_KEYS = """
SELECT key, shard, row, position FROM verdicts
WHERE reason IS NULL AND held_out = ? ORDER BY key LIMIT ?
"""
EMBEDDING_COLUMNS = ("key", "image_embeds", "image_norm", "text_embeds")

Values = dict[str, Any]  # one row, by column
T = TypeVar("T")


class Row(NamedTuple):
    """Where a pair is stored.

    Rows are ordered by key. Keys are hashes, so the first n rows are a random sample.
    """

    key: str
    held_out: bool
    shard: str
    row: int  # in the shard of pairs
    position: int  # in the shard of embeddings


class Names(NamedTuple):
    """The names of shards."""

    samples: list[str]
    reference: list[str]  # of training pairs outside the samples; without any, of the samples


def gather(sources: Sources, config: EvaluateConfig, folder: Folder) -> Names:
    """Write an input file for each shard of samples and of the reference; returns their names.

    Rows are in the order of the pairs' shards, so each of these is read about once. Raises
    `PipelineError` if a split has too few pairs.
    """
    held_out = choose(sources.selection, config.held_out_samples, held_out=True)
    known = choose(
        sources.selection, config.training_samples + config.reference_rows, held_out=False
    )
    training, others = known[: config.training_samples], known[config.training_samples :]
    embeds = read_rows(sources.embeddings, [*held_out, *known], EMBEDDING_COLUMNS, "position")
    for row in held_out + known:
        embeds[row.key]["held_out"] = row.held_out
    for rows in (held_out, training):
        _add_probes(rows, embeds, config.probe_samples)
    names = Names([], [])
    for kind, chosen in ((SAMPLES, held_out + training), (REFERENCE, others or training)):
        in_stored_order = sorted(chosen, key=lambda row: (row.shard, row.row))
        for number, batch in enumerate(batches(in_stored_order, config.batch_size)):
            pairs = read_rows(sources.pairs, batch, ("key", "caption", "image"), "row")
            name = shard_name(number, kind)
            (names.samples if kind == SAMPLES else names.reference).append(name)
            write_inputs(folder, name, [{**pairs[r.key], **embeds[r.key]} for r in batch])
    log.info(
        "Evaluating %d held-out and %d training captions, with %d reference rows",
        len(held_out),
        len(training),
        len(others or training),
    )
    return names


def shard_name(number: int, kind: str = SAMPLES) -> str:
    """The name of a shard; numbers start from 0, and there is at least one shard of each kind."""
    return f"{kind}-{number:05d}"


def input_file(name: str) -> str:
    """The file with the inputs of a shard."""
    return f"{INPUTS}/{name}.parquet"


def choose(selection: SelectionShards, limit: int, *, held_out: bool) -> list[Row]:
    """The rows of one split with the smallest keys, in order, at most `limit`.

    Raises `PipelineError` if the split has fewer than two.
    """
    with scratch_database(Budget.of_worker()) as db:
        verdicts = scan({name: selection.url(name) for name in selection.shards}, VERDICT)
        db.register("verdicts", verdicts)
        found = db.execute(SMALLEST_KEYS, [held_out, limit]).fetchall()
    chosen = [Row(key, held_out, *place) for key, *place in found]
    if len(chosen) < 2:
        raise PipelineError(
            f"Stage evaluate: the {'held-out' if held_out else 'training'} split has {len(chosen)} "
            "pairs, but comparing needs at least 2. Start from more pairs, select less strictly, "
            "or change select.held_out_fraction."
        )
    return chosen


def read_rows(
    shards: PairShards | EmbeddingShards,
    rows: Iterable[Row],
    columns: Sequence[str],
    where: Literal["row", "position"],
) -> dict[str, Values]:
    """The values of some rows, by key; vectors as arrays. Reads only row groups that hold any.

    where: the field of `Row` that says where a row is. Raises `PipelineError` if a row there has
    another key.
    """
    by_shard: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.shard, getattr(row, where))):
        by_shard[row.shard].append(row)

    def read(item: tuple[str, list[Row]]) -> list[Values]:
        shard, wanted = item
        positions = [getattr(row, where) for row in wanted]
        found = _values(ParquetRows(shards.url(shard), columns).take(positions))
        for row, values in zip(wanted, found, strict=True):
            if values["key"] != row.key:
                raise PipelineError(
                    f"{shards.url(shard)} has {values['key']} in row {getattr(row, where)}, but "
                    f"the selection has {row.key}: they were made from different pairs. Run the "
                    "pipeline again with --from embed."
                )
        return found

    with ThreadPoolExecutor(READERS) as pool:
        return {v["key"]: v for values in pool.map(read, by_shard.items()) for v in values}


def _values(table: pa.Table) -> list[Values]:
    """The rows of a table; vectors stay arrays, which take much less memory than lists."""
    columns = {
        name: to_numpy(table[name])
        if pa.types.is_fixed_size_list(table.schema.field(name).type)
        else table[name].to_pylist()
        for name in table.column_names
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _add_probes(rows: Sequence[Row], embeds: dict[str, Values], probes: int) -> None:
    """Add to each row whether it is a probe, and the embedding of another row."""
    others = [*rows[1:], rows[0]]  # keys are random, so the next row is a random one
    for position, (row, other) in enumerate(zip(rows, others, strict=True)):
        embeds[row.key] |= {
            "probe": position < probes,
            "other_image_embeds": embeds[other.key]["image_embeds"],
            "other_image_norm": embeds[other.key]["image_norm"],
        }


def batches(rows: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """The rows in order, at most `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def write_inputs(folder: Folder, name: str, rows: Sequence[Values]) -> None:
    """Write the inputs of a shard."""
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows)), local)
        folder.publish(local, input_file(name))
