"""A graph of stages, in the order of their dependencies."""

import difflib
from collections.abc import Iterable

from pipelines.core.errors import PipelineError
from pipelines.core.stage import Artifact, Stage


class Graph:
    """The targets and all stages that they depend on, each after its dependencies."""

    def __init__(self, targets: Iterable[Stage[Artifact]]) -> None:
        self.stages: dict[str, Stage[Artifact]] = {}
        for target in targets:
            self._add(target)

    def _add(self, stage: Stage[Artifact]) -> None:
        known = self.stages.get(stage.name)
        if known is not None:
            if known != stage:
                raise PipelineError(
                    f"Two different stages are both named {stage.name!r}. Give one of them another "
                    "name: it is the stage's folder in the store."
                )
            return
        for dependency in stage.dependencies.values():
            self._add(dependency)
        self.stages[stage.name] = stage

    def __getitem__(self, name: str) -> Stage[Artifact]:
        if name not in self.stages:
            close = difflib.get_close_matches(name, self.stages, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise PipelineError(
                f"There is no stage {name!r}.{hint} The stages are: {', '.join(self.stages)}."
            )
        return self.stages[name]

    def downstream(self, name: str) -> set[str]:
        """The stage and all stages that depend on it, directly or not."""
        found = {self[name].name}
        for stage in self.stages.values():  # in dependency order
            if any(d.name in found for d in stage.dependencies.values()):
                found.add(stage.name)
        return found
