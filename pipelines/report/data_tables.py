"""The small columns of all shards as tables on disk, each loaded in one pass.

Pictures are never read here. A row takes about 60 bytes of the disk in all.
"""

import logging
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipelines.artifacts import (
    EmbeddingShards,
    ListShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    VerdictShards,
)
from pipelines.artifacts.schema import OUTCOMES, SELECTION, VERDICTS
from pipelines.core.scan import scan
from pipelines.core.stage import Shards

log = logging.getLogger(__name__)

SAMPLE = 20_000  # pairs of the sample, those with the smallest keys
KEY_DIGITS = 8  # of a key's beginning, which decide whether a pair may be in the sample
MAX_TEXT = 200  # characters of a value of the list that are kept

OUTCOME_COLUMNS = ("key", "url", "reason", "attempts")
OUTCOME_TABLE = r"""
SELECT shard, number, key, reason, attempts,
       regexp_replace(
           regexp_extract(lower(left(url, 300)), '^[a-z][a-z0-9+.-]*://([^/?#]*)', 1), ':\d*$', ''
       ) AS host
FROM incoming
"""
PAIR_COLUMNS = ("key", "caption", "original_width", "original_height")
PAIR_TABLE = """
SELECT key, length(caption) AS chars, least(original_width, original_height) AS side,
       original_width / original_height AS ratio,
       CASE WHEN left(key, {digits}) <= '{limit}' THEN left(caption, {chars}) END AS sampled{extra}
FROM incoming
"""
VERDICT_COLUMNS = ("key", "reason", "repeats")
VERDICT_TABLE = "SELECT shard, number, key, reason, repeats FROM incoming"
SELECTION_COLUMNS = ("key", "row", "held_out", "reason", "repeats")
SELECTION_TABLE = 'SELECT shard, "row" AS number, key, held_out, reason, repeats FROM incoming'


@dataclass(frozen=True)
class Sources:
    """Every artifact that the data report reads."""

    urls: ListShards
    pairs: PairShards
    verdicts: VerdictShards
    embeddings: EmbeddingShards
    selection: SelectionShards
    pca: PcaBasisFile


def load_tables(database: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Make the tables `outcomes`, `pairs`, `verdicts` and `selection`.

    `outcomes`, `verdicts` and `selection` have the place of each row: the shard's name and the
    number of the row in the slice (outcomes) or in the shard of pairs (the others). In `pairs`,
    `column_name` names the extra columns of the list.
    """
    pairs = sources.pairs
    outcomes = {name: pairs.outcomes_url(name) for name in pairs.shards}
    _load(database, "outcomes", OUTCOME_TABLE, scan(outcomes, _part(OUTCOMES, OUTCOME_COLUMNS)))
    _load(database, "pairs", _pair_table(pairs), _scan_pairs(pairs))
    verdicts = scan_shards(sources.verdicts, _part(VERDICTS, VERDICT_COLUMNS))
    _load(database, "verdicts", VERDICT_TABLE, verdicts)
    selection = scan_shards(sources.selection, _part(SELECTION, SELECTION_COLUMNS))
    _load(database, "selection", SELECTION_TABLE, selection)


def scan_shards(shards: Shards, schema: pa.Schema) -> pa.RecordBatchReader:
    """The columns of a schema from all shards."""
    return scan({name: shards.url(name) for name in shards.shards}, schema)


def _scan_pairs(pairs: PairShards) -> pa.RecordBatchReader:
    """The columns of pairs; those of the list under new names, as any name may be taken."""
    rows = scan_shards(pairs, _part(pairs.schema(), (*PAIR_COLUMNS, *pairs.columns)))
    own = rows.schema.names[: len(rows.schema) - len(pairs.columns)]
    names = [*own, *map(column_name, range(len(pairs.columns)))]
    schema = pa.schema([f.with_name(name) for f, name in zip(rows.schema, names, strict=True)])
    return pa.RecordBatchReader.from_batches(schema, (b.rename_columns(names) for b in rows))


def column_name(index: int) -> str:
    """The name in the table `pairs` of a column of the list."""
    return f"column_{index}"


def _part(schema: pa.Schema, names: tuple[str, ...]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])


def _load(
    database: duckdb.DuckDBPyConnection, table: str, query: str, rows: pa.RecordBatchReader
) -> None:
    database.register("incoming", rows)
    database.execute(f"CREATE TABLE {table} AS {query}")
    database.unregister("incoming")
    log.info("loaded the columns of %s", table)


def _pair_table(pairs: PairShards) -> str:
    return PAIR_TABLE.format(
        digits=KEY_DIGITS,
        limit=_sample_limit(pairs.total_rows),
        chars=MAX_TEXT,
        extra="".join(map(_extra_column, range(len(pairs.columns)), pairs.columns.values())),
    )


def _extra_column(index: int, kind: str) -> str:
    name = column_name(index)
    return f", {name}" if kind == "number" else f", left({name}, {MAX_TEXT}) AS {name}"


def _sample_limit(rows: int) -> str:
    """The beginning of a key up to which about `2 * SAMPLE` keys are: keys are random digits."""
    share = min(1.0, 2 * SAMPLE / max(rows, 1))
    return f"{int(share * (16**KEY_DIGITS - 1)):0{KEY_DIGITS}x}"
