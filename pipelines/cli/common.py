"""What several commands begin with."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.config.load import load_config
from pipelines.config.sections import PipelineConfig
from pipelines.core.errors import PipelineError
from pipelines.core.plan import Plan, Scope, make_plan
from pipelines.core.stage import Graph
from pipelines.core.store import Store
from pipelines.graph import unclip_graph

WRITABLE = (".png", ".jpg", ".jpeg", ".webp")  # pictures that `--out` may name


@dataclass(frozen=True)
class Project:
    """A configuration, its stages and its store."""

    config: PipelineConfig
    graph: Graph
    store: Store


def open_project(arguments: argparse.Namespace) -> Project:
    """Read the configuration with its overrides; nothing is written."""
    config = load_config(arguments.config, overrides(arguments))
    return Project(config, unclip_graph(config), Store(config.run.store))


def plan_of(project: Project, arguments: argparse.Namespace) -> Plan:
    """What a run would do. Raises `PipelineError` where it could not begin."""
    project.store.check_root()
    plan = make_plan(project.graph, project.store, scope_of(arguments))
    plan.check()
    return plan


def overrides(arguments: argparse.Namespace) -> list[str]:
    """`--set` with `--store` as one more of them."""
    store = [f"run.store={arguments.store}"] if arguments.store else []
    return [*arguments.overrides, *store]


def target_of(arguments: argparse.Namespace) -> Path:
    """`--out`; raises `PipelineError` where nothing can be written there."""
    target = Path(arguments.out)
    if not target.parent.is_dir():
        raise PipelineError(f"There is no folder {target.parent} to write {target.name} into.")
    if target.is_dir():
        raise PipelineError(f"--out {target} is a folder; give the name of a picture in it.")
    if target.suffix.lower() not in WRITABLE:
        raise PipelineError(
            f"--out {target} does not end as a picture that can be written; give it one of the "
            f"suffixes {', '.join(WRITABLE)}."
        )
    if not os.access(target.parent, os.W_OK):
        raise PipelineError(
            f"--out {target}: the folder {target.parent} cannot be written into; name another."
        )
    return target


def scope_of(arguments: argparse.Namespace) -> Scope:
    """`--only`, `--from` and `--force`."""
    return Scope(only=arguments.only, start=arguments.start, force=tuple(arguments.force))


def format_table(rows: list[list[str]]) -> str:
    """Rows of words in aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{word:<{w}}" for word, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
