"""The log of `unclip retry`: which rows are fetched again, and in which slices they are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipelines.core.filesystem import StoreFileMissingError
from pipelines.core.folder import Folder
from pipelines.core.shard_records import new_version
from pipelines.data.earlier import Retry


@dataclass(frozen=True)
class RetryEntry:
    """One call of `unclip retry`."""

    version: str  # of the shards that it makes
    retry: Retry
    slices: tuple[str, ...]  # names of those with a matching row


def read_retries(folder: Folder, name: str) -> list[RetryEntry]:
    """The entries of a log, the oldest first; none if there is no log."""
    try:
        entries = folder.read_json(name)
    except StoreFileMissingError:
        return []
    return [
        RetryEntry(
            entry["version"],
            Retry(**{field: tuple(values) for field, values in entry["retry"].items()}),
            tuple(entry["slices"]),
        )
        for entry in entries
    ]


def add_retry(folder: Folder, name: str, retry: Retry, slices: Sequence[str]) -> RetryEntry:
    """Append an entry to a log."""
    entry = RetryEntry(new_version(), retry, tuple(slices))
    entries = [*read_retries(folder, name), entry]
    folder.write_json(name, [asdict(each) for each in entries])
    return entry
