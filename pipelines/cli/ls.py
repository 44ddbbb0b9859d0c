"""`unclip ls`: the results in the store."""

import argparse

from pipelines.cli.common import format_table, open_project
from pipelines.core.store import Manifest


def run(arguments: argparse.Namespace) -> None:
    """One line a result; those of the present configuration are marked."""
    project = open_project(arguments)
    rows = [["", "stage", "key", "made", "took", "size"]]
    for stage in project.graph.stages.values():
        for manifest in project.store.manifests(stage.name):
            rows.append(_row(manifest, is_present=manifest.key == stage.key))
    if len(rows) == 1:
        print(f"{project.store.root} holds no results yet. `unclip run` makes them.")
        return
    print(format_table(rows))
    print(f"\n* of the present configuration, in {project.store.root}")


def _row(manifest: Manifest, *, is_present: bool) -> list[str]:
    size_mb = sum(manifest.outputs.values()) / 1e6
    return [
        "*" if is_present else "",
        manifest.stage,
        manifest.key,
        manifest.created_at[:16].replace("T", " "),
        f"{manifest.duration_s:.0f} s",
        f"{size_mb:.1f} MB",
    ]
