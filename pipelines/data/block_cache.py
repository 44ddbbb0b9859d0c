"""Blocks in memory, which threads read before they are used."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future

import pyarrow as pa

from pipelines.data.batches import Rows

log = logging.getLogger(__name__)


class BlockCache:
    """Blocks in use always, others while all fit into `max_bytes`. For one thread."""

    def __init__(
        self,
        read: Callable[[int], Rows],
        size: Callable[[int], int],
        *,
        max_bytes: int,
        threads: Executor,
    ) -> None:
        """size: the expected bytes of a block, which count until it is read."""
        self.read, self.size, self.max_bytes, self.threads = read, size, max_bytes, threads
        self.blocks: OrderedDict[int, Future[Rows]] = OrderedDict()  # least recently used first

    @property
    def nbytes(self) -> int:
        """The size of all cached blocks. Any thread may ask."""
        return sum(self._bytes(*item) for item in list(self.blocks.items()))

    def use(self, blocks: set[int]) -> None:
        """Read the blocks that are missing. Others are dropped first, until all fit."""
        missing = sorted(blocks - self.blocks.keys())
        if not missing:
            return
        for block in blocks & self.blocks.keys():
            self.blocks.move_to_end(block)
        if self._make_room(blocks, self.nbytes + sum(map(self.size, missing))):
            pa.default_memory_pool().release_unused()  # to the system
        for block in missing:
            self.blocks[block] = self.threads.submit(self.read, block)

    def _make_room(self, used: set[int], total: int) -> bool:
        """Drop blocks until all fit; whether there were any."""
        unused = [block for block in self.blocks if block not in used]
        dropped = 0
        while total > self.max_bytes and dropped < len(unused):
            block = unused[dropped]
            total -= self._bytes(block, self.blocks.pop(block))
            dropped += 1
        log.debug("dropped %d blocks; %d bytes are cached", dropped, total)
        return dropped > 0

    def _bytes(self, block: int, rows: Future[Rows]) -> int:
        is_read = rows.done() and not rows.cancelled() and rows.exception() is None
        return rows.result().nbytes if is_read else self.size(block)
