"""The download against img2dataset's own, with the same processes, connections and settings.

`python -m benchmarks.download PICTURES` downloads the same photos with both, in turn, several
times, from a server on this machine. The server notes when each request came, which gives the time
to the first 500 photos, and the rate over the second half (the steady state). Both read the list
from the same Parquet file and write Parquet. Unclip starts a Ray of its own, and is measured a
second time with a Ray that runs already, as a cluster's does.
"""

import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.photos import Photos, arguments, serve

PROCESSES, CONNECTIONS = 2, 16
FIRST = 500
SLICE = 500  # rows of a shard
ON_RAY = "unclip on a running Ray"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path.cwd()),
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

OURS = """
import sys
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.graph import Graph
from pipelines.core.store import Store
from pipelines.data.download_config import DownloadConfig
from pipelines.data.sources import SourceConfig
from pipelines.stages.download import Download
from pipelines.stages.url_list import UrlList
urls, folder, side, processes, connections, rows, address = sys.argv[1:]
source = SourceConfig(
    urls=urls, url_column="url", caption_column="caption", rows_per_shard=int(rows))
config = DownloadConfig(
    resize_mode="center_crop", image_size=int(side), encode_format="jpg", encode_quality=95,
    max_bytes=10**7, connections=int(connections), connections_per_host=1000, retries=0,
    timeout_s=10.0, min_success_rate=0.9, allow_hosts=("127.0.0.1",))
graph = Graph([Download(UrlList(source), config, source)])
store = Store(f"{folder}/store")
resources = {n: Resources(workers=int(processes), cpus=1) for n in ("list", "download")}
cluster = ClusterSettings(address=address) if address else ClusterSettings(cpus=int(processes))
run_plan(make_plan(graph, store, Scope()), store, RunSettings(resources=resources, cluster=cluster))
"""
THEIRS = """
import sys
from img2dataset import download
if __name__ == "__main__":
    urls, folder, side, processes, connections, rows, _ = sys.argv[1:]
    download(url_list=urls, input_format="parquet", url_col="url", caption_col="caption",
             output_folder=f"{folder}/images", output_format="parquet", image_size=int(side),
             resize_mode="center_crop", encode_quality=95, processes_count=int(processes),
             thread_count=int(connections), number_sample_per_shard=int(rows),
             distributor="multiprocessing", enable_wandb=False)
"""


class Result(NamedTuple):
    """One download."""

    first_s: float  # from the start of the program to request number `FIRST`
    rate: float  # photos a second in the second half


class Options(NamedTuple):
    """What all programs are given."""

    side: int
    rows: int
    address: str = ""  # of a Ray that runs


def measure(program: str, photos: Photos, urls: Path, options: Options) -> Result:
    """Run one program in a process of its own."""
    side, rows, address = options
    photos.requests()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "program.py"
        script.write_text(program)
        words = [urls, folder, side, PROCESSES, CONNECTIONS, SLICE, address]
        began = time.time()
        subprocess.run(
            [sys.executable, str(script), *map(str, words)],
            check=True,
            capture_output=True,
            cwd=Path.cwd(),
            env=ENVIRONMENT,
        )
    times = sorted(photos.requests())
    assert len(times) == rows, (len(times), rows)
    half = rows // 2
    return Result(times[FIRST - 1] - began, (rows - half) / (times[-1] - times[half - 1]))


def main() -> None:
    """Download with both, in turn."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stored", type=int, default=256, help="side of the stored images")
    options = parser.parse_args()
    size = (options.side, options.side)
    given = Options(options.stored, options.rows)
    results: dict[str, list[Result]] = {name: [] for name in ("unclip", ON_RAY, "img2dataset")}
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(options.pictures, options.rows, size) as photos,
    ):
        urls = Path(folder) / "list.parquet"
        pq.write_table(pa.Table.from_pylist([photos.row(n) for n in range(options.rows)]), urls)
        for number in range(options.rounds):
            order: list[str] = list(results) if number % 2 == 0 else list(results)[::-1]
            for name in order:
                with running_ray() if name == ON_RAY else nullcontext("") as address:
                    program = THEIRS if name == "img2dataset" else OURS
                    result = measure(program, photos, urls, given._replace(address=address))
                results[name].append(result)
                print(f"round {number + 1} {name:<22} {result}", flush=True)
    print("\n| | first 500 | steady state |\n|---|---|---|")
    for name, found in results.items():
        first_s, rate = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {first_s:.1f} s | {rate:.0f} photos/s |")
    for name in ("unclip", ON_RAY):
        _print_ratios(name, results[name], results["img2dataset"])


@contextmanager
def running_ray() -> Iterator[str]:
    """A Ray of one node in a process of its own; gives its address."""
    code = (
        f"import ray; print(ray.init(num_cpus={PROCESSES},"
        " include_dashboard=False).address_info['gcs_address'], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()  # with the end of its input, it ends


def _print_ratios(name: str, ours: list[Result], theirs: list[Result]) -> None:
    """Ratios within each round, unclip's advantage above 1."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios: dict[str, Callable[[Result, Result], float]] = {
        "first 500": lambda ours, theirs: theirs.first_s / ours.first_s,
        "steady state": lambda ours, theirs: ours.rate / theirs.rate,
    }
    for what, ratio in ratios.items():
        values = sorted(ratio(*pair) for pair in pairs)
        print(f"{name}, {what}: {', '.join(f'{v:.2f}' for v in values)} times img2dataset")


if __name__ == "__main__":
    main()
