"""Looks up what became of rows of the list, and fetches some of them again."""

import csv
import json
import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cli.command import Output
from pipelines.cli.listing import format_table
from pipelines.cli.options import ScopeChoice
from pipelines.cli.project import Project
from pipelines.cli.run import run_project
from pipelines.core.errors import PipelineError
from pipelines.core.stage import load_artifact
from pipelines.data.earlier import Retry
from pipelines.data.fates import DataResults, Fate, Wanted
from pipelines.data.retries import add_retry
from pipelines.stages.download import Download

log = logging.getLogger(__name__)

FATES = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("url", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("time", pa.timestamp("ms", "UTC")),
    ]
)
SHOWN = ("key", "stage", "reason", "detail", "attempts", "url")
MAX_CELL = 60  # characters


def show_rows(project: Project, wanted: Wanted, *, limit: int, out: str | None) -> None:
    """Print the rows that are wanted, and write all of them to a file if one is named.

    If all rows are wanted, prints only rejected ones.

    Raises `PipelineError` if nothing was downloaded yet, or for an unknown file suffix.
    """
    results = _results(project)
    counts: Counter[tuple[str, str]] = Counter()
    listed = 0
    first: list[Fate] = []
    with _Writer(out) as writer:
        for _, fates in results.fates(wanted):
            counts.update((f["stage"] or "", f["reason"] or "kept") for f in fates)
            shown = fates if wanted.is_specific else [f for f in fates if f["reason"]]
            listed += len(shown)
            first += shown[: limit - len(first)]
            writer.write(fates)
    if not counts:
        print("No row matches. A stage that has not run yet with this configuration has no rows.")
        return
    table = [[stage, reason, f"{n:,}"] for (stage, reason), n in sorted(counts.items())]
    print(format_table([["stage", "reason", "rows"], *table]))
    if first:
        print()
        print(format_table([list(SHOWN), *([_cell(f[name]) for name in SHOWN] for f in first)]))
    if listed > len(first):
        print(f"\n{len(first)} of {listed:,} rows. --limit shows more, --out writes all.")
    if out:
        print(f"\nWrote {counts.total():,} rows to {out}.")


def retry_rows(project: Project, retry: Retry, output: Output) -> None:
    """Note which rows are fetched again, and run the download. Raises `PipelineError`."""
    if not (retry.reasons or retry.urls or retry.keys):
        raise PipelineError("Say which rows to fetch again, with --reason, --url or --key.")
    stage = _download(project)
    slices, count = [], 0
    for name, fates in _results(project, only_download=True).fates(Wanted()):
        matching = sum(retry.matches(fate) for fate in fates)
        count += matching
        slices += [name] * bool(matching)
    if not count:
        raise PipelineError(
            "No row that was fetched matches: only reasons of the download can be retried. `unclip "
            "rows` lists the reasons and their rows."
        )
    print(f"Fetching {_counted(count, 'row')} again, from {_counted(len(slices), 'slice')}.")
    add_retry(stage.log_folder, stage.log_name, retry, slices)
    again = _reopened(project)
    run_project(again, ScopeChoice(only="download", start=None, force=()), output)
    words = shlex.join([project.choice.config, *project.choice.flags])
    print(f"`unclip run {words}` brings the later stages up to date.")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _reopened(project: Project) -> Project:
    """The project with new keys: the log of retries has changed."""
    from pipelines.cli.project import open_project

    return open_project(project.choice)


def _download(project: Project) -> Download:
    stage = project.graph["download"]
    assert isinstance(stage, Download)
    return stage


def _results(project: Project, *, only_download: bool = False) -> DataResults:
    """The results of the data stages; of an unfinished download, the shards that exist."""
    store, graph = project.store, project.graph
    pairs = _download(project).so_far(store)
    if only_download:
        return DataResults(pairs)
    later: list[Any] = [
        load_artifact(store, graph[name]) if store.manifest(name, graph[name].key) else None
        for name in ("filter", "select")
    ]
    return DataResults(pairs, *later)


def _cell(value: object) -> str:
    text = "" if value is None else "".join(c if c.isprintable() else " " for c in str(value))
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


class _Writer:
    """Writes rows to a CSV, JSON lines or Parquet file, some at a time."""

    def __init__(self, path: str | None) -> None:
        """Raises `PipelineError` for another suffix."""
        self.path = path
        self.suffix = Path(path).suffix if path else ""
        if path and self.suffix not in (".csv", ".jsonl", ".parquet"):
            raise PipelineError(f"--out {path} must end in .csv, .jsonl or .parquet.")

    def __enter__(self) -> "_Writer":
        """Raises `PipelineError` if the file cannot be written."""
        try:
            self._open()
        except OSError as error:
            raise PipelineError(
                f"{self.path} cannot be written: {error.strerror or error}. Give another path "
                "with --out."
            ) from error
        return self

    def _open(self) -> None:
        if self.suffix == ".parquet":
            self.parquet = pq.ParquetWriter(str(self.path), FATES)
        elif self.path:
            self.text = Path(self.path).open("w", newline="")  # noqa: SIM115 - closed on exit
            if self.suffix == ".csv":
                csv.writer(self.text).writerow(FATES.names)

    def __exit__(self, *_: object) -> None:
        if self.suffix == ".parquet":
            self.parquet.close()
        elif self.path:
            self.text.close()

    def write(self, fates: list[Fate]) -> None:
        """Add rows."""
        if self.suffix == ".parquet":
            self.parquet.write_table(pa.Table.from_pylist(fates, schema=FATES))
        elif self.suffix == ".csv":
            csv.writer(self.text).writerows(_values(fates))
        elif self.path:
            self.text.writelines(json.dumps(fate, default=str) + "\n" for fate in fates)


def _values(fates: Iterable[Fate]) -> Iterator[list[object]]:
    return ([fate[name] for name in FATES.names] for fate in fates)
