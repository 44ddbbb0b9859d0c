"""What a run would do and why, before anything starts."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from pipelines.core.errors import PipelineError
from pipelines.core.fingerprint import differences
from pipelines.core.graph import Graph
from pipelines.core.lease import holder_of
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Header, Manifest, Store

Action = Literal["cached", "run", "skip"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan: what will happen to it and the reason, in words."""

    stage: Stage[Artifact]
    action: Action
    reason: str
    manifest: Manifest | None  # of the finished result, if there is one
    forced: bool = False  # run even if the result exists
    continues: Manifest | None = None  # an earlier result that the work starts from


@dataclass(frozen=True)
class Plan:
    """Every stage of the graph, in dependency order."""

    steps: tuple[Step, ...]

    @property
    def to_run(self) -> list[Step]:
        """The steps that do work."""
        return [step for step in self.steps if step.action == "run"]

    @property
    def stages_to_run(self) -> list[Stage[Artifact]]:
        """The stages that do work."""
        return [step.stage for step in self.to_run]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.stage.name == name)

    def check(self) -> None:
        """Raise if a stage that will run cannot use its inputs from outside the pipeline."""
        for step in self.to_run:
            step.stage.check()


@dataclass(frozen=True)
class Scope:
    """Which stages to run even if their results exist, and which not to run."""

    only: str | None = None  # run this one and no other
    start: str | None = None  # `--from`: run this one and all that depend on it
    force: Collection[str] = ()  # run these; for all others, their keys decide as usual

    def afresh(self, graph: Graph) -> set[str]:
        """The stages that run without anything from earlier results."""
        named = {graph[name].name for name in self.force}
        return named | (graph.downstream(self.start) if self.start else set())

    def forced(self, graph: Graph) -> set[str]:
        """The stages that run even if their results exist."""
        return self.afresh(graph) | ({graph[self.only].name} if self.only else set())


def make_plan(graph: Graph, store: Store, scope: Scope) -> Plan:
    """Compare the graph with the store. Raises `PipelineError` where `only` lacks its inputs."""
    forced, afresh = scope.forced(graph), scope.afresh(graph)
    steps = tuple(
        _step(stage, store, stage.name in forced, stage.name in afresh)
        for stage in graph.stages.values()
    )
    if scope.only is None:
        return Plan(steps)
    return _only(Plan(steps), scope.only)


def _step(stage: Stage[Artifact], store: Store, forced: bool, afresh: bool) -> Step:
    manifest = store.manifest(stage.name, stage.key)
    if manifest is None:
        return _unfinished(stage, store, afresh)
    if forced:
        return Step(stage, "run", "asked to run again", manifest, forced)
    missing = store.missing_outputs(manifest)
    if missing:
        count = len(manifest.outputs) + len(manifest.shards)
        reason = (
            f"{len(missing)} of its {count} files are gone or changed in size: "
            f"{', '.join(missing[:3])}"
        )
        return Step(stage, "run", reason, None)
    return Step(stage, "cached", f"made {manifest.created_at[:16].replace('T', ' ')}", manifest)


def _unfinished(stage: Stage[Artifact], store: Store, forced: bool) -> Step:
    holder = holder_of(store.root, stage.label)
    if holder:
        return Step(stage, "run", f"is being made by {holder}", None, forced)
    if store.folder(stage.name, stage.key).is_begun():
        damage = store.damage(stage.name, stage.key)
        reason = damage or "was interrupted; resumes from the work done so far"
        return Step(stage, "run", reason, None, forced)
    earlier = store.headers(stage.name)
    if not earlier:
        return Step(stage, "run", "never run", None, forced)
    base = None if forced else stage.continues(store.read_manifests(earlier))
    reason = _changes(stage, base or earlier[0])
    if base:
        reason += f"; goes on from the result {base.key}"
    return Step(stage, "run", reason, None, forced, base)


def _changes(stage: Stage[Artifact], earlier: Header) -> str:
    """The first three differences from an earlier result, in words."""
    changes = differences(earlier.description, stage.description)
    own = [_in_words(stage, change) for change in changes]
    return "; ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")


def _in_words(stage: Stage[Artifact], change: str) -> str:
    """Turn "inputs.pairs: ab12 → cd34" into "filter changed" if that input is filter."""
    path, _, values = change.removeprefix("inputs.").partition(": ")
    if not change.startswith("inputs."):
        return f"{stage.name}.{change}"
    if path not in stage.dependencies:
        return f"the input {path} is gone"
    name = stage.dependencies[path].name
    return f"{name} is a new input" if values.startswith("new") else f"{name} changed"


def _only(plan: Plan, name: str) -> Plan:
    needed = {d.name for d in plan[name].stage.dependencies.values()}
    absent = [s for s in plan.steps if s.stage.name in needed and s.manifest is None]
    if absent:
        listed = "; ".join(f"{s.stage.name} ({s.reason})" for s in absent)
        raise PipelineError(
            f"--only {name} needs results that are not in the store: {listed}. "
            f"Run without --only, or with --from {absent[0].stage.name}."
        )
    return Plan(
        tuple(
            s
            if s.stage.name == name or s.action == "cached"
            else Step(s.stage, "skip", f"not selected: {s.reason}", s.manifest)
            for s in plan.steps
        )
    )
