"""Time and peak memory of the search for duplicates, each size in processes of its own.

`python -m benchmarks.duplicates exact` and `... semantic` print a table. Workers of the semantic
search run in two processes with one thread each, as on a machine with two cores.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import duplicate_data
from pipelines.artifacts import EmbeddingShards
from pipelines.artifacts.schema import embeddings as embeddings_schema
from pipelines.core.folder import Folder
from pipelines.core.shards import make_shard
from pipelines.core.stage import Metadata, ShardEntry, ShardWorker
from pipelines.core.tables import to_column
from pipelines.data.duplicates import IDENTITY, find_duplicates
from pipelines.data.out_of_core import Budget
from pipelines.embeddings.near_duplicates import SIMILAR, CompareWorker, drop_near_duplicates
from pipelines.embeddings.partitions import (
    PARTITIONS,
    AssignWorker,
    SampleWorker,
    assign_groups,
    count_partitions,
    sampled,
    train_partitions,
)

WORKERS = 2
Place = tuple[str, pa.Schema]  # name and schema of a shard


def peak_mb() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def cpu_s() -> float:
    """CPU time of this process and of those it has waited for; other work affects it little."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


IMAGES = "images"  # folder of the images' digests, which the pairs have


def measured(work: ShardWorker, item: Any, out: Folder, place: Place) -> tuple[Metadata, int]:
    """Make a shard; returns its metadata, and the peak memory of its process."""
    record = make_shard(work, item, out, *place)
    return dict(record.metadata), peak_mb()


def make_pairs(folder: Path, rows: int) -> None:
    """One small Parquet file for each shard."""
    for shard, batch in enumerate(duplicate_data.identities(rows)):
        pq.write_table(pa.Table.from_batches([batch]), folder / f"{shard:06d}.parquet")


def exact(folder: Path, rows: int, memory_mib: int) -> dict[str, Any]:
    """Search the first rows for exact duplicates and near copies of pictures."""

    def batches() -> Iterator[pa.RecordBatch]:
        for path in sorted(folder.glob("*.parquet"))[: -(-rows // duplicate_data.SHARD_ROWS)]:
            yield from pq.read_table(path, schema=IDENTITY).to_batches()

    base, start, cpu = peak_mb(), time.perf_counter(), cpu_s()
    reader = pa.RecordBatchReader.from_batches(IDENTITY, batches())
    with tempfile.TemporaryDirectory() as scratch:
        found = find_duplicates(
            reader,
            Path(scratch) / "rejected.parquet",
            max_distance=3,
            budget=Budget(memory_mib=memory_mib),
        )
    times = {"cpu_s": round(cpu_s() - cpu, 1), "wall_s": round(time.perf_counter() - start, 1)}
    return {**times, "base_mb": base, "peak_mb": peak_mb(), **found}


def make_embeddings(folder: Path, rows: int, width: int) -> None:
    """Shards as `embed` writes them."""
    rng = np.random.default_rng(0)
    for shard, vectors in enumerate(duplicate_data.embeddings(rows, width)):
        count = len(vectors)
        start = shard * duplicate_data.SHARD_ROWS
        columns = {
            "key": [duplicate_data.key_of(start + row) for row in range(count)],
            "row": pa.array(range(count), pa.int32()),
            "image_embeds": to_column(vectors),
            "text_embeds": to_column(np.zeros_like(vectors)),
            "image_norm": pa.array(np.ones(count), pa.float32()),
            "similarity": pa.array(rng.uniform(0.2, 0.4, count), pa.float32()),
        }
        table = pa.table(columns, schema=embeddings_schema(width))
        digests = [sha256(key.encode()).hexdigest() for key in columns["key"]]
        (folder / IMAGES).mkdir(exist_ok=True)
        pq.write_table(pa.table({"sha256": digests}), folder / IMAGES / f"{shard:06d}.parquet")
        pq.write_table(table, folder / f"{shard:06d}.parquet")


def semantic(folder: Path, rows: int, width: int) -> dict[str, Any]:
    """Search the first rows for near duplicates; seconds and peak memory of each step."""
    paths = sorted(folder.glob("*.parquet"))[: -(-rows // duplicate_data.SHARD_ROWS)]
    counts = {path.stem: pq.read_metadata(path).num_rows for path in paths}
    shards = {name: ShardEntry(count) for name, count in counts.items()}
    embeddings = EmbeddingShards(Folder(str(folder)), shards, {}, width, "clip", "digest")
    report: dict[str, Any] = {}
    start, cpu = time.perf_counter(), cpu_s()

    def run(work: ShardWorker, items: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
        began, count = cpu_s(), len(items)
        step = next(iter(items)).partition("/")[0]
        places = [(name, schema) for name in items]
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            calls = pool.map(measured, [work] * count, items.values(), [out] * count, places)
            results = list(calls)
        report[f"{step}_cpu_s"] = round(cpu_s() - began, 1)
        report[f"{step}_mb"] = max(peak for _, peak in results)
        return {name: facts for name, (facts, _) in zip(items, results, strict=True)}

    with tempfile.TemporaryDirectory() as scratch:
        out = Folder(scratch)
        names = tuple(counts)
        samples = {"sample/0": names[::2], "sample/1": names[1::2]}
        run(SampleWorker(embeddings), samples, sampled(width))
        train_partitions(out, list(samples), embeddings)
        groups = {f"assign/{i}": g for i, g in enumerate(assign_groups(counts))}
        images = {name: str(folder / IMAGES / f"{name}.parquet") for name in counts}
        written = run(AssignWorker(embeddings, images, out, 0.95), groups, PARTITIONS)
        assigned = tuple((name, facts["file"]) for name, facts in written.items())
        partitions = {f"compare/{i}": i for i in range(count_partitions(rows))}
        compared = run(CompareWorker(out, assigned, 0.95), partitions, SIMILAR)
        target = Path(scratch) / "dropped.parquet"
        dropped = drop_near_duplicates(out, list(partitions), 0.95, target, Budget())
    read = sum(facts.get("read", 0) for facts in compared.values())
    report |= {"dropped": dropped, "driver_mb": peak_mb(), "copies_of_a_row": round(read / rows, 2)}
    times = {"cpu_s": round(cpu_s() - cpu, 1), "wall_s": round(time.perf_counter() - start, 1)}
    return {**times, **report}


def in_a_process(call: str) -> dict[str, Any]:
    """The result of a function of this module, computed in a new process."""
    code = (
        f"import json, pathlib; from benchmarks import duplicates as d; print(json.dumps({call}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout))


def print_row(rows: int, result: Mapping[str, Any], before: Mapping[int, float]) -> None:
    """One line of the table, with the exponent of CPU time since the size before."""
    exponent = ""
    if before:
        smaller = max(before)
        exponent = f"{math.log(result['cpu_s'] / before[smaller]) / math.log(rows / smaller):.2f}"
    facts = ", ".join(f"{name} {value}" for name, value in result.items() if name != "cpu_s")
    print(f"| {rows:,} | {result['cpu_s']} s | {exponent} | {facts} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("search", choices=["exact", "semantic"])
    parser.add_argument("--rows", type=int, nargs="+", help="sizes, ascending")
    parser.add_argument("--memory-mib", type=int, default=Budget().memory_mib)
    parser.add_argument("--width", type=int, default=512)
    given = parser.parse_args(arguments)
    is_exact = given.search == "exact"
    default = [10_000, 100_000, 1_000_000, 3_000_000] if is_exact else [100_000, 1_000_000]
    sizes = given.rows or default
    print("| rows | CPU time | exponent | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if is_exact:
            make_pairs(folder, max(sizes))
        else:
            make_embeddings(folder, max(sizes), given.width)
        before: dict[int, float] = {}
        for rows in sizes:
            last = given.memory_mib if is_exact else given.width
            result = in_a_process(f"d.{given.search}(pathlib.Path({scratch!r}), {rows}, {last})")
            print_row(rows, result, before)
            before[rows] = result["cpu_s"]


if __name__ == "__main__":
    main()
