"""The memory of a worker that downloads large photos.

`python -m benchmarks.worker_memory PICTURES` downloads one slice of photos of 1,024 pixels from a
server on this machine, with two renditions, and prints the worker's largest resident size.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.lists import peak_mib
from benchmarks.photos import arguments, serve
from pipelines.artifacts.schema import pairs, url_list
from pipelines.core.folder import Folder
from pipelines.core.shards import make_shard
from pipelines.data.download import DownloadItem, DownloadWorker
from pipelines.data.download_config import DownloadConfig

RENDITIONS = (64, 256)


def download(url: str, folder: str, side: int, results: "multiprocessing.Queue[object]") -> None:
    """Make the shard in this process, and report what it took."""
    config = DownloadConfig(
        image_size=side,
        resize_mode="center_crop",
        encode_format="jpg",
        encode_quality=95,
        renditions=RENDITIONS,
        max_bytes=50_000_000,
        connections=64,
        connections_per_host=64,
        retries=0,
        timeout_s=60.0,
        min_success_rate=0.0,
        allow_hosts=("127.0.0.1",),
    )
    schema = pairs({}, RENDITIONS)
    began = time.monotonic()
    record = make_shard(DownloadWorker(config), DownloadItem(url), Folder(folder), "shard", schema)
    results.put((record.rows, sum(record.files.values()), time.monotonic() - began, peak_mib()))


def main() -> None:
    """Download with one worker."""
    parser = arguments(__doc__)
    parser.set_defaults(rows=2000, side=1024)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    size = (options.side, options.side)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(options.pictures, options.rows, size) as photos,
    ):
        rows = [photos.row(number) for number in range(options.rows)]
        path = Path(folder) / "slice.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=url_list({})), path)
        results = context.Queue()
        words = (str(path), folder, options.side, results)
        process = context.Process(target=download, args=words)
        process.start()
        count, size_bytes, took_s, peak = results.get()
        process.join()
    print(
        f"{count:,} photos of {options.side} pixels, a shard of {size_bytes / 1e6:.0f} MB: "
        f"{took_s:.0f} s, peak {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
