"""What several commands begin with."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from pipelines.config.load import load_config
from pipelines.config.sections import PipelineConfig
from pipelines.core.errors import PipelineError
from pipelines.core.plan import Scope
from pipelines.core.stage import Graph
from pipelines.core.store import Store
from pipelines.graph import unclip_graph


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
    return target


def scope_of(arguments: argparse.Namespace) -> Scope:
    """`--only`, `--from` and `--force`."""
    return Scope(only=arguments.only, start=arguments.start, force=tuple(arguments.force))


def format_table(rows: list[list[str]]) -> str:
    """Rows of words in aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{word:<{w}}" for word, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
