"""A stage: a frozen object that says what is made, from what.

Every field is part of a stage's identity; a field that holds another stage is a dependency;
`run(ctx)` does the work and returns a typed artifact. Where it runs and where it is stored are the
runner's and the store's business, so they cannot leak into its identity.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa

from pipelines.core import fingerprint
from pipelines.core.errors import PipelineError
from pipelines.core.events import Emit
from pipelines.core.store import Folder, Store

Metadata = dict[str, Any]  # JSON-able
T = TypeVar("T")


@dataclass(frozen=True)
class Artifact:
    """What a stage made: its folder, and facts about it, which the manifest keeps (JSON-able)."""

    folder: Folder

    def metadata(self) -> Metadata:
        """Every field but the folder, which is the store's to know."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.name != "folder"}


A_co = TypeVar("A_co", bound=Artifact, covariant=True)
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Shards(Artifact):
    """Parquet shards `<name>.parquet`, with the rows of each and what was counted over all."""

    rows: Mapping[str, int]
    counts: Mapping[str, Any]

    def schema(self) -> pa.Schema | None:
        """The schema that every shard has; None where readers expect none in particular."""
        return None

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One shard's columns, in memory. Raises `SchemaError` unless it has the schema."""
        return self.folder.read_table(f"{name}.parquet", columns, self.schema())

    @property
    def total_rows(self) -> int:
        """Rows over all shards."""
        return sum(self.rows.values())


class ShardWorker(Protocol):
    """Makes one shard; picklable, kept for many shards by the process that opens it.

    Returns the table and the facts to remember of it ("rows" is added by the engine).
    """

    def __call__(self, item: Any, /) -> tuple[pa.Table, Metadata]: ...


class Context(Protocol):
    """What a running stage may use."""

    @property
    def folder(self) -> Folder: ...

    @property
    def emit(self) -> Emit: ...

    def load(self, stage: "Stage[A]") -> A:
        """The artifact of a dependency."""
        ...

    def map_shards(
        self, worker: ShardWorker, items: Mapping[str, Any], *, schema: pa.Schema, unit: str
    ) -> dict[str, Metadata]:
        """Make every shard that is not there yet, each in a worker with the stage's resources."""
        ...

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run one function in a worker with the stage's resources."""
        ...

    def train(
        self, function: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any]
    ) -> None:
        """Run the function on all workers of the stage together, under Ray Train."""
        ...


@dataclass(frozen=True)
class Stage(ABC, Generic[A_co]):
    """Base of all stages. `version` is raised when `run` changes meaning."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    artifact: ClassVar[type[Artifact]]
    worker_group: ClassVar[bool] = False  # needs all its workers at once, as training does

    @abstractmethod
    def run(self, ctx: Context) -> A_co:
        """Make the artifact. May be called again after a kill: what is there is not made again."""

    def digests(self) -> Mapping[str, str]:
        """Digests of inputs from outside the pipeline, such as a URL list or a model's weights."""
        return {}

    @cached_property
    def dependencies(self) -> Mapping[str, "Stage[Artifact]"]:
        """Field name → the stage that it holds."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Stage)}

    @cached_property
    def description(self) -> dict[str, Any]:
        """The canonical form: all that the result follows from."""
        own = {
            f.name: fingerprint.canonical(getattr(self, f.name), where=f"{self.name}.{f.name}")
            for f in dataclasses.fields(self)
            if f.name not in self.dependencies
        }
        return {
            "stage": self.name,
            "version": self.version,
            **own,
            "inputs": {name: s.label for name, s in self.dependencies.items()},
            "digests": dict(self.digests()),
        }

    @cached_property
    def key(self) -> str:
        """The digest of the description."""
        return fingerprint.digest(self.description)

    @property
    def label(self) -> str:
        """The stage's folder in the store, "stage/key"."""
        return f"{self.name}/{self.key}"


def load_artifact(store: Store, stage: Stage[A]) -> A:
    """The artifact of a finished stage; raises `PipelineError` where it has not run."""
    manifest = store.manifest(stage.name, stage.key)
    if manifest is None:
        raise PipelineError(f"{stage.label} is not in {store.root}. Run the pipeline first.")
    return stage.artifact(folder=store.folder(stage.name, stage.key), **manifest.metadata)  # type: ignore[return-value]


class Graph:
    """All stages that some targets need, each after its dependencies."""

    def __init__(self, targets: Iterable[Stage[Artifact]]) -> None:
        self.stages: dict[str, Stage[Artifact]] = {}
        for target in targets:
            self._add(target)

    def _add(self, stage: Stage[Artifact]) -> None:
        known = self.stages.get(stage.name)
        if known is not None:
            if known.key != stage.key:
                raise PipelineError(
                    f"Two different stages are both named {stage.name!r}; a name is a folder of "
                    "the store and must be unique in a graph."
                )
            return
        for dependency in stage.dependencies.values():
            self._add(dependency)
        self.stages[stage.name] = stage

    def __getitem__(self, name: str) -> Stage[Artifact]:
        if name not in self.stages:
            raise PipelineError(
                f"There is no stage {name!r}. The stages are: {', '.join(self.stages)}."
            )
        return self.stages[name]

    def downstream(self, name: str) -> set[str]:
        """The stage and all that depends on it, directly or not."""
        found = {self[name].name}
        for stage in self.stages.values():  # in dependency order
            if any(d.name in found for d in stage.dependencies.values()):
                found.add(stage.name)
        return found
