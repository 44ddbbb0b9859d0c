"""The download against img2dataset's own, with the same processes, connections and settings.

`python -m benchmarks.download PICTURES` downloads the same photos with both, in turn, several
times, from a server on this machine. The server notes when each request came, which gives the time
to the first 500 photos, and the rate between the 500th and the last (the steady state). Both read
the list from the same Parquet file and write Parquet.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.photos import Photos, arguments, serve

PROCESSES, CONNECTIONS = 2, 16
FIRST = 500
SLICE = 500  # rows of a shard

OURS = """
import sys
from pathlib import Path
from pipelines.config.load import load_config
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.stage import Graph
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
urls, folder, side, processes, connections, rows = sys.argv[1:]
config = load_config("demo", [
    f"source.urls={urls}", f"source.rows_per_shard={rows}", "download.resize_mode=center_crop",
    f"download.image_size={side}", "download.encode_format=jpg", "download.encode_quality=95",
    f"download.connections={connections}", "download.connections_per_host=1000",
    f"run.store={folder}/store"])
graph, store = Graph([unclip_graph(config)["download"]]), Store(f"{folder}/store")
resources = {n: Resources(workers=int(processes), cpus=1) for n in ("list", "download")}
settings = RunSettings(resources=resources, cluster=ClusterSettings(cpus=int(processes)))
run_plan(make_plan(graph, store, Scope()), store, settings)
"""
THEIRS = """
import sys
from img2dataset import download
if __name__ == "__main__":
    urls, folder, side, processes, connections, rows = sys.argv[1:]
    download(url_list=urls, input_format="parquet", url_col="url", caption_col="caption",
             output_folder=f"{folder}/images", output_format="parquet", image_size=int(side),
             resize_mode="center_crop", encode_quality=95, processes_count=int(processes),
             thread_count=int(connections), number_sample_per_shard=int(rows),
             distributor="multiprocessing", enable_wandb=False)
"""


class Result(NamedTuple):
    """One download."""

    first_s: float  # from the start of the program to request number `FIRST`
    rate: float  # photos a second from then on
    cpu_s: float  # of all processes of the program


def measure(program: str, photos: Photos, urls: Path, options: tuple[int, int]) -> Result:
    """Run one program in a process of its own."""
    side, rows = options
    photos.requests()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "program.py"
        script.write_text(program)
        words = [urls, folder, side, PROCESSES, CONNECTIONS, SLICE]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        subprocess.run(
            [sys.executable, str(script), *map(str, words)],
            check=True,
            capture_output=True,
            cwd=Path.cwd(),
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "NO_ALBUMENTATIONS_UPDATE": "1"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = sorted(photos.requests())
    assert len(times) == rows, (len(times), rows)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    first_s = times[FIRST - 1] - began
    return Result(first_s, (rows - FIRST) / (times[-1] - times[FIRST - 1]), cpu_s)


def main() -> None:
    """Download with both, in turn."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stored", type=int, default=256, help="side of the stored images")
    options = parser.parse_args()
    size = (options.side, options.side)
    programs: dict[str, str] = {"unclip": OURS, "img2dataset": THEIRS}
    results: dict[str, list[Result]] = {name: [] for name in programs}
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(options.pictures, options.rows, size) as photos,
    ):
        urls = Path(folder) / "list.parquet"
        pq.write_table(pa.Table.from_pylist([photos.row(n) for n in range(options.rows)]), urls)
        for number in range(options.rounds):
            order: list[str] = list(programs) if number % 2 == 0 else list(programs)[::-1]
            for name in order:
                result = measure(programs[name], photos, urls, (options.stored, options.rows))
                results[name].append(result)
                print(f"round {number + 1} {name:<12} {result}", flush=True)
    print("\n| | first 500 | steady state | CPU |\n|---|---|---|---|")
    for name, found in results.items():
        first_s, rate, cpu_s = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {first_s:.1f} s | {rate:.0f} photos/s | {cpu_s:.0f} s |")
    _print_ratios(results)


def _print_ratios(results: dict[str, list[Result]]) -> None:
    """Ratios within each round, unclip's advantage above 1."""
    pairs = list(zip(results["unclip"], results["img2dataset"], strict=True))
    ratios: dict[str, Callable[[Result, Result], float]] = {
        "first 500": lambda ours, theirs: theirs.first_s / ours.first_s,
        "steady state": lambda ours, theirs: ours.rate / theirs.rate,
    }
    for name, ratio in ratios.items():
        values = sorted(ratio(*pair) for pair in pairs)
        print(f"{name}: {', '.join(f'{v:.2f}' for v in values)} times img2dataset")


if __name__ == "__main__":
    main()
