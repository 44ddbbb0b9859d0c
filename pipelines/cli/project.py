"""A project: a configuration with its stages and its store."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.cli.options import ProjectChoice, ScopeChoice
from pipelines.config.files import find_config
from pipelines.config.load import load_config
from pipelines.config.sections import PipelineConfig, RunSection
from pipelines.core.errors import PipelineError
from pipelines.core.graph import Graph
from pipelines.core.lookup import Lookup, find_results
from pipelines.core.plan import Plan, Scope, make_plan
from pipelines.core.store import Store
from pipelines.evaluation.inputs import Weights
from pipelines.graph import unclip_graph
from pipelines.stages.evaluate import Evaluate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Project:
    """A configuration, its stages and its store, and the command-line words that chose them."""

    choice: ProjectChoice
    config: PipelineConfig
    graph: Graph
    store: Store

    def plan(self, scope: ScopeChoice) -> Plan:
        """What a run would do. Raises `PipelineError` if the run could not start."""
        self.store.check_root()
        wanted = Scope(only=scope.only, start=scope.start, force=scope.force)
        plan = make_plan(self.graph, self.store, wanted)
        plan.check()
        return plan

    @property
    def run(self) -> RunSection:
        """Where the pipeline runs, and with which resources."""
        return self.config.run

    @property
    def evaluation(self) -> Evaluate:
        """The stage that draws images with all models."""
        stage = self.graph[Evaluate.kind]
        assert isinstance(stage, Evaluate)
        return stage

    @property
    def model_stages(self) -> list[str]:
        """The stages whose models draw images: CLIP, the first prior, decoder, upsamplers."""
        stage = self.evaluation
        priors = list(stage.priors.values())[:1]
        return [s.name for s in (stage.clip, *priors, stage.decoder, *stage.upsamplers.values())]

    def load_weights(self, found: Lookup) -> Weights:
        """The artifacts of the models that draw images."""
        stage = self.evaluation
        return Weights(
            clip=found.load(stage.clip),
            priors={name: found.load(prior) for name, prior in list(stage.priors.items())[:1]},
            decoder=found.load(stage.decoder),
            upsamplers={name: found.load(each) for name, each in stage.upsamplers.items()},
        )

    def find(self, stages: Sequence[str]) -> Lookup:
        """The finished results of these stages. Uses recorded digests of outside inputs if it can.

        Raises `PipelineError` if one of the results is missing.
        """
        found = find_results(self.graph, self.store, stages)
        missing = list(stages) if found is None else found.missing(stages)
        if found is None or missing:
            raise PipelineError(
                f"{self.store.root} does not hold {', '.join(missing)} of the configuration "
                f"{self.choice.config}. Train them first with `unclip run`, name the configuration "
                "and store that they were made with, or give a folder of models with --models."
            )
        return found


def open_project(choice: ProjectChoice) -> Project:
    """Read the configuration with its overrides; writes nothing."""
    config = load_config(choice.config, choice.overrides)
    project = Project(choice, config, unclip_graph(config), Store(config.run.store))
    log.debug("opened %s with the store %s", choice.config, project.store.root)
    return project


def copy_config(name: str, path: str) -> None:
    """Copy a packaged configuration to a new file, with a store of its own."""
    text = find_config(name).read_text()
    text = re.sub(r"(?m)^  store: .*$", f"  store: runs/{Path(path).stem}", text)
    try:
        with Path(path).open("x") as file:
            file.write(text)
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be written: {error.strerror}. Give another path: unclip init PATH."
        ) from error
