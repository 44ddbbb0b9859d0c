"""Global questions about all rows, answered on disk: DuckDB on a scratch file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pipelines.core.errors import PipelineError, first_line

GROUP_ROWS = 65_536  # of a row group, so that a reader of one shard skips the others


@dataclass(frozen=True)
class Budget:
    """What one query engine may use."""

    memory_mib: int = 256  # of tables and intermediate results; the rest is on disk
    threads: int = 2
    scratch: str | None = None  # folder for spilled data; None: the system's temporary folder

    @classmethod
    def of_worker(cls) -> "Budget":
        """Half of the memory and all CPUs that Ray reserved for this worker.

        The defaults where it reserved none (`run.resources.<stage>.memory_gib`), and outside Ray.
        """
        if not ray.is_initialized():
            return cls()
        reserved = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        memory_mib = int(reserved.get("memory", 0) / 2 / 2**20)
        return cls(max(cls.memory_mib, memory_mib), max(cls.threads, int(reserved.get("CPU", 0))))


@contextmanager
def scratch_database(budget: Budget) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database on a file that is deleted afterwards. It spills what exceeds the budget.

    Raises `PipelineError` if the work within needs more memory or disk than there is.
    """
    with tempfile.TemporaryDirectory(prefix="unclip-", dir=budget.scratch) as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{budget.memory_mib}MiB",
            "threads": budget.threads,
            "temp_directory": f"{folder}/spilled",
            "preserve_insertion_order": False,  # an ordered load holds more in memory
        }
        with duckdb.connect(f"{folder}/rows.duckdb", config=settings) as database:
            database.execute("SET enable_progress_bar = false")  # it is on standard output
            try:
                yield database
            except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
                raise PipelineError(
                    f"A question about all rows has no room: {first_line(error)}. It may use "
                    f"{budget.memory_mib} MiB and the disk of {folder}. Give the stage more memory "
                    "with run.resources.<stage>.memory_gib, of which it uses half, or a larger "
                    "disk."
                ) from error


def drop_similar(database: duckdb.DuckDBPyConnection) -> None:
    """Decide, best first, which of similar items stay: `similar_items` (better, worse) → `dropped`.

    An item is an integer, and the smaller one is the better one. An item is dropped exactly if a
    better one that stays is similar to it, so in a chain a ~ b ~ c with a and c unlike, only b
    goes. `dropped` has each such item (`worse`) with the best similar item that stays (`better`).

    Each round decides the items that nothing undecided outranks. The number of rounds is at most
    the length of the longest chain of similar items that gets worse at each step.
    """
    database.execute("CREATE TABLE dropped_items (item BIGINT)")
    database.execute("CREATE TABLE undecided AS FROM similar_items")
    while True:
        database.execute(
            "CREATE OR REPLACE TABLE lost AS SELECT DISTINCT worse AS item FROM undecided "
            "WHERE better NOT IN (SELECT worse FROM undecided)"
        )
        if not count_rows(database, "lost"):
            break
        database.execute("INSERT INTO dropped_items FROM lost")
        database.execute(
            "CREATE OR REPLACE TABLE undecided AS FROM undecided "
            "WHERE better NOT IN (FROM lost) AND worse NOT IN (FROM lost)"
        )
    database.execute(
        "CREATE TABLE dropped AS SELECT worse, min(better) AS better FROM similar_items "
        "WHERE worse IN (FROM dropped_items) AND better NOT IN (FROM dropped_items) GROUP BY worse"
    )


def count_rows(database: duckdb.DuckDBPyConnection, table: str) -> int:
    """The number of rows of a table."""
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def write_parquet(
    database: duckdb.DuckDBPyConnection, query: str, target: Path, schema: pa.Schema
) -> int:
    """Write the rows of a query as Parquet with this schema; returns how many."""
    rows = 0
    with pq.ParquetWriter(target, schema) as writer:
        for batch in database.sql(query).to_arrow_reader(GROUP_ROWS):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
            rows += batch.num_rows
    return rows
