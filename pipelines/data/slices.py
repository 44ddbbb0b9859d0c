"""Cut a list into slices by its content, so that an edit changes only the slices around it.

A list is cut after a row whose digest has a certain remainder, once a slice has half the wanted
rows. So the cuts depend on the rows nearby and on nothing before them: after an inserted, changed
or removed row the cuts fall where they fell before, soon after the edit.
"""

# R rows of a slice

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.artifacts.schema import SLICES
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.data.sources import SourceConfig, find_source
from pipelines.data.url_list import ListFile

log = logging.getLogger(__name__)

MAX_BYTES = 64 << 20  # of a slice: rows with huge captions make shorter slices
DIGEST_BYTES = 10


@dataclass(frozen=True)
class Cutter:
    """Cuts batches of rows into slices of `rows` rows on average, at most twice as many."""

    rows: int

    @property
    def min_rows(self) -> int:
        """No slice is shorter, except the last one of a file."""
        return max(1, self.rows // 2)

    def slices(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """The slices of one file. Holds no more than one slice and one batch in memory."""
        pending: list[pa.Table] = []
        digests: list[bytes] = []
        for batch in batches:
            pending.append(pa.Table.from_batches([batch]))
            digests += row_digests(batch)
            while (end := self.cut(digests, final=_nbytes(pending) > MAX_BYTES)) is not None:
                table = pa.concat_tables(pending)
                yield table.slice(0, end).combine_chunks()
                pending, digests = [table.slice(end)], digests[end:]
        if digests:
            yield pa.concat_tables(pending).combine_chunks()

    def cut(self, digests: Sequence[bytes], *, final: bool = False) -> int | None:
        """Where to cut these rows; None if that depends on rows to come.

        The first row with the remainder, or, if `2 * rows` rows have none, the row with the
        smallest digest. final: cut now, wherever the rows end.
        """
        divisor = self.rows - self.min_rows + 1
        for position, digest in enumerate(digests[self.min_rows - 1 : 2 * self.rows]):
            if int.from_bytes(digest, "big") % divisor == 0:
                return self.min_rows + position
        if len(digests) < 2 * self.rows:
            return len(digests) if final and digests else None
        candidates = range(self.min_rows, 2 * self.rows + 1)
        return min(candidates, key=lambda end: digests[end - 1])


def row_digests(batch: pa.RecordBatch) -> list[bytes]:
    """A digest of each row's values in all columns."""
    columns = [column.to_pylist() for column in batch.columns]
    return [_digest(repr(row).encode()) for row in zip(*columns, strict=True)]


def slice_digest(table: pa.Table) -> str:
    """The name of a slice: a digest of its columns and rows, in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(repr([(field.name, str(field.type)) for field in table.schema]).encode())
    for batch in table.to_batches():
        for row in row_digests(batch):
            digest.update(row)
    return digest.hexdigest()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _nbytes(tables: Sequence[pa.Table]) -> int:
    return sum(int(table.nbytes) for table in tables)


@dataclass(frozen=True)
class CutWorker:
    """Callable on a file of the list: cuts it into slices, each a file beside the shard."""

    source: SourceConfig

    def __call__(self, file: ListFile, out: ShardWriter) -> Metadata:
        """Writes one row for each slice (`SLICES`)."""
        batches = find_source(self.source).batches(file)
        for table in Cutter(self.source.rows_per_shard).slices(batches):
            name = slice_digest(table)
            out.attach(name, table)
            out.write(pa.table({"name": [name], "rows": [table.num_rows]}, schema=SLICES))
        log.info("cut %s into %d slices", file.url, out.rows)
        return {}
