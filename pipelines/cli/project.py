"""A project: a configuration with its stages and its store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.cli.options import ProjectChoice, ScopeChoice
from pipelines.config.load import find_config, load_config
from pipelines.config.sections import PipelineConfig
from pipelines.core.errors import PipelineError
from pipelines.core.lookup import Lookup, find_results
from pipelines.core.plan import Plan, Scope, make_plan
from pipelines.core.stage import Graph
from pipelines.core.store import Store
from pipelines.graph import unclip_graph

log = logging.getLogger(__name__)

MODELS = ("clip", "prior", "decoder", "upsampler_1", "upsampler_2")


@dataclass(frozen=True)
class Project:
    """A configuration, its stages and its store, and the command-line words that chose them."""

    choice: ProjectChoice
    config: PipelineConfig
    graph: Graph
    store: Store

    def plan(self, scope: ScopeChoice) -> Plan:
        """What a run would do. Raises `PipelineError` where it could not begin."""
        self.store.check_root()
        wanted = Scope(only=scope.only, start=scope.start, force=scope.force)
        plan = make_plan(self.graph, self.store, wanted)
        if plan["download"].action == "run":
            self.config.source.check()
        plan.check()
        return plan

    @cached_property
    def model_stages(self) -> tuple[str, ...]:
        """The stages whose models draw images, CLIP first."""
        return tuple(name for name in MODELS if name in self.graph.stages)

    def find(self, stages: Sequence[str]) -> Lookup:
        """The finished results of these stages; reads no outside input that the store records.

        Raises `PipelineError` where one of them is missing.
        """
        found = find_results(self.graph, self.store, stages)
        missing = list(stages) if found is None else found.missing(stages)
        if found is None or missing:
            raise PipelineError(
                f"{self.store.root} does not hold {', '.join(missing)} of this configuration. "
                "Train them first with `unclip run`, name the configuration and store that they "
                "were made with, or give a folder of models with --models."
            )
        return found


def open_project(choice: ProjectChoice) -> Project:
    """Read the configuration with its overrides; writes nothing."""
    config = load_config(choice.config, choice.overrides)
    project = Project(choice, config, unclip_graph(config), Store(config.run.store))
    log.debug("opened %s with the store %s", choice.config, project.store.root)
    return project


def copy_config(name: str, path: str) -> None:
    """Copy a packaged configuration to a path where no file is yet."""
    text = find_config(name).read_text()
    try:
        with Path(path).open("x") as file:
            file.write(text)
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be written: {error.strerror}. Give another path: unclip init PATH."
        ) from error
