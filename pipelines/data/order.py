"""The order of training samples: a pure function of the seed and the shards' sizes.

The rows of each shard are divided into blocks of consecutive rows, the unit of shuffling and of
reading. The batch of a step is the concatenation of one microbatch from each of `logical_ranks`
logical ranks. In each epoch the blocks are permuted and their rows, laid end to end, are cut into
as many equal parts as there are logical ranks. So a logical rank reads mostly whole blocks (it
shares the first and the last with its neighbours), its epochs have the same length for every
permutation, and all logical ranks together see every row once.

Within a logical rank, rows are shuffled inside windows of about `shuffle_rows` rows, because a
window has to be in memory. A worker owns some of the logical ranks: the number of workers changes
who reads a logical rank, and never its rows. Any step is found by arithmetic, without iterating
over earlier ones.
"""

# N blocks of the data set; P pieces of blocks and W windows of one logical rank in one epoch

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from unclip.config import Config, ConfigError

BLOCK_ROWS = 256  # at most; the most rows of a row group, see ShardWriter
BLOCKS, WINDOW = 0, 1  # the purpose of a permutation, which is part of its entropy


def permutation(count: int, entropy: Sequence[int]) -> np.ndarray:
    """A permutation of range(count). Returns (count,) int64.

    Made from the raw output of a bit generator, which numpy keeps stable between releases;
    `Generator.permutation` has no such promise.
    """
    bits = np.random.Philox(np.random.SeedSequence(list(entropy))).random_raw(count)
    return np.argsort(bits, kind="stable")


@dataclass(frozen=True, kw_only=True)
class OrderConfig(Config):
    """The settings that, with the shards' sizes, determine the order."""

    seed: int
    logical_ranks: int
    batch_size: int  # of all logical ranks together
    shuffle_rows: int  # in a window, about; a window has at least one block

    def __post_init__(self) -> None:
        if min(self.logical_ranks, self.batch_size, self.shuffle_rows) < 1 or self.seed < 0:
            raise ConfigError(
                f"logical_ranks={self.logical_ranks}, batch_size={self.batch_size} and "
                f"shuffle_rows={self.shuffle_rows} must be at least 1, and "
                f"seed={self.seed} at least 0"
            )
        if self.batch_size % self.logical_ranks:
            raise ConfigError(
                f"batch_size={self.batch_size} is not divisible by logical_ranks="
                f"{self.logical_ranks}; try "
                f"{-(-self.batch_size // self.logical_ranks) * self.logical_ranks}"
            )

    @property
    def microbatch_size(self) -> int:
        """Rows of one logical rank in one step."""
        return self.batch_size // self.logical_ranks

    def max_rows_in_use(self, rows: int) -> int:
        """The most rows in the windows of `rows` consecutive rows of a logical rank."""
        windows = -(-(rows + BLOCK_ROWS) // self.shuffle_rows) + 1
        return windows * self.shuffle_rows + 2 * BLOCK_ROWS


class Blocks:
    """The blocks of a data set; those of one shard differ by one row at most."""

    def __init__(self, shard_rows: Sequence[int]) -> None:
        """shard_rows: rows to train on of each shard; empty shards are allowed."""
        rows = np.asarray(shard_rows, dtype=np.int64)
        blocks = -(-rows // BLOCK_ROWS)  # of each shard
        self.shard = np.repeat(np.arange(len(rows)), blocks)  # (N,)
        number = np.arange(len(self.shard)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        rows, blocks = rows[self.shard], blocks[self.shard]
        self.first = number * rows // blocks  # (N,) the first row in the shard
        self.counts = (number + 1) * rows // blocks - self.first  # (N,)
        self.total = int(self.counts.sum())
        self.permuted = lru_cache(maxsize=2)(self._permuted)  # shared by all logical ranks

    def _permuted(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks in an epoch, and where each ends. Returns (N,), (N,) int64."""
        order = permutation(len(self.counts), (BLOCKS, seed, epoch, 0, 0))
        return order, np.cumsum(self.counts[order])


@dataclass(frozen=True)
class Epoch:
    """The rows of one logical rank in one epoch: P consecutive pieces of blocks, in W windows."""

    blocks: np.ndarray  # (P,) block of each piece
    first: np.ndarray  # (P,) first row of the piece in its block
    counts: np.ndarray  # (P,) rows of the piece
    windows: np.ndarray  # (W + 1,) first piece of each window, and P
    starts: np.ndarray  # (W + 1,) position in the epoch of each window's first row, and the length


class Span(NamedTuple):
    """Consecutive rows of one window."""

    epoch: int
    window: int
    begin: int  # in the window
    end: int


class LogicalRankOrder:
    """The endless stream of one logical rank, with random access by step."""

    def __init__(self, config: OrderConfig, *, logical_rank: int, blocks: Blocks) -> None:
        """Raises `ConfigError` if there are too few rows for the logical ranks."""
        if not 0 <= logical_rank < config.logical_ranks:
            raise ConfigError(
                f"logical_rank={logical_rank} is not one of 0 to {config.logical_ranks - 1}"
            )
        if blocks.total < config.logical_ranks:
            raise ConfigError(
                f"there are {blocks.total} rows to train on for logical_ranks="
                f"{config.logical_ranks}: each logical rank needs at least one; use fewer logical "
                "ranks or more data"
            )
        self.config, self.logical_rank, self.all_blocks = config, logical_rank, blocks
        self.begin = logical_rank * blocks.total // config.logical_ranks
        self.end = (logical_rank + 1) * blocks.total // config.logical_ranks
        self.epoch_rows = self.end - self.begin
        # A step seldom touches more than two windows, or three at the end of an epoch.
        self.epoch = lru_cache(maxsize=4)(self._epoch)
        self.window = lru_cache(maxsize=4)(self._window)

    def rows(self, step: int) -> np.ndarray:
        """The rows of a step's microbatch, in order. Returns (B, 2) int64: block, row inside it."""
        size = self.config.microbatch_size
        spans = self._spans(step * size, (step + 1) * size)
        return np.concatenate([self.window(s.epoch, s.window)[s.begin : s.end] for s in spans])

    def blocks(self, step: int, rows: int) -> set[int]:
        """The blocks of the windows in which the next `rows` rows lie, from a step on."""
        position = step * self.config.microbatch_size
        found: set[int] = set()
        for span in self._spans(position, position + rows):
            epoch = self.epoch(span.epoch)
            pieces = slice(epoch.windows[span.window], epoch.windows[span.window + 1])
            found.update(epoch.blocks[pieces].tolist())
        return found

    def _spans(self, position: int, end: int) -> Iterator[Span]:
        """The rows between two positions of the stream, window by window."""
        while position < end:
            number, offset = divmod(position, self.epoch_rows)
            starts = self.epoch(number).starts
            window = int(np.searchsorted(starts, offset, side="right")) - 1
            count = min(int(starts[window + 1]) - offset, end - position)
            begin = offset - int(starts[window])
            yield Span(number, window, begin, begin + count)
            position += count

    def _epoch(self, number: int) -> Epoch:
        """Cut the part of this logical rank out of the epoch's permuted blocks."""
        order, ends = self.all_blocks.permuted(self.config.seed, number)
        low = int(np.searchsorted(ends, self.begin, side="right"))
        high = int(np.searchsorted(ends, self.end, side="left")) + 1
        blocks, ends = order[low:high], ends[low:high]
        starts = ends - self.all_blocks.counts[blocks]
        first = np.maximum(self.begin - starts, 0)
        offsets = np.maximum(starts, self.begin) - self.begin
        # A window has the pieces that begin in a stretch of `shuffle_rows` rows.
        windows = np.flatnonzero(np.diff(offsets // self.config.shuffle_rows, prepend=-1))
        return Epoch(
            blocks,
            first,
            np.minimum(ends, self.end) - starts - first,
            np.append(windows, len(blocks)),
            np.append(offsets[windows], self.epoch_rows),
        )

    def _window(self, number: int, window: int) -> np.ndarray:
        """The shuffled rows of one window. Returns (R, 2) int64: block, row inside it."""
        epoch = self.epoch(number)
        pieces = slice(epoch.windows[window], epoch.windows[window + 1])
        counts = epoch.counts[pieces]
        begins = epoch.first[pieces] - (np.cumsum(counts) - counts)
        rows = np.arange(counts.sum()) + np.repeat(begins, counts)
        both: np.ndarray = np.stack([np.repeat(epoch.blocks[pieces], counts), rows], axis=1)
        entropy = (WINDOW, self.config.seed, number, self.logical_rank, window)
        return np.take(both, permutation(len(both), entropy), axis=0)
