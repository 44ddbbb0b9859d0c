"""Near duplicates among CLIP embeddings, in three steps that workers run over files.

N rows, W width, P partitions, b bytes of a stored number (2 or 4).

1. `partitions.SampleWorker` picks S rows by their keys, `train_partitions` clusters them.
2. `partitions.AssignWorker` writes the rows of some shards, sorted by partition.
3. `CompareWorker` reads one partition and finds rows that are similar to better ones (`clusters`);
   `drop_near_duplicates` decides over all partitions which rows stay.

The better of two rows has the higher similarity of image and caption, then the smaller key. A row
is dropped only for a row that stays, and never for another caption of its own image (the same
downloaded bytes). So a row that passes a similarity floor is never dropped for
one that does not. The result does not depend on how shards are ordered or dealt to workers.

Peak memory beside the process itself, at most: the largest shard and 12 S W bytes to sample and
train, with S = 64 P <= 65,536; ASSIGN_ROWS W (2 b + 8) to assign, or the largest shard if it has
more rows; 2 ASSIGN_ROWS W b + READ_ROWS (12 W + 5 BLOCK_ROWS) + 65,536 * 8 W, and 100 bytes for
each row of the partition, to compare. A partition has about 2 N / P rows on average; its vectors
are mapped from a file on the local disk. P = N / 16,384, at most 1,024.

A few pairs are missed: rows that no cluster has in common (`clusters.assign`), and, rarer still,
rows that lose the better row they were dropped for, because another partition drops that one.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.data.out_of_core import Budget, drop_similar, scratch_database, write_parquet
from pipelines.embeddings.clusters import find_similar
from pipelines.embeddings.partitions import unit

log = logging.getLogger(__name__)

FOLLOWED_STEPS = 2  # twice: paths of up to four pairs

# Two similar rows, by position: shard << 32 | row.
SIMILAR = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("image", pa.int64(), nullable=False),  # equal for rows of one image
        pa.field("key", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("better_position", pa.int64(), nullable=False),
        pa.field("better_image", pa.int64(), nullable=False),
        pa.field("better_key", pa.string(), nullable=False),
        pa.field("better_similarity", pa.float32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
    ]
)

# The result, sorted by shard and row.
NEAR_DUPLICATES = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),  # index in the order of their names
        pa.field("row", pa.int32(), nullable=False),
        pa.field("kept_key", pa.string(), nullable=False),  # of the row that stays
        pa.field(
            "cosine", pa.float32(), nullable=False
        ),  # with it; at least, if the pair follows from others
    ]
)


@dataclass(frozen=True)
class CompareWorker:
    """Callable on a partition: finds its rows that are similar to better ones."""

    folder: Folder
    assigned: tuple[tuple[str, str], ...]  # name of each result of AssignWorker, and its file
    threshold: float

    def __call__(self, partition: int, out: ShardWriter) -> Metadata:
        """Writes pairs (`SIMILAR`); a row may be in several of them."""
        with tempfile.TemporaryDirectory(prefix="unclip-") as scratch:
            stored = Path(scratch) / "vectors"
            rows, dtype = self._gather(partition, stored)
            if not rows.num_rows:
                return {}
            best_first = [
                ("similarity", "descending"),
                ("key", "ascending"),
                ("position", "ascending"),
            ]
            order = pc.sort_indices(rows, best_first).to_numpy()
            vectors = np.memmap(stored, dtype, mode="r").reshape(rows.num_rows, -1)
            found = find_similar(
                lambda ranks: unit(vectors[order[ranks]]), np.arange(len(order)), self.threshold
            )
            worse, better, cosine = (np.concatenate(c) for c in zip(*found, strict=True))
        columns = [*rows.take(order[worse]).columns, *rows.take(order[better]).columns, cosine]
        similar = pa.table(columns, schema=SIMILAR)
        out.write(similar.filter(pc.not_equal(similar["image"], similar["better_image"])))
        return {"read": rows.num_rows}

    def _gather(self, partition: int, stored: Path) -> tuple[pa.Table, np.dtype[np.floating]]:
        """Write the partition's vectors to a local file; return its other columns."""
        parts = [pa.schema(list(SIMILAR)[:4]).empty_table()]
        dtype: np.dtype[np.floating] = np.dtype(np.float32)
        with stored.open("wb") as target:
            for table in self._row_groups(partition):
                vectors = table["image_embeds"].combine_chunks()
                flat = vectors.flatten().to_numpy()
                dtype = flat.dtype
                flat.tofile(target)
                parts.append(table.select(parts[0].column_names).cast(parts[0].schema))
        return pa.concat_tables(parts).combine_chunks(), dtype

    def _row_groups(self, partition: int) -> Iterator[pa.Table]:
        for name, file in self.assigned:
            partitions = self.folder.read_table(f"{name}.parquet")["partition"].to_pylist()
            if partition in partitions:
                with self.folder.open(file) as source:
                    yield pq.ParquetFile(source).read_row_group(partitions.index(partition))


# Better rows get smaller numbers, as `drop_similar` expects.
RANK_ROWS = """
CREATE TABLE items AS
SELECT position, image, key, row_number() OVER (ORDER BY similarity DESC, key, position) AS rank
FROM (SELECT position, image, key, similarity FROM pairs
      UNION SELECT better_position, better_image, better_key, better_similarity FROM pairs)
"""
FIND_SIMILAR = """
CREATE TABLE similar_items AS
SELECT better.rank AS better, worse.rank AS worse, max(cosine) AS cosine
FROM pairs JOIN items AS better ON better.position = better_position
JOIN items AS worse ON worse.position = pairs.position GROUP BY ALL
"""
# If a ~ b ~ c, and the angles of both steps together are within the threshold, then a ~ c. So rows
# that are much alike find the best of them, though they are in different partitions.
FOLLOW = """
INSERT INTO similar_items
SELECT next.better, this.worse, max(cos(this.angle + next.angle)) AS cosine
FROM (SELECT *, acos(least(cosine, 1)) AS angle FROM similar_items) AS this
JOIN (SELECT *, acos(least(cosine, 1)) AS angle FROM similar_items) AS next
    ON next.worse = this.better
JOIN items AS best ON best.rank = next.better
JOIN items AS last ON last.rank = this.worse
WHERE cos(this.angle + next.angle) >= {threshold} AND best.image <> last.image
  AND (next.better, this.worse) NOT IN (SELECT (better, worse) FROM similar_items)
GROUP BY ALL
"""
LIST_DROPPED = """
SELECT (worse.position >> 32)::INTEGER AS shard,
       (worse.position & 4294967295)::INTEGER AS "row", better.key AS kept_key, cosine
FROM dropped JOIN similar_items USING (better, worse)
JOIN items AS worse ON worse.rank = dropped.worse
JOIN items AS better ON better.rank = dropped.better
ORDER BY worse.position
"""


def drop_near_duplicates(
    folder: Folder, partitions: Sequence[str], threshold: float, target: Path, budget: Budget
) -> int:
    """Write the rows to drop (`NEAR_DUPLICATES`) from the pairs of all partitions; return how many.

    A row is dropped exactly if a better row that stays is among its pairs. Raises `PipelineError`
    if the budget is too small.
    """
    batches = (
        batch
        for name in partitions
        for batch in folder.read_table(f"{name}.parquet", schema=SIMILAR).to_batches()
    )
    with scratch_database(budget) as database:
        database.register("found", pa.RecordBatchReader.from_batches(SIMILAR, batches))
        database.execute("CREATE TABLE pairs AS FROM found")
        database.execute(RANK_ROWS)
        database.execute(FIND_SIMILAR)
        for _ in range(FOLLOWED_STEPS):
            database.execute(FOLLOW.format(threshold=threshold))
        drop_similar(database)
        rows = write_parquet(database, LIST_DROPPED, target, NEAR_DUPLICATES)
    log.info("%d images are near duplicates", rows)
    return rows
