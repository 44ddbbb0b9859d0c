"""URL lists to read in tests."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.data.sources import FileList, SourceConfig, list_schema


def source(path: str | Path, **settings: Any) -> FileList:
    """The list at a path; by default, its columns are url and caption."""
    columns = {"url_column": "url", "caption_column": "caption", "rows_per_shard": 1}
    return FileList(SourceConfig(urls=str(path), **{**columns, **settings}))


def read(path: str | Path, **settings: Any) -> pa.Table:
    """All rows of the list at a path, after its check."""
    files = source(path, **settings)
    files.check()
    return pa.Table.from_batches(files.all_batches(), list_schema(files.config))
