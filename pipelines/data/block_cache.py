"""Blocks in memory, which threads read before they are used."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future

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
        """size: the expected bytes of a block."""
        self.read, self.size, self.max_bytes, self.threads = read, size, max_bytes, threads
        self.blocks: OrderedDict[int, Future[Rows]] = OrderedDict()  # least recently used first

    @property
    def nbytes(self) -> int:
        """The expected size of all cached blocks."""
        return sum(map(self.size, list(self.blocks)))

    def use(self, blocks: set[int]) -> None:
        """Read the blocks that are missing. Others are dropped first, until all fit."""
        missing = sorted(blocks - self.blocks.keys())
        if not missing:
            return
        for block in blocks & self.blocks.keys():
            self.blocks.move_to_end(block)
        self._make_room(blocks, self.nbytes + sum(map(self.size, missing)))
        for block in missing:
            self.blocks[block] = self.threads.submit(self.read, block)

    def _make_room(self, used: set[int], total: int) -> None:
        for block in [b for b in self.blocks if b not in used]:
            if total <= self.max_bytes:
                return
            total -= self.size(block)
            del self.blocks[block]
            log.debug("dropped block %d; %d bytes are cached", block, total)
