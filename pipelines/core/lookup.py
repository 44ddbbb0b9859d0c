"""Finds results without reading the outside inputs that their keys depend on.

A key depends on digests of outside inputs, such as a URL list. An input may be large, or gone by
the time somebody uses the trained models. But the manifests in the store record the digests that
results were made with. With these, all keys of a graph are computed without reading any input.
"""

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pipelines.core import fingerprint
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.graph import Graph
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Manifest, Store
from unclip.config import UnclipError

log = logging.getLogger(__name__)

A = TypeVar("A", bound=Artifact)
Digests = Mapping[str, str]  # of one stage's outside inputs, by name


@dataclass(frozen=True)
class Lookup:
    """The keys of a graph's stages under one assumption about their outside inputs."""

    store: Store
    keys: Mapping[str, str]  # stage name -> key

    def folder(self, stage: str) -> Folder:
        """The stage's folder, whether or not it has finished."""
        return self.store.folder(stage, self.keys[stage])

    def manifest(self, stage: str) -> Manifest | None:
        """The stage's manifest, or None if it has not finished."""
        return self.store.manifest(stage, self.keys[stage])

    def missing(self, stages: Collection[str]) -> list[str]:
        """Those of the given stages that have not finished."""
        return [name for name in stages if self.manifest(name) is None]

    def load(self, stage: Stage[A]) -> A:
        """The artifact of a finished stage; raises `PipelineError` if it has not finished."""
        manifest = self.manifest(stage.name)
        if manifest is None:
            raise PipelineError(
                f"{stage.name} is not in {self.store.root}. Run the pipeline first."
            )
        return stage.artifact(folder=self.folder(stage.name), **manifest.metadata)  # type: ignore[return-value]


def find_results(graph: Graph, store: Store, wanted: Collection[str]) -> Lookup | None:
    """The newest results of the graph's settings that include all wanted stages.

    If no lookup has all of them, returns the one that lacks the fewest. Returns None if the inputs
    are neither recorded nor readable. All results of a lookup were made from the same inputs.
    """
    best: Lookup | None = None
    for lookup in itertools.chain(recorded(graph, store), actual(graph, store)):
        missing = lookup.missing(wanted)
        if not missing:
            log.info("using %s", ", ".join(f"{name}/{lookup.keys[name]}" for name in wanted))
            return lookup
        if best is None or len(missing) < len(best.missing(wanted)):
            best = lookup
    return best


def recorded(graph: Graph, store: Store) -> Iterator[Lookup]:
    """A lookup for each combination of recorded digests, the newest first."""
    choices: dict[str, list[Digests]] = {}
    for stage in graph.stages.values():
        found = [m.description.get("digests") or {} for m in store.headers(stage.name)]
        distinct = [d for n, d in enumerate(found) if d and d not in found[:n]]
        if distinct:
            choices[stage.name] = distinct
    if choices:
        for digests in itertools.product(*choices.values()):
            yield from _assuming(dict(zip(choices, digests, strict=True)), graph, store)


def actual(graph: Graph, store: Store) -> Iterator[Lookup]:
    """The lookup for the inputs as they are now; yields nothing if they cannot be read."""
    return _assuming({}, graph, store)


def _assuming(digests: Mapping[str, Digests], graph: Graph, store: Store) -> Iterator[Lookup]:
    keys: dict[str, str] = {}
    try:
        for stage in graph.stages.values():  # in dependency order
            inputs = {path: keys[s.name] for path, s in stage.dependencies.items()}
            own = digests.get(stage.name) or stage.digests()
            keys[stage.name] = fingerprint.digest(stage.describe(inputs, own))
    except (PipelineError, UnclipError) as error:  # such as a URL list that is gone
        log.debug("an outside input cannot be read: %s", error)
        return
    yield Lookup(store, keys)
