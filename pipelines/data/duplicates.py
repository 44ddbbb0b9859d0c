"""Duplicates among all pairs: same key, same content, near copies of pictures. Out of core.

Of several rows one stays, and which one depends only on the rows, not on the order in which they
are read. The steps follow each other, and each sees only rows that the ones before have kept:

1. Same key (same URL and caption): the first by shard and row stays.
2. Same content (same downloaded bytes and same caption): the first by shard and row stays.
3. Near copies: two pictures, with different bytes, whose perceptual hashes differ in at most
   `max_distance` bits. The one with more original pixels stays, then the one with the smaller key.
   A picture is rejected only for a picture that stays. Captions play no part: a picture that is
   rejected takes all its rows along, and one that stays keeps all its rows, with all captions.
"""

import logging
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.data.out_of_core import (
    Budget,
    count_rows,
    drop_similar,
    scratch_database,
    write_parquet,
)
from pipelines.data.similar_hashes import write_similar_hashes

log = logging.getLogger(__name__)

# What is read of each pair: short columns of all shards.
IDENTITY = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),  # index of the shard
        pa.field("row", pa.int32(), nullable=False),  # in the shard
        pa.field("key", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the downloaded bytes, 64 hex digits
        pa.field("caption", pa.string(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),  # original width x original height
        pa.field("phash", pa.uint64()),  # null: never a near copy
    ]
)

# What is written, sorted by shard and row.
REJECTED = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # "duplicate" or "near_copy"
        pa.field("kept_key", pa.string(), nullable=False),  # of the row that stays
    ]
)

# Strings become integers of 128 bits, which are faster to sort; only keys are needed as they are.
LOAD = """
CREATE TABLE pairs AS
SELECT (shard::BIGINT << 32) | "row" AS position, key, md5_number(sha256) AS image,
       md5_number(sha256 || caption) AS content, pixels, phash
FROM identities
"""
FIND_REPEATS = """
CREATE TABLE same_{column} AS
SELECT later.position, later.key, kept.key AS kept_key
FROM pairs AS later
JOIN (SELECT {column}, min(position) AS first FROM pairs GROUP BY {column} HAVING count(*) > 1)
    USING ({column})
JOIN pairs AS kept ON kept.position = first
WHERE later.position > first
"""
DELETE_REPEATS = "DELETE FROM pairs WHERE position IN (SELECT position FROM same_{column})"

# One entry for each perceptual hash: the rows of its best picture decide for all others.
FIND_HASHES = """
CREATE TABLE hashes AS
SELECT phash, min(image) <> max(image) AS is_shared
FROM pairs WHERE phash IS NOT NULL GROUP BY phash
"""
RANK_PICTURES = """
CREATE TABLE pictures AS
SELECT phash, image, key, row_number() OVER (ORDER BY pixels DESC, key) AS rank
FROM (
    SELECT phash, image, key, pixels FROM pairs
    WHERE phash IN (SELECT phash FROM hashes WHERE is_shared
                    UNION SELECT first FROM alike UNION SELECT second FROM alike)
    QUALIFY row_number() OVER (PARTITION BY phash ORDER BY pixels DESC, key) = 1
)
"""
FIND_SIMILAR = """
CREATE TABLE similar_items AS
SELECT DISTINCT least(a.rank, b.rank) AS better, greatest(a.rank, b.rank) AS worse
FROM alike JOIN pictures AS a ON a.phash = first JOIN pictures AS b ON b.phash = second
"""
FIND_NEAR_COPIES = """
CREATE TABLE near_copies AS
SELECT pairs.position, pairs.key, kept.key AS kept_key
FROM pairs JOIN pictures USING (phash) LEFT JOIN dropped ON dropped.worse = pictures.rank
JOIN pictures AS kept ON kept.rank = coalesce(dropped.better, pictures.rank)
WHERE pairs.image <> kept.image
"""
NO_NEAR_COPIES = "CREATE TABLE near_copies (position BIGINT, key VARCHAR, kept_key VARCHAR)"

# The row that a step kept may be rejected by a later one, so its key is followed to the end.
LIST_REJECTED = """
SELECT (position >> 32)::INTEGER AS shard, (position & 4294967295)::INTEGER AS "row", reason,
       coalesce(near.kept_key, same.kept_key, found.kept_key) AS kept_key
FROM (
    SELECT position, kept_key, 'duplicate' AS reason FROM same_key
    UNION ALL SELECT position, kept_key, 'duplicate' FROM same_content
    UNION ALL SELECT position, kept_key, 'near_copy' FROM near_copies
) AS found
LEFT JOIN (SELECT key, kept_key FROM same_content) AS same ON same.key = found.kept_key
LEFT JOIN (SELECT key, kept_key FROM near_copies) AS near
    ON near.key = coalesce(same.kept_key, found.kept_key)
ORDER BY position
"""


def find_duplicates(
    identities: pa.RecordBatchReader,
    target: Path,
    *,
    max_distance: int | None,
    budget: Budget,
) -> dict[str, int]:
    """Write the rows to reject (`REJECTED`) as Parquet; returns their number by reason.

    identities: one row for each pair (`IDENTITY`), in any order, read once.
    max_distance: bits in which the perceptual hashes of near copies differ, 0 to 3; None: only
    exact duplicates. Raises ValueError if it is larger.
    budget: the memory of the engine, whatever the number of rows. The disk holds about 125 bytes
    for each row, and as much again while a step runs.
    """
    with scratch_database(budget) as database:
        database.register("identities", identities)
        database.execute(LOAD)
        for column in ("key", "content"):
            database.execute(FIND_REPEATS.format(column=column))
            database.execute(DELETE_REPEATS.format(column=column))
        if max_distance is None:
            database.execute(NO_NEAR_COPIES)
        else:
            _find_near_copies(database, max_distance, target.with_suffix(".alike.parquet"))
        near_copies = count_rows(database, "near_copies")
        rejected = write_parquet(database, LIST_REJECTED, target, REJECTED)
    log.info("%d pairs repeat another one, %d are near copies", rejected - near_copies, near_copies)
    return {"duplicate": rejected - near_copies, "near_copy": near_copies}


def _find_near_copies(database: duckdb.DuckDBPyConnection, max_distance: int, alike: Path) -> None:
    """Make the table `near_copies`; `alike` is a scratch file for pairs of hashes."""
    database.execute(FIND_HASHES)
    write_similar_hashes(database, max_distance, alike)
    database.execute(f"CREATE TABLE alike AS SELECT DISTINCT * FROM read_parquet('{alike}')")
    alike.unlink()
    database.execute(RANK_PICTURES)
    database.execute(FIND_SIMILAR)
    drop_similar(database)
    database.execute(FIND_NEAR_COPIES)
