"""Writes one shard: row groups to a local file as they come, then one upload."""

import contextlib
import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.filesystem import writing
from pipelines.core.folder import Folder
from pipelines.core.shard_records import FILES, METADATA, SUFFIX, ShardRecord
from pipelines.core.tables import check_schema

log = logging.getLogger(__name__)

# A row group is what readers of single rows have to load: some hundred rows, or a few images.
ROW_GROUP_ROWS = 256
ROW_GROUP_BYTES = 8 << 20
DIGEST_BYTES = 10


class ShardWriter:
    """A context manager; `finish` publishes the shard, and without it nothing is published.

    Holds at most one row group in memory.
    """

    def __init__(self, folder: Folder, stem: str, schema: pa.Schema) -> None:
        """stem: of the file's name, without ".parquet"."""
        self.folder, self.stem, self.schema = folder, stem, schema
        self.rows = 0
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._attached: dict[str, int] = {}
        self._pending: list[pa.Table] = []
        self._pending_rows, self._pending_bytes = 0, 0

    def __enter__(self) -> "ShardWriter":
        self._scratch = tempfile.TemporaryDirectory()
        self._path = Path(self._scratch.name) / "shard.parquet"
        self._file = _open(self._path, self.schema)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with contextlib.suppress(*([Exception] if error else [])):  # the first one matters
                self._file.close()
        finally:
            self._scratch.cleanup()

    def write(self, table: pa.Table) -> None:
        """Add rows. Raises `SchemaError` unless the table has exactly the shard's schema."""
        check_schema(table, self.schema, where=self.folder.file(f"{self.stem}{SUFFIX}"))
        for start in range(0, table.num_rows, ROW_GROUP_ROWS):
            self._add(table.slice(start, ROW_GROUP_ROWS))

    def attach(self, name: str, table: pa.Table) -> None:
        """Publish a further file of the shard, `<stem>.<name>.parquet`."""
        file = f"{self.stem}.{name}{SUFFIX}"
        self._attached[file] = self.folder.write_table(file, table)

    def finish(self, metadata: Mapping[str, Any], digest: str | None = None) -> ShardRecord:
        """Publish the shard with its metadata inside.

        digest: identifies the content for the stages that read it; by default, of all rows.
        """
        self._flush()
        digest = digest or self._hash.hexdigest()
        inside = {**metadata, "rows": self.rows, "digest": digest, FILES: self._attached}
        with writing(str(self._path)):
            self._file.add_key_value_metadata({METADATA: json.dumps(inside, sort_keys=True)})
            self._file.close()
        self.folder.publish(self._path, f"{self.stem}{SUFFIX}")
        files = {f"{self.stem}{SUFFIX}": self._path.stat().st_size, **self._attached}
        return ShardRecord(self.stem, self.rows, digest, files, dict(metadata))

    def _add(self, table: pa.Table) -> None:
        size = int(table.nbytes)
        if self._pending and (
            self._pending_rows + table.num_rows > ROW_GROUP_ROWS
            or self._pending_bytes + size > ROW_GROUP_BYTES
        ):
            self._flush()
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._pending_bytes += size
        self.rows += table.num_rows

    def _flush(self) -> None:
        if self._pending:
            group = pa.concat_tables(self._pending).combine_chunks()
            with pa.ipc.new_stream(_Hashed(self._hash), group.schema) as stream:
                stream.write_table(group)
            with writing(str(self._path)):
                self._file.write_table(group)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


def _open(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Images are compressed already, and are no dictionary's words."""
    plain = [field.name for field in schema if pa.types.is_large_binary(field.type)]
    others = [field.name for field in schema if field.name not in plain]
    return pq.ParquetWriter(
        path,
        schema,
        compression={**dict.fromkeys(plain, "none"), **dict.fromkeys(others, "snappy")},
        use_dictionary=[name for name in others if pa.types.is_string(schema.field(name).type)],
        write_statistics=others,
        write_page_checksum=True,
    )


class _Hashed(io.RawIOBase):
    """A file whose bytes only go into a hash."""

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)
