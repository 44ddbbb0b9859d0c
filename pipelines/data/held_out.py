"""Read held-out rows for the validation loss: always the same ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.batches import Rows, Tokenize, make_batch
from pipelines.data.shard_reader import RowReader, ShardFiles

ROWS = 64  # at most; docs/adr/0023-validation-between-steps.md has what they cost


def held_out_batches(
    shards: Sequence[ShardFiles],
    fields: Sequence[str],
    *,
    image_size: int | None,
    tokenize: Tokenize,
    batch_size: int,
) -> list[dict[str, Any]]:
    """The first `ROWS` held-out rows in batches of at most `batch_size`; see `make_batch`."""
    reader, chosen = RowReader(fields, image_size, held_out=True), list[tuple[Rows, int]]()
    for files in shards:
        rows = reader.read(files, np.arange(min(files.rows, ROWS - len(chosen))))
        chosen += [(rows, row) for row in range(len(rows))]
        if len(chosen) == ROWS:
            break
    return [
        make_batch(
            chosen[start : start + batch_size], fields, image_size=image_size, tokenize=tokenize
        )
        for start in range(0, len(chosen), batch_size)
    ]
