"""Time and memory of reading a URL list, by its number of rows.

`python -m benchmarks.lists` writes synthetic lists of several sizes, reads each through
`FileList.batches` in a fresh process, and prints the table of benchmarks/README.md. Memory must not
grow with the list, and time must grow as its rows do.
"""

import argparse
import gzip
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.sources import FileList, SourceConfig

ROWS = (10_000, 100_000, 1_000_000, 3_000_000)
ROWS_AT_ONCE = 10_000  # of the lists that are written
WORDS = ("a", "photo", "of", "the", "small", "red", "house", "near", "an", "old", "lake")


@dataclass(frozen=True)
class Reading:
    """What reading a list took."""

    rows: int
    cpu_s: float
    wall_s: float
    peak_mib: float  # resident, of the whole process
    base_mib: float  # resident, before the first row


def url_of(row: int) -> str:
    """The URL of a row, about 60 characters."""
    return f"https://pictures.example.org/{row % 997}/{row:012d}/original.jpg"


def caption_of(row: int) -> str:
    """The caption of a row, about 60 characters."""
    return " ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 12)) + f" {row}"


def pieces(rows: int) -> Iterator[range]:
    """The rows of a list, a few at a time."""
    for start in range(0, rows, ROWS_AT_ONCE):
        yield range(start, min(start + ROWS_AT_ONCE, rows))


def write_parquet(path: Path, rows: int) -> None:
    """One row group of all rows, as hard to stream as it gets."""
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema) as out:
        arrays = [
            pa.chunked_array(map(pa.array, columns))
            for columns in zip(*columns_of(rows), strict=True)
        ]
        out.write_table(pa.table(arrays, schema=schema), row_group_size=rows)


def columns_of(rows: int) -> Iterator[tuple[list[str], list[str]]]:
    """URLs and captions, a few at a time."""
    for piece in pieces(rows):
        yield [url_of(row) for row in piece], [caption_of(row) for row in piece]


def write_csv_gz(path: Path, rows: int) -> None:
    """Comma-separated lines without quotes, compressed fast."""
    with gzip.open(path, "wt", compresslevel=1) as out:
        out.write("url,caption\n")
        for piece in pieces(rows):
            out.writelines(f"{url_of(row)},{caption_of(row)}\n" for row in piece)


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "list.parquet": write_parquet,
    "list.csv.gz": write_csv_gz,
}


def read(path: str) -> Reading:
    """Read the list in this process."""
    config = SourceConfig(urls=path, url_column="url", caption_column="caption", rows_per_shard=1)
    source = FileList(config)
    source.check()  # the first call of a function of Arrow takes long
    (file,) = source.files()
    base = peak_mib()
    cpu, wall = time.process_time(), time.perf_counter()
    rows = sum(batch.num_rows for batch in source.batches(file))
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    return Reading(rows, cpu_s, wall_s, peak_mib(), base)


def peak_mib() -> float:
    """The largest resident size of this process so far; Linux only.

    `getrusage` does not do: a process inherits its parent's peak.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def read_in_fresh_process(path: Path) -> Reading:
    """Read the list in a process of its own. Raises CalledProcessError."""
    command = [sys.executable, "-m", "benchmarks.lists", "--read", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Reading(**json.loads(done.stdout.splitlines()[-1]))


def show_table(name: str, readings: list[Reading], show: Callable[[str], object]) -> None:
    """One line for each size, with ratios to the size before."""
    before = None
    for one in readings:
        exponent, growth = "", ""
        if before:
            ratio = math.log(one.cpu_s / before.cpu_s) / math.log(one.rows / before.rows)
            exponent, growth = f"{ratio:.2f}", f"{one.peak_mib / before.peak_mib:.2f}"
        show(
            f"| {name} | {one.rows:,} | {one.cpu_s:.2f} s | {one.wall_s:.2f} s | "
            f"{one.rows / one.cpu_s / 1e6:.2f}M | {exponent} | {one.peak_mib:.0f} MiB | "
            f"{one.peak_mib - one.base_mib:.0f} MiB | {growth} |\n"
        )
        before = one


HEADER = (
    "| list | rows | CPU time | wall clock | rows per CPU second | exponent of time | peak "
    "| for reading | peak over the one before |\n|---|---|---|---|---|---|---|---|---|\n"
)


def main(
    arguments: list[str] | None = None, show: Callable[[str], object] = sys.stdout.write
) -> None:
    """Print the table, or with --read one reading as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--read", help="only read this list, and print a line of JSON")
    given = parser.parse_args(arguments)
    if given.read:
        show(json.dumps(vars(read(given.read))) + "\n")
        return
    show(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        for name, write in WRITERS.items():
            readings = []
            for rows in given.rows:
                write(Path(folder) / name, rows)
                readings.append(read_in_fresh_process(Path(folder) / name))
            show_table(name, readings, show)


if __name__ == "__main__":
    main()
