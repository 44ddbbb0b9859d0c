"""Tables that keep their promise: a schema is checked on write and on read."""

import pyarrow as pa

from pipelines.core.errors import PipelineError


class SchemaError(PipelineError):
    """A table does not have the columns that its readers were promised."""


def check_schema(table: pa.Table, expected: pa.Schema, *, where: str) -> None:
    """Raise `SchemaError` naming the columns that differ; Parquet metadata is not compared."""
    if table.schema.equals(expected, check_metadata=False):
        return
    given = {f.name: str(f.type) for f in table.schema}
    wanted = {f.name: str(f.type) for f in expected}
    missing = [f"{n}: {t}" for n, t in wanted.items() if n not in given]
    extra = [f"{n}: {t}" for n, t in given.items() if n not in wanted]
    other = [f"{n}: {given[n]} instead of {t}" for n, t in wanted.items() if given.get(n, t) != t]
    raise SchemaError(
        f"{where} does not have the expected columns (missing: {', '.join(missing) or 'none'}; "
        f"unexpected: {', '.join(extra) or 'none'}; other type: {', '.join(other) or 'none'}). "
        "It was written by other code: run the stage that makes it again with --force."
    )
