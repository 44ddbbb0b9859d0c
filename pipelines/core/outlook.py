"""How much of each stage would be new: the shards that a run would make, before it starts."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipelines.core.plan import Plan, Step
from pipelines.core.stage import Artifact, Outlook, ShardEntry, Shards, Stage
from pipelines.core.store import Manifest, Store

log = logging.getLogger(__name__)


def outlooks(plan: Plan, store: Store) -> dict[str, Outlook]:
    """By stage, what a run would make; stages that do not work shard by shard are left out.

    Reads a list that has changed. Never writes to the store.
    """
    found: dict[str, Outlook] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for step in plan.steps:
            outlook = _outlook(step, store, found, Path(scratch))
            if outlook is not None:
                found[step.stage.name] = outlook
    return found


def _outlook(
    step: Step, store: Store, known: Mapping[str, Outlook], scratch: Path
) -> Outlook | None:
    stage = step.stage
    if not issubclass(stage.artifact, Shards):
        return None
    if step.action != "run" and step.manifest is not None:
        return _finished(stage, step.manifest, store)
    inputs = {path: known[d.name] for path, d in stage.dependencies.items() if d.name in known}
    own = stage.foresee(store, inputs, scratch)
    if own is None and inputs:
        own = _from_inputs(stage, store, inputs)
    if own is not None and step.forced and step.manifest is not None:
        return Outlook(own.rows, {}, own.urls, "all of it made again")
    return own


def _finished(stage: Stage[Artifact], manifest: Manifest, store: Store) -> Outlook:
    shards = _artifact(stage, manifest, store)
    rows = {name: entry.rows for name, entry in shards.shards.items()}
    return Outlook(rows, shards.shards, {name: shards.url(name) for name in shards.shards})


def _artifact(stage: Stage[Artifact], manifest: Manifest, store: Store) -> Shards:
    made = stage.artifact.of(store, stage.name, manifest)
    assert isinstance(made, Shards)
    return made


def _from_inputs(
    stage: Stage[Artifact], store: Store, inputs: Mapping[str, Outlook]
) -> Outlook | None:
    """Which shards were made before from the same inputs with the same settings."""
    rows = {name: count for outlook in inputs.values() for name, count in outlook.rows.items()}
    for manifest in store.manifests(stage.name):
        if _settings(manifest.description) == _settings(stage.description) and _same_others(
            stage, manifest, inputs
        ):
            made = _artifact(stage, manifest, store)
            same = _same_inputs(stage, manifest, store, inputs)
            old = {name: entry for name, entry in made.shards.items() if name in same}
            return Outlook(rows, old, {name: made.url(name) for name in old})
    return Outlook(rows, {}, {})


def _settings(description: Mapping[str, object]) -> dict[str, object]:
    """All that a shard is made from beside its inputs: also the content of deny lists."""
    return {name: value for name, value in description.items() if name != "inputs"}


def _same_others(stage: Stage[Artifact], manifest: Manifest, inputs: Mapping[str, Outlook]) -> bool:
    """Whether the inputs that are no shards are the same, such as a model."""
    return all(
        manifest.dependencies.get(path) == dependency.label
        for path, dependency in stage.dependencies.items()
        if path not in inputs
    )


def _same_inputs(
    stage: Stage[Artifact], manifest: Manifest, store: Store, inputs: Mapping[str, Outlook]
) -> set[str]:
    """The shards whose inputs are those of an earlier result."""
    same: set[str] | None = None
    for path, outlook in inputs.items():
        before = _input(stage.dependencies[path], manifest.dependencies.get(path), store)
        equal = {n for n, e in outlook.old.items() if before.get(n, _NOTHING).digest == e.digest}
        same = equal if same is None else same & equal
    return same or set()


_NOTHING = ShardEntry(0)


def _input(stage: Stage[Artifact], label: str | None, store: Store) -> Mapping[str, ShardEntry]:
    manifest = store.manifest(*label.split("/")) if label else None
    return {} if manifest is None else _artifact(stage, manifest, store).shards
