"""Time and memory of the steps that see every row, by the number of rows.

`python -m benchmarks.rows` writes a synthetic list and shards of several sizes, and runs each step
in a fresh process: cutting the list, looking for known URLs, judging and splitting embedded pairs,
and choosing the rows of an evaluation. Memory must not grow with the rows, and time must grow as
they do. `benchmarks.duplicates` measures the search for duplicates.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lists import peak_mib, url_of, write_parquet
from pipelines.artifacts import SelectionShards
from pipelines.artifacts.schema import OUTCOMES, SELECTION, SLICES, url_list
from pipelines.core.folder import Folder
from pipelines.core.shards import make_shard
from pipelines.core.stage import ShardEntry
from pipelines.data.known_urls import find_known_urls
from pipelines.data.slices import CutWorker
from pipelines.data.sources import FileList, SourceConfig
from pipelines.embeddings.selection import SelectItem, SelectWorker
from pipelines.evaluation.rows import choose

ROWS = (10_000, 100_000, 1_000_000, 3_000_000)
SHARD_ROWS = 10_000
CHOSEN = 30_000  # rows of an evaluation
TIME = datetime(2026, 1, 1, tzinfo=UTC)


class Measured(NamedTuple):
    """What one step took."""

    cpu_s: float
    peak_mib: float  # resident, of the whole process
    base_mib: float  # resident, before the step


def shards(rows: int) -> Iterator[tuple[str, range]]:
    """The names of the shards, and their rows."""
    for start in range(0, rows, SHARD_ROWS):
        yield f"{start // SHARD_ROWS:06d}", range(start, min(start + SHARD_ROWS, rows))


def key_of(row: int) -> str:
    """The key of a pair."""
    return hashlib.blake2b(str(row).encode(), digest_size=10).hexdigest()


def write_shards(folder: Path, rows: int) -> None:
    """Slices, outcomes, the columns of pairs and of embeddings that the steps read."""
    for name, numbers in shards(rows):
        keys, urls = [key_of(n) for n in numbers], [url_of(n) for n in numbers]
        count = len(numbers)
        slices = {"url": urls, "caption": keys, "hash": [None] * count, "held_out": [None] * count}
        outcomes = {"key": keys, "url": urls, "row": range(count), "attempts": [1] * count}
        others = {"reason": [None] * count, "detail": [None] * count, "time": [TIME] * count}
        pairs = {"sha256": [key * 3 + "0000" for key in keys], "held_out": [None] * count}
        similarity = np.random.default_rng(numbers.start).random(count, np.float32)
        tables = {
            "slice": pa.table(slices, schema=url_list({})),
            "outcomes": pa.table({**outcomes, **others}, schema=OUTCOMES),
            "pairs": pa.table(
                pairs, schema=pa.schema([("sha256", pa.string()), ("held_out", pa.bool_())])
            ),
            "embeddings": pa.table(
                {"key": keys, "row": pa.array(range(count), pa.int32()), "similarity": similarity}
            ),
        }
        for kind, table in tables.items():
            pq.write_table(table, folder / f"{name}.{kind}.parquet", row_group_size=256)


def cut(folder: Path, rows: int) -> None:  # noqa: ARG001
    """The work of the stage list for one file."""
    urls = str(folder / "list.parquet")
    config = SourceConfig(
        urls=urls, url_column="url", caption_column="caption", rows_per_shard=SHARD_ROWS
    )
    (file,) = FileList(config).files()
    make_shard(CutWorker(config), file, Folder(str(folder / "cut")), "cut", SLICES)


def know(folder: Path, rows: int) -> None:
    """The search for the URLs of a list that was cut anew: all of them are known."""
    names = [name for name, _ in shards(rows)]
    new = {name: str(folder / f"{name}.slice.parquet") for name in names}
    earlier = {f"pairs/{name}": str(folder / f"{name}.outcomes.parquet") for name in names}
    found = find_known_urls(new, earlier, Folder(str(folder / "known")))
    assert found == rows, found


def select(folder: Path, rows: int) -> None:
    """The work of the stage select for all shards, one after the other."""
    worker = SelectWorker(min_similarity=0.2, held_out_fraction=0.01)
    for index, (name, _) in enumerate(shards(rows)):
        item = SelectItem(
            index, str(folder / f"{name}.embeddings.parquet"), str(folder / f"{name}.pairs.parquet")
        )
        make_shard(worker, item, Folder(str(folder / "select")), name, SELECTION)


def choose_rows(folder: Path, rows: int) -> None:
    """The choice of the rows of an evaluation, among those that `select` selected."""
    entries = {name: ShardEntry(len(numbers)) for name, numbers in shards(rows)}
    selection = SelectionShards(Folder(str(folder / "select")), entries, {}, {}, {})
    choose(selection, CHOSEN, held_out=False)


STEPS: Mapping[str, Callable[[Path, int], None]] = {
    "cut the list": cut,
    "find known URLs": know,
    "select": select,
    "choose rows to evaluate": choose_rows,
}


def measure(step: str, folder: Path, rows: int) -> Measured:
    """Run one step in a process of its own."""
    words = ["--step", step, "--folder", str(folder), "--rows", str(rows)]
    command = [sys.executable, "-m", "benchmarks.rows", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def run(step: str, folder: Path, rows: int) -> Measured:
    """Run one step in this process."""
    base, cpu = peak_mib(), time.process_time()
    STEPS[step](folder, rows)
    return Measured(time.process_time() - cpu, peak_mib(), base)


def main(
    arguments: list[str] | None = None, show: Callable[[str], object] = sys.stdout.write
) -> None:
    """Print the table, or with --step one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    if given.step:
        show(json.dumps(run(given.step, given.folder, given.rows[0])) + "\n")
        return
    show("| step | rows | CPU time | exponent | peak | for the step | over the one before |\n")
    show("|---|---|---|---|---|---|---|\n")
    before: dict[str, tuple[int, Measured]] = {}
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_parquet(folder / "list.parquet", rows)
            write_shards(folder, rows)
            for step in STEPS:
                found = measure(step, folder, rows)
                show(line(step, rows, found, before.get(step)))
                before[step] = (rows, found)


def line(step: str, rows: int, found: Measured, before: tuple[int, Measured] | None) -> str:
    """A line of the table, with ratios to the size before."""
    exponent = growth = ""
    if before:
        ratio = math.log(found.cpu_s / before[1].cpu_s) / math.log(rows / before[0])
        exponent, growth = f"{ratio:.2f}", f"{found.peak_mib / before[1].peak_mib:.2f}"
    return (
        f"| {step} | {rows:,} | {found.cpu_s:.1f} s | {exponent} | {found.peak_mib:.0f} MiB | "
        f"{found.peak_mib - found.base_mib:.0f} MiB | {growth} |\n"
    )


if __name__ == "__main__":
    main()
