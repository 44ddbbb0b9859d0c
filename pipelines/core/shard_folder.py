"""Where the shards of a stage are, and which of them exist."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipelines.core.fingerprint import digest
from pipelines.core.folder import Folder
from pipelines.core.shard_records import VERSION, ShardRecord, find, read_records
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Store


class Existing(NamedTuple):
    """The files of a folder of shards, and what is known about them."""

    sizes: Mapping[str, int]  # of all files
    known: Mapping[str, ShardRecord]  # by stem


@dataclass(frozen=True)
class ShardFolder:
    """The shards that a result needs."""

    folder: Folder
    result: Folder  # under way, which keeps the journal
    stems: Mapping[str, str]  # of the shards' files, by name
    versions: Mapping[str, str]  # by name, the oldest version that will do; any, if left out
    existing: Existing

    def find(self) -> dict[str, ShardRecord]:
        """The shards that exist, by name."""
        found = find(self.folder, self.existing.sizes, self.stems, self.existing.known)
        return {n: r for n, r in found.items() if r.version >= self.versions.get(n, "")}

    def new_stem(self, name: str) -> str:
        """The stem of a shard that is made now."""
        version = self.versions.get(name)
        return f"{self.stems[name]}{VERSION}{version}" if version else self.stems[name]


def own_shards(folder: Folder, names: Mapping[str, Any]) -> ShardFolder:
    """The shards that belong to one result only, in its own folder."""
    existing = Existing(folder.files(), read_records(folder))
    return ShardFolder(folder, folder, {name: name for name in names}, {}, existing)


def shared_shards(
    stage: Stage[Artifact],
    result: Folder,
    existing: Existing,
    made_from: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
) -> ShardFolder:
    """The shards that results of a stage share, found by what they are made from.

    made_from: by the shard's name, what it is made from beside the stage's settings (JSON-able).
    """
    stems = {name: f"{stage.settings_digest}-{digest(value)}" for name, value in made_from.items()}
    return ShardFolder(result.shared(), result, stems, dict(versions or {}), existing)


def existing_shards(store: Store, stage: Stage[Artifact]) -> Existing:
    """The shared shards of a stage, with the records of the results that share most of them."""
    finished = [header.key for header in store.headers(stage.name)]
    begun = [key for key in store.keys(stage.name) if key not in finished and "." not in key]
    known: dict[str, ShardRecord] = {}
    for key in [*finished[:1], *begun]:
        known |= read_records(store.folder(stage.name, key))
    return Existing(store.folder(stage.name, stage.key).shared().files(), known)
