"""Finds and deletes shards that belong to no result.

Results share shards, so a shard may go only if no manifest lists it. Shards in the journal of an
interrupted stage stay too: its next run continues with them.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.core.filesystem import StoreError, filesystem
from pipelines.core.folder import Folder, is_hidden
from pipelines.core.lease import FOLDER, holder_of
from pipelines.core.shard_records import read_records
from pipelines.core.store import Store

log = logging.getLogger(__name__)

MIN_AGE_S = 24 * 3600.0  # a younger shard may belong to a run that was killed before its journal
REPLACED = ".replaced"  # the end of the name of a result that `--force` makes again


@dataclass(frozen=True)
class Unreachable:
    """The shards of one stage that no result lists."""

    stage: str
    files: Mapping[str, int]  # file → bytes, in the stage's folder of shared shards
    holder: str  # who makes the stage now, so that nothing of it may be deleted; "" if nobody

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def find_unreachable(store: Store, min_age_s: float = MIN_AGE_S) -> list[Unreachable]:
    """The unreachable shards of each stage; stages without any are left out.

    Raises `StoreError` if a manifest cannot be read: nobody knows which shards it lists.
    """
    found = [_find(store, stage, min_age_s) for stage in _stages(store)]
    return [each for each in found if each.files]


def delete_unreachable(store: Store, found: Unreachable) -> int:
    """Delete the files, unless a run has begun to make the stage. Returns the bytes deleted."""
    if _holder(store, found.stage):
        return 0
    shared = _shared(store, found.stage)
    shared.remove_files(found.files)
    log.info("deleted %d files of %s", len(found.files), shared.url)
    return found.size


def _find(store: Store, stage: str, min_age_s: float) -> Unreachable:
    shared, holder = _shared(store, stage), _holder(store, stage)
    sizes, modified = shared.files(), shared.modified()
    reached = set().union(*(_reached(store, stage, key) for key in store.keys(stage)))
    newest = time.time() - min_age_s
    old = (n for n in sizes if n not in reached and n in modified and modified[n] <= newest)
    return Unreachable(stage, {name: sizes[name] for name in old}, holder)


def _reached(store: Store, stage: str, key: str) -> set[str]:
    """The shared files that one result needs, finished or not."""
    if "." in key.removesuffix(REPLACED):  # such as the log of retries
        return set()
    manifest = store.manifest(stage, key)
    if manifest is not None:
        return set(manifest.shards)
    damage = store.damage(stage, key)
    if damage:
        raise StoreError(
            f"{store.folder(stage, key).url}: {damage}, so nobody knows which shards it needs. "
            "Run its stage again, or delete this folder."
        )
    records = read_records(store.folder(stage, key)).values()
    return {file for record in records for file in record.files}


def _shared(store: Store, stage: str) -> Folder:
    return store.folder(stage, "any").shared()


def _holder(store: Store, stage: str) -> str:
    """Who makes any result of the stage."""
    leases = Folder(f"{store.root.rstrip('/')}/{FOLDER}/{stage}").files()
    labels = [f"{stage}/{file.removesuffix('.json')}" for file in leases]
    holders = [holder_of(store.root, label) for label in labels]
    return next((str(holder) for holder in holders if holder), "")


def _stages(store: Store) -> list[str]:
    """The names of the stages that have shared shards."""
    fs = filesystem(store.root)
    paths = fs.ls(Folder(store.root)._path("").rstrip("/"), detail=True)
    names = [PurePosixPath(info["name"]).name for info in paths if info["type"] == "directory"]
    return sorted(name for name in names if not is_hidden(name))
