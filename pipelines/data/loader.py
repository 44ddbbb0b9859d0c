"""The training loader: the batches of any step, the same on any number of workers.

`TrainingLoader.batches(start_step)` is endless. Threads read blocks and decode microbatches ahead
of the consumer. The blocks of the windows in use stay in memory, and others while they fit into
`max_bytes`. If all images fit decoded, each is decoded once.
"""

import logging
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import count
from typing import Any

import numpy as np

from pipelines.data.batches import ReusedPixels, Rows, Tokenize, make_batch, pinned_pixels
from pipelines.data.block_cache import BlockCache
from pipelines.data.loader_memory import READ_THREADS, LoaderConfig, LoaderMemory
from pipelines.data.order import Blocks, LogicalRankOrder
from pipelines.data.shard_reader import RowReader, ShardFiles
from unclip.config import ConfigError

log = logging.getLogger(__name__)

Batches = list[dict[str, Any]]  # of one step: one for each own logical rank


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
        self.files, self.config = shards, config
        self.all_blocks = Blocks([files.rows for files in shards])
        self.logical_ranks = [
            LogicalRankOrder(config.order, logical_rank=logical_rank, blocks=self.all_blocks)
            for logical_rank in own_logical_ranks
        ]
        self.make_batch = partial(
            make_batch,
            fields=config.fields,
            image_size=config.image_size,
            tokenize=tokenize,
            empty=pinned_pixels if config.pin_memory else ReusedPixels(),
        )
        self.cache: BlockCache | None = None  # of the last call of `batches`

    def batches(self, start_step: int) -> Generator[Batches, None, None]:
        """For each step from `start_step` on, one dict per own logical rank, in their order.

        Closing the generator ends its threads. An error in a thread is raised here.
        """
        ahead = self.config.steps_ahead(len(self.logical_ranks))
        readers = ThreadPoolExecutor(READ_THREADS, "loader-read")
        decoders = ThreadPoolExecutor(self.config.threads, "loader-decode")
        self.cache = cache = self._new_cache(readers)
        waiting: deque[list[Future[dict[str, Any]]]] = deque()
        try:
            for step in count(start_step):
                self._use(cache, step - len(waiting), ahead)
                waiting.append([decoders.submit(*task) for task in self._microbatches(cache, step)])
                if len(waiting) > ahead:
                    yield [future.result() for future in waiting.popleft()]
        finally:
            for pool in (readers, decoders):
                pool.shutdown(wait=False, cancel_futures=True)
            for pool in (decoders, readers):
                pool.shutdown()

    def read(self, step: int) -> Batches:
        """The batches of one step, read in the caller's thread, with no other rows in memory."""
        return [self.make_batch(self._read_rows(rank.rows(step))) for rank in self.logical_ranks]

    @property
    def nbytes(self) -> int:
        """The bytes of the blocks that are in memory."""
        return self.cache.nbytes if self.cache else 0

    @cached_property
    def memory(self) -> LoaderMemory:
        """What the loader needs."""
        return LoaderMemory.of(self.files, self.config, logical_ranks=len(self.logical_ranks))

    def _new_cache(self, readers: ThreadPoolExecutor) -> BlockCache:
        memory = self.memory
        row_bytes, reader = memory.row_bytes, self._reader(keep_pixels=memory.keeps_pixels)
        if memory.keeps_pixels:
            row_bytes += memory.pixels_bytes
        log.info("loader: %s; decoded images are kept: %s", memory, memory.keeps_pixels)
        return BlockCache(
            lambda block: reader.read(self._shard(block), self._positions(block)),
            lambda block: int(row_bytes * self.all_blocks.counts[block]),
            max_bytes=self.config.max_bytes - memory.batches_bytes,
            threads=readers,
        )

    def _use(self, cache: BlockCache, step: int, ahead: int) -> None:
        """Have the blocks read that the steps from `step` on need, the oldest that is not made."""
        rows = self.config.rows_ahead(ahead)
        cache.use(set().union(*(rank.blocks(step, rows) for rank in self.logical_ranks)))

    def _microbatches(self, cache: BlockCache, step: int) -> list[tuple[Any, ...]]:
        """The tasks of a step: one for each logical rank."""
        rows = [rank.rows(step) for rank in self.logical_ranks]
        return [
            (self._microbatch, own, {b: cache.blocks[b] for b in np.unique(own[:, 0]).tolist()})
            for own in rows
        ]

    def _microbatch(self, rows: np.ndarray, blocks: dict[int, Future[Rows]]) -> dict[str, Any]:
        return self.make_batch([(blocks[block].result(), row) for block, row in rows.tolist()])

    def _read_rows(self, rows: np.ndarray) -> list[tuple[Rows, int]]:
        """Some rows, (B, 2): block, row inside it."""
        reader, found = self._reader(keep_pixels=False), dict[int, tuple[Rows, np.ndarray]]()
        for block in np.unique(rows[:, 0]).tolist():
            inside = np.unique(rows[rows[:, 0] == block, 1])
            places = self._positions(block)[inside]
            found[block] = reader.read(self._shard(block), places), inside
        return [
            (found[block][0], int(np.searchsorted(found[block][1], row)))
            for block, row in rows.tolist()
        ]

    def _reader(self, *, keep_pixels: bool) -> RowReader:
        return RowReader(self.config.fields, self.config.image_size, keep_pixels=keep_pixels)

    def _shard(self, block: int) -> ShardFiles:
        return self.files[int(self.all_blocks.shard[block])]

    def _positions(self, block: int) -> np.ndarray:
        """The positions of a block's rows among the selected rows of its shard."""
        first = self.all_blocks.first[block]
        return np.arange(first, first + self.all_blocks.counts[block])
