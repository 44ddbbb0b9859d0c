"""What a list costs that grows, is edited and is retried: the requests at the server.

`python -m benchmarks.growing PICTURES` runs the stages list, download and filter on Ray for a list
of photos from a server on this machine, then changes the list and runs them again.
"""

import csv
import random
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.photos import Photos, arguments, serve
from pipelines.config.load import load_config
from pipelines.core.graph import Graph
from pipelines.core.outlook import outlooks
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.store import Store
from pipelines.data.earlier import Retry
from pipelines.data.fates import DataResults, Wanted
from pipelines.data.retries import add_retry
from pipelines.graph import unclip_graph
from pipelines.stages.download import Download

STAGES = ("list", "download", "filter")
Row = Mapping[str, str]


class Trial:
    """One list and its store."""

    def __init__(self, folder: Path, photos: Photos) -> None:
        self.photos, self.path = photos, folder / "list.csv"
        self.store = Store(str(folder / "store"))
        overrides = [
            f"source.urls={self.path}",
            "source.rows_per_shard=500",
            "download.image_size=256",
            "download.resize_mode=center_crop",
            "download.encode_format=jpg",
            "download.encode_quality=95",
            "download.connections=32",
            "download.retries=0",
            "download.min_success_rate=0.5",
            f"run.store={self.store.root}",
        ]
        self.overrides = overrides

    def write(self, rows: Iterable[Row]) -> None:
        """Replace the list."""
        with self.path.open("w", newline="") as out:
            writer = csv.DictWriter(out, ["url", "caption"])
            writer.writeheader()
            writer.writerows(rows)

    @property
    def graph(self) -> Graph:
        """The three stages, with their keys as they are now."""
        graph = unclip_graph(load_config("demo", self.overrides))
        return Graph([graph["filter"]])

    @property
    def download(self) -> Download:
        """The second stage."""
        stage = self.graph["download"]
        assert isinstance(stage, Download)
        return stage

    def run(self, what: str) -> None:
        """Run what is new; print what the plan said, and what the server saw."""
        graph = self.graph
        plan = make_plan(graph, self.store, Scope())
        foreseen = outlooks(plan, self.store).get("download")
        self.photos.requests()
        began = time.monotonic()
        settings = RunSettings(
            resources={name: Resources(workers=2, cpus=1) for name in STAGES},
            cluster=ClusterSettings(cpus=2),
        )
        run_plan(plan, self.store, settings)
        took_s = time.monotonic() - began
        manifest = self.store.manifest("download", graph["download"].key)
        assert manifest is not None
        counts = manifest.metadata["counts"]
        print(
            f"| {what} | {foreseen} | {len(self.photos.requests()):,} | {counts['downloaded']:,} "
            f"of {counts['listed']:,} | {took_s:.0f} s |",
            flush=True,
        )

    def retry(self, reason: str) -> None:
        """Ask for rows to be fetched again."""
        stage, retry = self.download, Retry(reasons=(reason,))
        fates = DataResults(stage.so_far(self.store)).fates(Wanted(reasons=(reason,)))
        slices = [name for name, rows in fates if rows]
        add_retry(stage.log_folder, stage.log_name, retry, slices)


def main() -> None:
    """Run, extend, edit and retry."""
    options = arguments(__doc__).parse_args()
    count = options.rows
    more = count // 100
    side = (options.side, options.side)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(options.pictures, count + more + 10, side) as photos,
    ):
        trial = Trial(Path(folder), photos)
        rows = [photos.row(number) for number in range(count)]
        dead = random.Random(0).sample(range(count), 100)
        photos.fail(dead, 503)
        print(
            "| step | plan for the download | requests | downloaded | took |\n|---|---|---|---|---|"
        )
        trial.write(rows)
        trial.run(f"{count:,} rows, 100 of them answered with 503")
        trial.run("the same list again")
        rows += [photos.row(number) for number in range(count, count + more)]
        trial.write(rows)
        trial.run(f"1% more rows ({more})")
        middle = len(rows) // 2
        edited = [{**row, "caption": f"{row['caption']} (edited)"} for row in rows[middle:][:10]]
        new = [photos.row(number) for number in range(count + more, count + more + 10)]
        rows[middle : middle + 20] = [*edited, *new]
        trial.write(rows)
        trial.run("in the middle: 10 captions changed, 10 rows removed, 10 new ones")
        photos.fail([], 200)
        trial.retry("http_503")
        trial.run("retry of http_503")
        trial.overrides = [*trial.overrides, "filter.rules.caption_length.min_chars=10"]
        trial.run("another rule of the filter")


if __name__ == "__main__":
    main()
