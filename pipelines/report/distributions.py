"""Distributions over all pairs, counted by the database: sizes, captions, languages, columns."""

# A histogram has E ascending edges and E + 1 counts: below the first edge, between two edges, above
# the last one. A value at an edge counts below it, except that whole numbers count above.

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.artifacts import EmbeddingShards
from pipelines.data.rules.captions import language_identifier
from pipelines.report.data_tables import SAMPLE, column_name, scan_shards

Values = dict[str, Any]
Edges = Sequence[float]

SIDES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)  # pixels
RATIOS = (0.2, 0.33, 0.5, 0.66, 0.75, 0.9, 1.1, 1.33, 1.5, 2, 3, 5)  # width over height
CHARS = (1, 5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000, 3000)
SIMILARITIES = tuple(step / 50 for step in range(-49, 50))  # cosines
COLUMN_BINS = 20
MIN_PROBABILITY = 0.5  # of a language; below it, the caption counts as uncertain
TOP_VALUES = 10

# A number column's edges lie between its outer percentiles in the sample: one absurd value would
# otherwise put all others into one bin.
COLUMN_EDGES = """
SELECT equi_width_bins(low, high, {bins}, true) FROM (
    SELECT quantile_cont({column}, 0.01) AS low, quantile_cont({column}, 0.99) AS high
    FROM pairs WHERE sampled IS NOT NULL AND isfinite({column})
) WHERE low IS NOT NULL
"""
COUNT_VALUES = """
CREATE OR REPLACE TABLE text_values AS
SELECT {column} AS value, count(*) AS rows FROM pairs WHERE {column} IS NOT NULL GROUP BY value
"""


def describe_pairs(database: duckdb.DuckDBPyConnection) -> dict[str, Values]:
    """Histograms of the shorter side, the aspect ratio and the caption's length."""
    return {
        "shorter_side": histogram(database, "side + 1", "pairs", SIDES),
        "aspect_ratio": histogram(database, "ratio", "pairs", RATIOS),
        "caption_chars": histogram(database, "chars + 1", "pairs", CHARS),
    }


def describe_similarity(database: duckdb.DuckDBPyConnection, shards: EmbeddingShards) -> Values:
    """The cosines of image and caption: their number, mean and histogram, in one pass."""
    schema = pa.schema([shards.schema().field("similarity")])
    database.register("incoming", scan_shards(shards, schema))
    query = "SELECT histogram(similarity, ?), count(*), avg(similarity) FROM incoming"
    found, rows, mean = database.execute(query, [list(SIMILARITIES)]).fetchall()[0]
    database.unregister("incoming")
    return {"rows": rows, "mean": mean, "histogram": _counted(SIMILARITIES, found)}


def histogram(database: duckdb.DuckDBPyConnection, value: str, table: str, edges: Edges) -> Values:
    """The histogram of an expression over a table's rows; nulls are left out."""
    query = f"SELECT histogram({value}, ?) FROM {table}"
    return _counted(edges, database.execute(query, [list(edges)]).fetchall()[0][0])


def _counted(edges: Edges, found: Mapping[float, int] | None) -> Values:
    """found: the database has no entry above the last edge if there is no such value."""
    counts = [*(found or {}).values()]
    return {"edges": list(edges), "counts": counts + [0] * (len(edges) + 1 - len(counts))}


def count_languages(database: duckdb.DuckDBPyConnection) -> Values:
    """The languages of the captions in the sample, the most frequent first (ISO 639 codes).

    `uncertain` captions are mostly short ones: a few words may belong to many languages.
    """
    query = "SELECT sampled FROM pairs WHERE sampled IS NOT NULL ORDER BY key LIMIT ?"
    identifier = language_identifier()
    found = [identifier.classify(text) for (text,) in database.execute(query, [SAMPLE]).fetchall()]
    languages = Counter(code for code, probability in found if probability >= MIN_PROBABILITY)
    ordered = sorted(languages.items(), key=lambda item: (-item[1], item[0]))
    uncertain = len(found) - languages.total()
    return {"sample": len(found), "uncertain": uncertain, "counts": dict(ordered)}


def describe_columns(
    database: duckdb.DuckDBPyConnection, columns: Mapping[str, str]
) -> dict[str, Values]:
    """The extra columns of the list: a histogram of numbers, the most frequent texts."""
    describe = {"number": _describe_numbers, "text": _describe_texts}
    found = {}
    for index, (name, kind) in enumerate(columns.items()):
        column = column_name(index)
        given = database.execute(f"SELECT count({column}), count(*) FROM pairs").fetchall()[0]
        values = {"kind": kind, "rows": given[0], "missing": given[1] - given[0]}
        found[name] = {**values, **describe[kind](database, column)}
    return found


def _describe_numbers(database: duckdb.DuckDBPyConnection, column: str) -> Values:
    query = COLUMN_EDGES.format(column=column, bins=COLUMN_BINS)
    found = database.execute(query).fetchall()
    edges = sorted(set(found[0][0])) if found else [0.0]
    return {"histogram": histogram(database, column, "pairs", edges)}


def _describe_texts(database: duckdb.DuckDBPyConnection, column: str) -> Values:
    database.execute(COUNT_VALUES.format(column=column))
    distinct = database.execute("SELECT count(*) FROM text_values").fetchall()[0][0]
    query = "SELECT value, rows FROM text_values ORDER BY rows DESC, value LIMIT ?"
    return {"distinct": distinct, "top": dict(database.execute(query, [TOP_VALUES]).fetchall())}
