"""A stage: a frozen object that states what is made, and from what.

The fields of a stage are its identity: its settings and the stages that it reads from, alone or in
tuples and mappings. `run(ctx)` does the work and returns a typed artifact. The runner decides where
a stage runs, and the store where its results are kept; neither is part of the stage's identity.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import pyarrow as pa

from pipelines.core import fingerprint
from pipelines.core.errors import PipelineError
from pipelines.core.events import Emit
from pipelines.core.folder import Folder
from pipelines.core.resources import Resources
from pipelines.core.shard_records import ShardRecord
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.store import Header, Manifest, Store
from pipelines.core.tables import read_table

Metadata = dict[str, Any]  # JSON-able
T = TypeVar("T")
SETTINGS_DIGITS = 12


@dataclass(frozen=True)
class Artifact:
    """What a stage made: its folder, and facts about it, which the manifest keeps (JSON-able)."""

    folder: Folder

    def metadata(self) -> Metadata:
        """Every field except the folder, which the store derives from the stage's key."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.name != "folder"}

    @classmethod
    def of(cls, store: Store, stage: str, manifest: Manifest) -> Self:
        """What a finished stage made."""
        return cls(folder=store.folder(stage, manifest.key), **manifest.metadata)


A_co = TypeVar("A_co", bound=Artifact, covariant=True)
A = TypeVar("A", bound=Artifact)


class ShardEntry(NamedTuple):
    """Where one shard of a result is."""

    rows: int
    digest: str = ""  # of its content
    stem: str = ""  # of its file in the stage's folder of shared shards; "": in the result's own


@dataclass(frozen=True)
class Shards(Artifact):
    """Parquet shards by name, and what was counted over all of them."""

    shards: Mapping[str, ShardEntry]
    counts: Mapping[str, Any]

    def __post_init__(self) -> None:
        entries = {name: ShardEntry(*entry) for name, entry in self.shards.items()}
        object.__setattr__(self, "shards", entries)  # a manifest has lists

    def schema(self) -> pa.Schema | None:
        """The schema that every shard has; None if readers expect no particular one."""
        return None

    def url(self, name: str) -> str:
        """The URL of a shard's file."""
        stem = self.shards[name].stem
        folder = self.folder.shared() if stem else self.folder
        return folder.file(f"{stem or name}.parquet")

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One shard's columns, in memory. Raises `SchemaError` unless it has the schema."""
        return read_table(self.url(name), columns, self.schema())

    @property
    def total_rows(self) -> int:
        """Rows over all shards."""
        return sum(entry.rows for entry in self.shards.values())


@dataclass(frozen=True)
class Outlook:
    """What a run of a stage would make, shard by shard."""

    rows: Mapping[str, int]  # of each shard; of a new one, at most
    old: Mapping[str, ShardEntry]  # the shards that exist already
    urls: Mapping[str, str]  # of shards that can be read already
    note: str = ""  # such as how many rows are fetched

    @property
    def new(self) -> list[str]:
        """The shards that have to be made."""
        return [name for name in self.rows if name not in self.old]

    def __str__(self) -> str:
        new, rows = self.new, sum(self.rows[name] for name in self.new)
        if not new:
            return "all of its shards exist"
        text = f"{len(new):,} of {len(self.rows):,} shards are new, with at most {rows:,} rows"
        return f"{text}; {self.note}" if self.note else text


def entries(records: Mapping[str, ShardRecord]) -> dict[str, ShardEntry]:
    """The entries of shared shards, by name."""
    return {n: ShardEntry(r.rows, r.digest, r.stem) for n, r in records.items()}


class ShardWorker(Protocol):
    """Makes one shard. Picklable: each worker process unpickles it once, for many shards.

    Writes the rows to `out` and returns metadata (JSON-able) for the shard's record.
    """

    def __call__(self, item: Any, out: ShardWriter, /) -> Metadata: ...


class Context(Protocol):
    """What a running stage may use."""

    @property
    def folder(self) -> Folder: ...

    @property
    def emit(self) -> Emit: ...

    @property
    def resources(self) -> Resources:
        """Those of each worker of the stage, and their number."""
        ...

    def load(self, stage: "Stage[A]") -> A:
        """The artifact of a dependency."""
        ...

    def earlier(self) -> Sequence[Manifest]:
        """The finished results of stages of this name, the newest first; none with `--force`."""
        ...

    def folder_of(self, result: Header) -> Folder:
        """Where a result is stored."""
        ...

    @property
    def is_forced(self) -> bool:
        """Whether to start afresh, without earlier results."""
        ...

    def existing(self, made_from: Mapping[str, Any]) -> dict[str, ShardRecord]:
        """The shards that exist already, by name; see `map_shards`."""
        ...

    def map_shards(
        self,
        worker: ShardWorker,
        items: Mapping[str, Any],
        *,
        schema: pa.Schema,
        unit: str,
        made_from: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> dict[str, ShardRecord]:
        """Make every missing shard, each in a worker with the stage's resources.

        items: what the worker gets, by the shard's name; looked up only for missing shards.
        made_from: what each shard is made from beside the stage's settings (JSON-able). Results
        with the same settings then share shards that are made from the same. Without it, the
        shards are the result's own. versions: the oldest version of each shard that will do.
        """
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
    """Base of all stages."""

    kind: ClassVar[str]  # stable: it is in the key, so a renamed class keeps its kind
    version: ClassVar[int] = 1  # increased when a change of the code changes the result
    artifact: ClassVar[type[Artifact]]
    worker_group: ClassVar[bool] = False  # all workers start together, as in a training
    # Whether a shard that is made twice may differ. Then runs with the same settings take turns.
    varies: ClassVar[bool] = False

    name: str = field(default="", kw_only=True, metadata={"in_key": False})  # default: the kind

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    @abstractmethod
    def run(self, ctx: Context) -> A_co:
        """Make the artifact. If called again after a kill, reuse the work that was finished."""

    def digests(self) -> Mapping[str, str]:
        """Digests of inputs from outside the pipeline, such as a URL list or a model's weights.

        Called when the key is first needed; building a graph reads no data.
        """
        return {}

    def check(self) -> None:
        """Raise `PipelineError` or `UnclipError` if an input from outside cannot be used.

        Called before a run starts, for the stages that will run.
        """

    def continues(self, earlier: Iterable[Manifest]) -> Manifest | None:  # noqa: ARG002
        """The earlier result that the work starts from, or None to start afresh.

        earlier: the finished results of stages of this name, the newest first.
        """
        return None

    def foresee(
        self,
        store: Store,  # noqa: ARG002
        inputs: Mapping[str, Outlook],  # noqa: ARG002
        scratch: Path,  # noqa: ARG002
    ) -> Outlook | None:
        """What a run would make, for `unclip plan`. None: the shards' inputs tell.

        inputs: of the dependencies that are shards, by the field's path. scratch: a folder for
        files that later stages of the plan read.
        """
        return None

    @cached_property
    def dependencies(self) -> Mapping[str, "Stage[Artifact]"]:
        """Path of a field → its stage: "pairs", or "priors.main" for a stage in a mapping."""
        found: dict[str, Stage[Artifact]] = {}
        for each in dataclasses.fields(self):
            found |= _stages_in(getattr(self, each.name), each.name, self.name)
        return found

    @cached_property
    def description(self) -> dict[str, Any]:
        """The canonical form: everything that the result depends on."""
        inputs = {path: stage.key for path, stage in self.dependencies.items()}
        return self.describe(inputs, self.digests())

    @cached_property
    def settings_digest(self) -> str:
        """A digest of the kind, version and own settings, without inputs."""
        return fingerprint.digest(self.describe({}, {}))[:SETTINGS_DIGITS]

    def describe(self, inputs: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, Any]:
        """The description for given keys of dependencies and digests of outside inputs."""
        holders = frozenset(path.partition(".")[0] for path in self.dependencies)
        version = {} if self.version == 1 else {"version": self.version}
        return {
            "stage": self.kind,
            **version,
            **fingerprint.content(self, where=self.name, leave_out=holders),
            "inputs": dict(inputs),
            "digests": dict(digests),
        }

    @cached_property
    def key(self) -> str:
        """The digest of the description."""
        return fingerprint.digest(self.description)

    @property
    def label(self) -> str:
        """The stage's folder in the store, "name/key"."""
        return f"{self.name}/{self.key}"

    @property
    def lease_labels(self) -> list[str]:
        """The leases that a driver holds while it makes the stage."""
        return [self.label, *([f"{self.name}/{self.settings_digest}"] if self.varies else [])]


def _stages_in(value: object, path: str, owner: str) -> dict[str, Stage[Artifact]]:
    """The stages that a field holds, by path.

    Raises `PipelineError` if a tuple or mapping mixes stages with other values.
    """
    if isinstance(value, Stage):
        return {path: value}
    if isinstance(value, tuple):
        items = {f"{path}.{i}": item for i, item in enumerate(value)}
    elif isinstance(value, Mapping):
        items = {f"{path}.{name}": item for name, item in value.items()}
    else:
        return {}
    found = {at: _stages_in(item, at, owner) for at, item in items.items()}
    others = [at for at, stages in found.items() if not stages]
    if others and len(others) < len(found):
        raise PipelineError(
            f"Stage {owner}: {path} holds stages beside other values ({', '.join(others)}). Keep "
            "stages in a field, tuple or mapping of their own, so that they can be tracked."
        )
    return {at: stage for stages in found.values() for at, stage in stages.items()}


def load_artifact(store: Store, stage: Stage[A]) -> A:
    """The artifact of a finished stage; raises `PipelineError` if it has not finished."""
    manifest = store.manifest(stage.name, stage.key)
    if manifest is None:
        raise PipelineError(f"{stage.label} is not in {store.root}. Run the pipeline first.")
    return stage.artifact.of(store, stage.name, manifest)  # type: ignore[return-value]
