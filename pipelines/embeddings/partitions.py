"""Embeddings sorted by partition, so that one worker can compare rows that may be similar.

N rows, W width, P partitions, S sampled rows. Each partition is a cluster; rows near a border are
in several. Nothing depends on the order of shards, or on how they are dealt to workers.
"""

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import EmbeddingShards
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import read_table, to_column, to_numpy
from pipelines.embeddings.clusters import assign, group, train_centroids

log = logging.getLogger(__name__)

PARTITION_ROWS = 16_384  # on average, as long as there are fewer than MAX_PARTITIONS
MAX_PARTITIONS = 1024
SAMPLE_PER_PARTITION = 64
ASSIGN_ROWS = 131_072  # of the shards that one call of AssignWorker reads, unless one has more
WORK = "near"  # the folder of all files of the search, below that of the result
CENTROIDS_FILE = f"{WORK}/centroids.parquet"

# Rows of each partition that one call of AssignWorker wrote, in the order of its row groups.
PARTITIONS = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)


def sampled(width: int) -> pa.Schema:
    """What `SampleWorker` writes."""
    return pa.schema([("key", pa.string()), ("image_embeds", pa.list_(pa.float32(), width))])


def count_partitions(rows: int) -> int:
    """P for N rows."""
    return min(MAX_PARTITIONS, max(1, -(-rows // PARTITION_ROWS)))


def assign_groups(rows: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Shards by name, in groups of at most ASSIGN_ROWS rows or of one shard."""
    groups: list[list[str]] = []
    room = 0
    for name in sorted(rows):
        if not groups or rows[name] > room:
            groups.append([])
            room = ASSIGN_ROWS
        groups[-1].append(name)
        room -= rows[name]
    return tuple(map(tuple, groups))


@dataclass(frozen=True)
class SampleWorker:
    """Callable on the names of some shards: reads the rows that partitions are trained on."""

    embeddings: EmbeddingShards

    def __call__(self, names: tuple[str, ...], out: ShardWriter) -> Metadata:
        """Writes about S / N of the rows, chosen by a digest of their keys."""
        total = self.embeddings.total_rows
        share = count_partitions(total) * SAMPLE_PER_PARTITION / max(1, total)
        schema = sampled(self.embeddings.width)
        for name in names:
            table = self.embeddings.read(name, schema.names)
            keys = table["key"].to_pylist()
            chosen = np.flatnonzero([_uniform(key) < share for key in keys])
            rows = table.take(chosen)
            columns = [rows["key"], to_column(unit(to_numpy(rows["image_embeds"])))]
            out.write(pa.table(columns, schema=schema))
        return {}


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends only on the key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to norm 1, in float32; rows of zeros stay."""
    exact = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.maximum(norms, np.finfo(np.float32).tiny))


def train_partitions(folder: Folder, groups: Sequence[str], embeddings: EmbeddingShards) -> None:
    """Write `centroids.parquet` from the samples in the folder."""
    samples = pa.concat_tables([folder.read_table(f"{name}.parquet") for name in groups])
    partitions = count_partitions(embeddings.total_rows)
    centroids = np.zeros((1, embeddings.width), np.float32)
    if partitions > 1:
        vectors = to_numpy(samples.sort_by("key")["image_embeds"])  # whatever the order of shards
        centroids = train_centroids(vectors, partitions)
    log.info("%d partitions from %d embeddings", len(centroids), samples.num_rows)
    folder.write_table(CENTROIDS_FILE, pa.table({"centroid": to_column(centroids)}))


@dataclass(frozen=True)
class AssignWorker:
    """Callable on the names of some shards: sorts their rows by partition, into a file."""

    embeddings: EmbeddingShards
    images: Mapping[str, str]  # URL of each shard's pairs, which have the column sha256
    folder: Folder
    threshold: float  # minimum cosine of near duplicates

    def __call__(self, names: tuple[str, ...], out: ShardWriter) -> Metadata:
        """Writes the rows to the folder, and how many each partition has (`PARTITIONS`)."""
        centroids = to_numpy(self.folder.read_table(CENTROIDS_FILE)["centroid"])
        order = {name: index for index, name in enumerate(sorted(self.embeddings.shards))}
        table = pa.concat_tables([self._read(n, order[n]) for n in names]).combine_chunks()
        vectors = unit(to_numpy(table["image_embeds"]))
        rows, nearest = assign(vectors, centroids, self.threshold)
        del vectors
        members = group(rows, nearest, len(centroids))
        found = [i for i, part in enumerate(members) if len(part)]
        self._publish(table, [members[i] for i in found], rows_file(names))
        counts = {"partition": found, "rows": [len(members[i]) for i in found]}
        out.write(pa.table(counts, schema=PARTITIONS))
        return {"file": rows_file(names)}

    def _read(self, name: str, shard: int) -> pa.Table:
        table = self.embeddings.read(name, ["key", "row", "similarity", "image_embeds"])
        digests = read_table(self.images[name], ["sha256"])["sha256"].take(table["row"])
        images = [int(digest.as_py()[:15], 16) for digest in digests]  # 60 bits tell images apart
        positions = (shard << 32) + np.arange(table.num_rows)
        return (
            table.drop_columns(["row"])
            .append_column("position", pa.array(positions, pa.int64()))
            .append_column("image", pa.array(images, pa.int64()))
        )

    def _publish(self, table: pa.Table, members: Sequence[np.ndarray], name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="unclip-") as scratch:
            local = Path(scratch) / "rows.parquet"
            # Vectors do not compress, and nothing is searched by value.
            with pq.ParquetWriter(
                local,
                table.schema,
                use_dictionary=False,
                compression="none",
                write_statistics=False,
            ) as writer:
                for part in members:
                    writer.write_table(table.take(part), row_group_size=len(part))
            self.folder.publish(local, name)


def rows_file(names: tuple[str, ...]) -> str:
    """The file of one call of AssignWorker, named after its first shard."""
    return f"{WORK}/rows-{names[0]}.parquet"
