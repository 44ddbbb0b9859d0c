"""Read held-out rows for the validation loss: always the same ones."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from pipelines.data.shard_reader import Shard, ShardFiles, Tokenize, make_batch

ROWS = 64  # at most: with 8 timesteps, an evaluation takes about as long as 10 steps


def held_out_batches(
    shards: Sequence[ShardFiles],
    fields: Sequence[str],
    *,
    image_size: int | None,
    tokenize: Tokenize,
    batch_size: int,
) -> list[dict[str, Any]]:
    """The first `ROWS` held-out rows in batches of at most `batch_size`; see `make_batch`."""

    def rows() -> Iterator[tuple[Shard, int]]:
        for files in shards:
            shard = Shard(files, fields, image_size=image_size, held_out=True)
            yield from ((shard, row) for row in range(shard.rows))

    chosen = list(islice(rows(), ROWS))
    return [
        make_batch(
            chosen[start : start + batch_size],
            fields,
            image_size=image_size,
            tokenize=tokenize,
            keep_pixels=False,
        )
        for start in range(0, len(chosen), batch_size)
    ]
