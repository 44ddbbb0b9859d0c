"""The training loader: the batches of any step, the same on any number of workers.

`TrainingLoader.batches(start_step)` is endless; a thread reads and decodes ahead of the consumer.
The shards of the windows in use stay in memory. Other shards stay while they fit into
`cache_bytes`, decoded images included, so that a small data set is decoded once.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.order import LogicalRankOrder, OrderConfig
from pipelines.data.prefetch import prefetch
from pipelines.data.shard_reader import (
    FIELDS,
    Shard,
    ShardFiles,
    Tokenize,
    TrainingDataError,
    make_batch,
)
from unclip.config import Config, ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Config):
    """The fields of a batch, its order, and the memory for its shards."""

    order: OrderConfig
    fields: tuple[str, ...]  # some of shard_reader.FIELDS
    image_size: int | None = None  # pixels; required with the field "pixels"
    cache_bytes: int = 1 << 30  # of shards; those in use are kept even if they take more
    prefetch_steps: int = 4  # batches that may wait for the consumer

    def __post_init__(self) -> None:
        unknown = [field for field in self.fields if field not in FIELDS]
        if unknown or not self.fields:
            raise ConfigError(f"fields={self.fields} must be some of {FIELDS}")
        if "pixels" in self.fields and not self.image_size:
            raise ConfigError('the field "pixels" needs an image_size')
        if self.prefetch_steps < 1 or self.cache_bytes < 0:
            raise ConfigError(
                f"prefetch_steps={self.prefetch_steps} must be at least 1 and cache_bytes="
                f"{self.cache_bytes} not negative"
            )


class ShardCache:
    """Shards in memory: those in use always, others while all fit into `max_bytes`."""

    def __init__(self, load: Callable[[int], Shard], max_bytes: int) -> None:
        self.load, self.max_bytes = load, max_bytes
        self.shards: OrderedDict[int, Shard] = OrderedDict()  # least recently used first

    @property
    def nbytes(self) -> int:
        """The size of all cached shards."""
        return sum(shard.nbytes for shard in self.shards.values())

    def use(self, indices: set[int]) -> dict[int, Shard]:
        """These shards, read where necessary. Others are dropped until all fit."""
        for index in sorted(indices & set(self.shards)):
            self.shards.move_to_end(index)
        for index in sorted(indices - set(self.shards)):
            self.shards[index] = self.load(index)
        total = self.nbytes
        for index in [i for i in self.shards if i not in indices]:
            if total <= self.max_bytes:
                break
            total -= self.shards.pop(index).nbytes
            log.debug("dropped shard %d; %d bytes are cached", index, total)
        return {index: self.shards[index] for index in indices}


class TrainingLoader:
    """Batches of the logical ranks that this worker owns."""

    def __init__(
        self,
        shards: Sequence[ShardFiles],
        config: LoaderConfig,
        *,
        own_logical_ranks: Sequence[int],
        tokenize: Tokenize | None = None,
    ) -> None:
        """shards: every shard of the data set, in the same order on each worker."""
        if "tokens" in config.fields and tokenize is None:
            raise ConfigError('the field "tokens" needs tokenize=, a callable on captions')
        rows = [files.rows for files in shards]
        self.files, self.config, self.tokenize = shards, config, tokenize
        self.logical_ranks = [
            LogicalRankOrder(config.order, logical_rank=logical_rank, shard_rows=rows)
            for logical_rank in own_logical_ranks
        ]

    def batches(self, start_step: int) -> Generator[list[dict[str, Any]], None, None]:
        """For each step from `start_step` on, one dict per own logical rank, in their order.

        Closing the generator stops its thread. An error in the thread is raised here.
        """
        return prefetch(lambda: self.read(start_step), self.config.prefetch_steps)

    def read(self, start_step: int) -> Iterator[list[dict[str, Any]]]:
        """The same as `batches`, read in the caller's thread."""
        cache = ShardCache(self.load, self.config.cache_bytes)
        step = start_step
        while True:
            in_use = set().union(
                *(logical_rank.shards(step) for logical_rank in self.logical_ranks)
            )
            shards = cache.use(in_use)
            keep = cache.nbytes < self.config.cache_bytes
            yield [
                self.microbatch(logical_rank, step, shards, keep)
                for logical_rank in self.logical_ranks
            ]
            step += 1

    def microbatch(
        self, logical_rank: LogicalRankOrder, step: int, shards: dict[int, Shard], keep_pixels: bool
    ) -> dict[str, Any]:
        """One logical rank's microbatch."""
        return make_batch(
            [(shards[shard], row) for shard, row in logical_rank.rows(step)],
            self.config.fields,
            image_size=self.config.image_size,
            tokenize=self.tokenize,
            keep_pixels=keep_pixels,
        )

    def load(self, index: int) -> Shard:
        """Read a shard. Raises TrainingDataError unless it has the rows that the order expects."""
        files = self.files[index]
        log.debug("reading shard %s", files.name)
        shard = Shard(files, self.config.fields, image_size=self.config.image_size)
        if shard.rows != files.rows:
            raise TrainingDataError(
                f"{files.selection} has {shard.rows} rows to train on, but had {files.rows} when "
                "the training began: it was replaced. Start the training again."
            )
        return shard
