"""Time, memory and disk of the data report, by the number of rows.

`python -m benchmarks.data_report` writes synthetic shards of several sizes, makes the report on
each in a fresh process, and prints the table of benchmarks/README.md. Neither memory nor the page
may grow with the rows.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.lists import caption_of, peak_mib
from pipelines.artifacts import (
    BASIS_FILE,
    OUTCOMES_FILE,
    EmbeddingShards,
    ListShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    VerdictShards,
)
from pipelines.artifacts.schema import OUTCOMES, SELECTION, VERDICTS, pair_key, pairs, url_list
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ROW_GROUP_ROWS
from pipelines.core.stage import ShardEntry
from pipelines.report.data_page import make_data_page
from pipelines.report.data_tables import Sources

ROWS = (100_000, 1_000_000)
SHARD_ROWS = 10_000
FAILED = 0.2  # of the rows were not downloaded
REJECTED = 0.3  # of the pairs
HOSTS = 5_000
COLUMNS = {"score": "number", "licence": "text"}
REASONS = ("too_small", "caption_too_short", "language")
POLL_S = 0.2


@dataclass(frozen=True)
class Measured:
    """What making the report took."""

    rows: int
    cpu_s: float
    wall_s: float
    peak_mib: float  # resident, of the whole process
    base_mib: float  # resident, before the first row
    page_mib: float
    sample: int  # captions whose language was detected
    disk_mib: float = 0.0  # the most that the scratch folder held


def write_shards(root: Path, rows: int) -> None:
    """A list, its outcomes and pairs, verdicts, similarities, a selection and a basis."""
    for name in ("list", "pairs", "verdicts", "embeddings", "selection", "pca"):
        (root / name).mkdir(parents=True)
    for shard in range(-(-rows // SHARD_ROWS)):
        start = SHARD_ROWS * shard
        numbers = range(start, min(start + SHARD_ROWS, rows))
        write_slice(root, f"{shard:06d}.parquet", numbers)
    basis = pa.table({"eigenvalue": pa.array(0.95 ** np.arange(768), pa.float32())})
    pq.write_table(basis, root / "pca" / BASIS_FILE)


def write_slice(root: Path, file: str, numbers: range) -> None:
    """What all stages make of one slice."""
    rng = np.random.default_rng(numbers.start)
    urls = [f"https://host{number % HOSTS}.example.org/{number:09d}.jpg" for number in numbers]
    captions = [caption_of(number) for number in numbers]
    keys = [pair_key(url, caption) for url, caption in zip(urls, captions, strict=True)]
    rows = pa.table({"key": keys, "url": urls, "caption": captions})
    write(root / "list" / file, url_list({}), rows)
    got = rng.random(len(rows)) >= FAILED
    write_outcomes(root / "pairs" / file.replace(".parquet", OUTCOMES_FILE), rows, got, rng)
    pairs_of_slice = rows.filter(pa.array(got))
    write_pairs(root / "pairs" / file, pairs_of_slice, rng)
    kept = rng.random(len(pairs_of_slice)) >= REJECTED
    reasons = np.array(REASONS)[rng.integers(0, len(REASONS), len(kept))]
    verdicts = {"key": pairs_of_slice["key"], "reason": pa.array(reasons, mask=kept)}
    write(root / "verdicts" / file, VERDICTS, pa.table(verdicts))
    write_selection(root, file, pairs_of_slice["key"].filter(pa.array(kept)), kept, rng)


def write_outcomes(path: Path, rows: pa.Table, got: np.ndarray, rng: np.random.Generator) -> None:
    """One row for each listed row; those that were not downloaded have one reason."""
    columns = {
        "key": rows["key"],
        "url": rows["url"],
        "row": pa.array(np.cumsum(got) - 1, pa.int64(), mask=~got),
        "reason": pa.array(np.full(len(got), "http_404"), mask=got),
        "attempts": rng.integers(1, 4, len(got)),
        "time": np.zeros(len(got), "datetime64[ms]"),
    }
    write(path, OUTCOMES, pa.table(columns))


def write_pairs(path: Path, rows: pa.Table, rng: np.random.Generator) -> None:
    """One row for each downloaded row, all with the same small image."""
    size = len(rows)
    sides = {
        name: rng.integers(64, 2048, size)
        for name in ("width", "height", "original_width", "original_height")
    }
    columns = {
        **{name: rows[name] for name in rows.column_names},
        **sides,
        "image": [picture()] * size,
        "sha256": rows["key"],
        "phash": np.zeros(size, np.uint64),
        "score": rng.normal(5, 1, size),
        "licence": [f"licence {number}" for number in rng.zipf(2, size)],
    }
    write(path, pairs(COLUMNS, ()), pa.table(columns))


def write_selection(
    root: Path, file: str, keys: pa.ChunkedArray, kept: np.ndarray, rng: np.random.Generator
) -> None:
    """The similarities of the pairs that were kept, and their splits."""
    size = len(keys)
    similarity = pa.table({"similarity": rng.normal(0.3, 0.05, size).astype(np.float32)})
    pq.write_table(similarity, root / "embeddings" / file)
    columns = {
        "key": keys,
        "row": np.flatnonzero(kept),
        "position": np.arange(size),
        "held_out": rng.random(size) < 0.01,
    }
    write(root / "selection" / file, SELECTION, pa.table(columns))


def write(path: Path, schema: pa.Schema, columns: pa.Table) -> None:
    """Write a table with this schema; columns that are not given are null."""
    given = {
        field.name: columns[field.name].cast(field.type)
        if field.name in columns.column_names
        else pa.nulls(columns.num_rows, field.type)
        for field in schema
    }
    pq.write_table(pa.table(given, schema=schema), path, row_group_size=ROW_GROUP_ROWS)


def picture() -> bytes:
    """A small JPEG of noise, which compresses worse than any photo."""
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, "JPEG")
    return encoded.getvalue()


def sources(root: Path) -> Sources:
    """The artifacts of the shards."""

    def shards(folder: str) -> tuple[Folder, dict[str, ShardEntry]]:
        files = sorted((root / folder).glob("*.parquet"))
        rows = {f.stem: pq.read_metadata(f).num_rows for f in files if "." not in f.stem}
        return Folder(str(root / folder)), {name: ShardEntry(n) for name, n in rows.items()}

    listed = shards("list")
    total = {"listed": sum(entry.rows for entry in listed[1].values()), "rejected": {}}
    selection = shards("selection")
    training = {name: entry.rows for name, entry in selection[1].items()}
    return Sources(
        urls=ListShards(*listed, total, COLUMNS),
        pairs=PairShards(*shards("pairs"), {}, COLUMNS),
        verdicts=VerdictShards(*shards("verdicts"), {}, {}),
        embeddings=EmbeddingShards(*shards("embeddings"), {}, 768, "clip", "digest"),
        selection=SelectionShards(*selection, {}, training, {}),
        pca=PcaBasisFile(Folder(str(root / "pca")), 768, explained=0.9, dimensions=300),
    )


def measure(root: Path, scratch: Path) -> Measured:
    """Make the report in this process, with its database in `scratch`."""
    tempfile.tempdir = str(scratch)
    given = sources(root)
    base = peak_mib()
    cpu, wall = time.process_time(), time.perf_counter()
    page = make_data_page(given)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    assert [step["missing"] for step in page.figures["steps"]] == [0] * 5
    listed = page.figures["steps"][-1]["rows"]
    html = len(page.html.encode()) / 2**20
    sample = page.figures["languages"]["sample"]
    return Measured(listed, cpu_s, wall_s, peak_mib(), base, html, sample)


def measure_in_fresh_process(root: Path) -> Measured:
    """Make the report in a process of its own, and watch its scratch folder."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks.data_report", "--made", str(root), scratch]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        disk = 0.0
        while process.poll() is None:
            disk = max(disk, folder_mib(Path(scratch)))
            time.sleep(POLL_S)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(**{**json.loads(output.splitlines()[-1]), "disk_mib": disk})


def folder_mib(folder: Path) -> float:
    """The size of all files that exist in a folder."""
    sizes = 0
    for path in folder.rglob("*"):
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:  # deleted meanwhile
            continue
    return sizes / 2**20


HEADER = (
    "| rows | CPU time | wall clock | peak | for the report | disk | bytes of disk a row | page "
    "| sample |\n|---|---|---|---|---|---|---|---|---|\n"
)


def main(
    arguments: list[str] | None = None, show: Callable[[str], object] = sys.stdout.write
) -> None:
    """Print the table, or with --made one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--made", nargs=2, metavar=("SHARDS", "SCRATCH"), type=Path)
    given = parser.parse_args(arguments)
    if given.made:
        show(json.dumps(vars(measure(*given.made))) + "\n")
        return
    show(HEADER)
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder), rows)
            one = measure_in_fresh_process(Path(folder))
        show(
            f"| {one.rows:,} | {one.cpu_s:.1f} s | {one.wall_s:.1f} s | {one.peak_mib:.0f} MiB "
            f"| {one.peak_mib - one.base_mib:.0f} MiB | {one.disk_mib:.0f} MiB "
            f"| {one.disk_mib * 2**20 / one.rows:.0f} | {one.page_mib:.2f} MiB "
            f"| {one.sample:,} |\n"
        )


if __name__ == "__main__":
    main()
