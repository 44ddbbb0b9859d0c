"""Which pairs of each shard repeat others: a table on disk, and a digest of each shard's part."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.artifacts import PairShards
from pipelines.core.folder import Folder
from pipelines.core.scan import scan
from pipelines.core.tables import read_table
from pipelines.data.duplicates import IDENTITY, find_duplicates
from pipelines.data.out_of_core import Budget, scratch_database

log = logging.getLogger(__name__)

REPEATS_FILE = ".repeats.parquet"  # in the folder of a result, until it is committed
COLUMNS = ("key", "sha256", "caption", "original_width", "original_height", "phash")
DIGESTS = """
SELECT shard, md5(string_agg(concat_ws(' ', "row", kept_key), ',' ORDER BY "row"))
FROM '{path}' GROUP BY shard
"""


@dataclass(frozen=True)
class Repeats:
    """The rows that repeat others, as a table sorted by shard and row."""

    url: str | None  # None if nobody looked for them
    digests: Mapping[str, str]  # by shard, if it has any

    @classmethod
    def none(cls) -> "Repeats":
        """Nothing repeats."""
        return cls(None, {})

    @classmethod
    def publish(cls, path: Path, folder: Folder, names: list[str]) -> "Repeats":
        """From a local table with the columns shard (index in `names`), row and kept_key."""
        folder.publish(path, REPEATS_FILE)
        with scratch_database(Budget.of_worker()) as database:
            found = database.execute(DIGESTS.format(path=path)).fetchall()
        return cls(folder.file(REPEATS_FILE), {names[shard]: digest for shard, digest in found})


def find_repeats(
    pairs: PairShards, verdicts: Mapping[str, str], max_distance: int | None, folder: Folder
) -> Repeats:
    """The duplicates and near copies among pairs without a reason to reject them.

    verdicts: URL of each shard's verdicts so far. See `duplicates.find_duplicates`.
    """
    names = sorted(pairs.shards)
    schema = pa.schema([pairs.schema().field(name) for name in COLUMNS])
    rows = _passed(scan({name: pairs.url(name) for name in names}, schema), verdicts)
    batches = _identities(rows, names)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "repeats.parquet"
        identities = pa.RecordBatchReader.from_batches(IDENTITY, batches)
        find_duplicates(identities, path, max_distance=max_distance, budget=Budget.of_worker())
        log.info("%d pairs repeat others", pq.ParquetFile(path).metadata.num_rows)
        return Repeats.publish(path, folder, names)


def _passed(rows: pa.RecordBatchReader, verdicts: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """The rows that their verdicts keep. A batch has rows of one shard."""
    read = lru_cache(maxsize=1)(lambda url: read_table(url, ["reason"])["reason"].combine_chunks())
    for batch in rows:
        if batch.num_rows:
            reasons = read(verdicts[batch["shard"][0].as_py()])
            yield batch.filter(pc.is_null(reasons.take(batch["number"])))


def _identities(rows: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in rows:
        width, height = (pc.cast(batch[n], pa.int64()) for n in COLUMNS[3:5])
        columns = {
            "shard": pc.index_in(batch["shard"], pa.array(names)),
            "row": batch["number"],
            "key": batch["key"],
            "sha256": batch["sha256"],
            "caption": batch["caption"],
            "pixels": pc.multiply(width, height),
            "phash": batch["phash"],
        }
        yield pa.record_batch(columns, schema=IDENTITY)
