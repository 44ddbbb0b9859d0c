"""The figures of the data report: what became of every row, and why."""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np

from pipelines.artifacts import BASIS_FILE, PcaBasisFile
from pipelines.report.data_tables import Sources

MAX_REASONS = 100  # of a stage, the most frequent first
TOP_HOSTS = 20
Values = dict[str, Any]

REASONS = """
SELECT reason, count(*) FROM {table} WHERE reason IS NOT NULL
GROUP BY reason ORDER BY count(*) DESC, reason LIMIT {limit}
"""
# One row for each host, outcome and number of attempts: few, whatever the number of URLs.
COUNT_HOSTS = """
CREATE TABLE hosts AS
SELECT host, reason IS NULL AS downloaded, attempts, count(*) AS rows FROM outcomes
GROUP BY ALL
"""
# The (lower) median is the smallest number of attempts that reaches half of the fetched rows.
HOSTS = """
WITH top AS (
    SELECT host, sum(rows) AS rows, sum(rows) FILTER (downloaded) AS downloaded
    FROM hosts GROUP BY host ORDER BY rows DESC, host LIMIT {limit}
), running AS (
    SELECT host, attempts, sum(rows) OVER (PARTITION BY host ORDER BY attempts) AS reached,
           sum(rows) OVER (PARTITION BY host) AS fetched
    FROM hosts WHERE attempts > 0 AND host IN (SELECT host FROM top)
), medians AS (
    SELECT host, min(attempts) AS attempts FROM running WHERE 2 * reached >= fetched GROUP BY host
)
SELECT host, rows::BIGINT, coalesce(downloaded, 0)::BIGINT, medians.attempts
FROM top LEFT JOIN medians USING (host) ORDER BY rows DESC, host
"""


def count_steps(
    database: duckdb.DuckDBPyConnection, sources: Sources, embedded: int
) -> list[Values]:
    """The rows that came into each stage, were rejected and kept, each counted in its own files.

    `missing` is 0 if the books balance: every row that the stage before kept came in, and was
    either rejected or kept. The last step is the whole pipeline.
    """
    listed = int(sources.urls.counts["listed"])
    downloaded, failed = _split(database, "outcomes")
    kept, filtered = _split(database, "verdicts")
    selected, unselected = _split(database, "selection")
    failed += repeated_rows(sources)
    pairs = _count(database, "SELECT count(*) FROM pairs")
    training = sum(sources.selection.training.values())
    held_out = sum(sources.selection.held_out.values())
    return [
        _step("download", listed, listed, failed, downloaded),
        _step("filter", downloaded, pairs, filtered, kept),
        _step("embed", kept, kept, 0, embedded),
        _step("select", embedded, selected + unselected, unselected, selected),
        _step("all", listed, listed, failed + filtered + unselected, training + held_out),
    ]


def _step(stage: str, expected: int, rows: int, rejected: int, kept: int) -> Values:
    missing = abs(expected - rows) + abs(rows - rejected - kept)
    return {"stage": stage, "rows": rows, "rejected": rejected, "kept": kept, "missing": missing}


def repeated_rows(sources: Sources) -> int:
    """Rows of slices that the list has more than once: they have no outcomes of their own."""
    return int(sources.urls.counts["rejected"].get("duplicate_row", 0))


def count_splits(sources: Sources) -> dict[str, int]:
    """The selected pairs of each split."""
    selection = sources.selection
    return {"training": selection.training_rows, "held_out": selection.held_out_rows}


def count_reasons(
    database: duckdb.DuckDBPyConnection, table: str, repeated: int = 0
) -> dict[str, int]:
    """Rejected rows by reason, the most frequent first.

    repeated: further rows with the reason `duplicate_row`.
    """
    counts = dict(database.execute(REASONS.format(table=table, limit=MAX_REASONS)).fetchall())
    if repeated:
        counts["duplicate_row"] = counts.get("duplicate_row", 0) + repeated
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def count_hosts(database: duckdb.DuckDBPyConnection) -> Values:
    """How many hosts the URLs have, and the rows, successes and attempts of the largest."""
    database.execute(COUNT_HOSTS)
    rows = database.execute(HOSTS.format(limit=TOP_HOSTS)).fetchall()
    names = ("host", "rows", "downloaded", "median_attempts")
    return {
        "count": _count(database, "SELECT count(DISTINCT host) FROM hosts"),
        "top": [dict(zip(names, row, strict=True)) for row in rows],
    }


def describe_components(pca: PcaBasisFile) -> Values:
    """How many dimensions the image embeddings use.

    `effective_rank` is exp(H), where H is the entropy of the eigenvalues divided by their sum: D
    for D equal eigenvalues, 1 if one component holds all variance.
    """
    eigenvalues = pca.folder.read_table(BASIS_FILE, ["eigenvalue"])["eigenvalue"].to_pylist()
    return {
        "width": pca.width,
        "dimensions": pca.dimensions,
        "explained": pca.explained,
        "effective_rank": effective_rank(eigenvalues),
        "eigenvalues": eigenvalues,
    }


def effective_rank(eigenvalues: Sequence[float]) -> float:
    """The exponential of the entropy of the normalised eigenvalues; 0 without variance."""
    positive = np.array([value for value in eigenvalues if value > 0], dtype=np.float64)
    shares = positive / max(positive.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _split(database: duckdb.DuckDBPyConnection, table: str) -> tuple[int, int]:
    """The rows of a table that were kept and that were rejected."""
    counted = f"SELECT count(*) FILTER (reason IS NULL), count(reason) FROM {table}"
    kept, rejected = database.execute(counted).fetchall()[0]
    return int(kept), int(rejected)


def _count(database: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(database.execute(query).fetchall()[0][0])
