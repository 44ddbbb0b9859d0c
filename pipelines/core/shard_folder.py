"""Where the shards of a stage are, and which of them exist."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.core.fingerprint import digest
from pipelines.core.folder import Folder
from pipelines.core.shard_records import VERSION, ShardRecord, find, read_records
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Store


@dataclass(frozen=True)
class ShardFolder:
    """Where the shards of a stage are, and what is known about them."""

    folder: Folder
    result: Folder  # under way, which keeps the journal
    stems: Mapping[str, str]  # of the shards' files, by name
    versions: Mapping[str, str]  # by name, the oldest version that will do; any, if left out
    known: Mapping[str, ShardRecord] = field(default_factory=dict)  # of another result, by stem

    def find(self) -> dict[str, ShardRecord]:
        """The shards that exist, by name."""
        records = {**self.known, **read_records(self.result)}
        found = find(self.folder, self.stems, records)
        return {n: r for n, r in found.items() if r.version >= self.versions.get(n, "")}

    def new_stem(self, name: str) -> str:
        """The stem of a shard that is made now."""
        version = self.versions.get(name)
        return f"{self.stems[name]}{VERSION}{version}" if version else self.stems[name]


def shared_shards(
    store: Store,
    stage: Stage[Artifact],
    made_from: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
) -> ShardFolder:
    """The shards that results of a stage share, found by what they are made from.

    made_from: by the shard's name, what it is made from beside the stage's settings (JSON-able).
    """
    result = store.folder(stage.name, stage.key)
    stems = {name: f"{stage.settings_digest}-{digest(value)}" for name, value in made_from.items()}
    newest = store.manifests(stage.name)[:1]  # shares most of its shards
    known = read_records(store.folder(stage.name, newest[0].key)) if newest else {}
    return ShardFolder(result.shared(), result, stems, dict(versions or {}), known)
