"""Finds the URLs of new slices among those that earlier shards have, however many there are."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts.schema import OUTCOMES
from pipelines.core.folder import Folder
from pipelines.core.scan import scan
from pipelines.data.out_of_core import Budget, scratch_database

log = logging.getLogger(__name__)

KNOWN_URLS = ".known_urls.parquet"  # in the folder of a result, until it is committed
LISTED = pa.schema([pa.field("url", pa.string())])
WANTED = ("url", "row", "reason", "detail", "attempts", "time")
FETCHED = pa.schema([OUTCOMES.field(name) for name in WANTED])

KNOWN = pa.schema(
    [
        pa.field("slice", pa.string()),
        pa.field("number", pa.int32()),  # of the row in the slice
        pa.field("pairs", pa.string()),  # URL of the shard that has the outcome
        *(OUTCOMES.field(name).with_nullable(True) for name in WANTED[1:]),
    ]
)

# One earlier outcome for each row of a new slice: a downloaded one, if there is one.
QUERY = """
COPY (
    SELECT new.shard AS slice, new.number, old.shard AS pairs,
           old.row, old.reason, old.detail, old.attempts, old.time
    FROM new JOIN old USING (url)
    QUALIFY row_number() OVER (
        PARTITION BY new.shard, new.number
        ORDER BY old.row IS NULL, old.time DESC, old.shard, old.row
    ) = 1
    ORDER BY slice, number
) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 8192)
"""


def find_known_urls(new: Mapping[str, str], earlier: Mapping[str, str], folder: Folder) -> int:
    """Write the table `KNOWN_URLS`: which rows of new slices have a URL that was fetched before.

    new: URL of each new slice, by its name. earlier: URL of each table of outcomes, by the URL of
    its shard of pairs; the URLs of a damaged one are fetched again. Returns the number of rows.
    """
    if not earlier:
        folder.write_table(KNOWN_URLS, KNOWN.empty_table())
        return 0
    with scratch_database(Budget.of_worker()) as db, tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "known.parquet"
        db.register("rows", scan(new, LISTED))
        db.execute("CREATE TABLE new AS SELECT * FROM rows")
        db.register("outcomes", scan(earlier, FETCHED, skip_damaged=True))
        db.execute(
            "CREATE TABLE old AS SELECT * FROM outcomes "
            "WHERE coalesce(reason, '') NOT IN ('duplicate_row', 'hash_mismatch', 'bad_hash')"
        )
        db.execute(QUERY.format(path=path))
        count = pq.ParquetFile(path).metadata.num_rows
        folder.publish(path, KNOWN_URLS)
    log.info("%d rows of %d new slices have URLs that are known", count, len(new))
    return int(count)
