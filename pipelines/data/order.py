"""The order of training samples: a pure function of the seed and the shards' sizes.

The batch of a step is the concatenation of one microbatch from each of `logical_ranks` logical
ranks. In each epoch the shards are permuted and their rows, laid end to end, are cut into as many
equal parts as there are logical ranks. So a logical rank reads mostly whole shards (it shares the
first and the last with its neighbours), its epochs have the same length for every permutation, and
all logical ranks together see every row once. This holds for one shard and many logical ranks, and
for many shards and one logical rank.

Within a logical rank, rows are shuffled inside windows of a few consecutive shards, because a
window has to be in memory. A worker owns some of the logical ranks: the number of workers changes
who reads a logical rank, and never its rows. Any step is found by arithmetic, without iterating
over earlier ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unclip.config import Config, ConfigError

SHARDS, WINDOW = 0, 1  # the purpose of a permutation, which is part of its entropy


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
    shuffle_shards: int  # in a window

    def __post_init__(self) -> None:
        if min(self.logical_ranks, self.batch_size, self.shuffle_shards) < 1 or self.seed < 0:
            raise ConfigError(
                f"logical_ranks={self.logical_ranks}, batch_size={self.batch_size} and "
                f"shuffle_shards={self.shuffle_shards} must be at least 1, and "
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


@dataclass(frozen=True)
class Epoch:
    """The rows of one logical rank in one epoch: S consecutive pieces of shards, in W windows."""

    shards: np.ndarray  # (S,) shard of each piece
    first: np.ndarray  # (S,) first row of the piece in its shard
    counts: np.ndarray  # (S,) rows of the piece
    window_starts: np.ndarray  # (W,) position in the epoch of each window's first row


class LogicalRankOrder:
    """The endless stream of one logical rank, with random access by step."""

    def __init__(
        self, config: OrderConfig, *, logical_rank: int, shard_rows: Sequence[int]
    ) -> None:
        """shard_rows: rows to train on of each shard; empty shards are allowed."""
        total = sum(shard_rows)
        if not 0 <= logical_rank < config.logical_ranks:
            raise ConfigError(
                f"logical_rank={logical_rank} is not one of 0 to {config.logical_ranks - 1}"
            )
        if total < config.logical_ranks:
            raise ConfigError(
                f"there are {total} rows to train on for logical_ranks="
                f"{config.logical_ranks}: each logical rank needs at least one; use fewer logical "
                "ranks or more data"
            )
        self.config, self.logical_rank = config, logical_rank
        self.shard_rows = np.asarray(shard_rows, dtype=np.int64)
        self.begin = logical_rank * total // config.logical_ranks
        self.epoch_rows = (logical_rank + 1) * total // config.logical_ranks - self.begin
        # A step seldom touches more than two windows, or three at the end of an epoch.
        self.epoch = lru_cache(maxsize=4)(self._epoch)
        self.window = lru_cache(maxsize=4)(self._window)

    def rows(self, step: int) -> list[tuple[int, int]]:
        """The (shard, row) of a step's microbatch, in order."""
        pieces = [self.window(e, w)[a:b] for e, w, a, b in self._slices(step)]
        return [(int(shard), int(row)) for shard, row in np.concatenate(pieces)]

    def shards(self, step: int) -> set[int]:
        """The shards of the windows that a step reads from."""
        windows = [(e, self._pieces(w)) for e, w, _, _ in self._slices(step)]
        return {int(s) for e, pieces in windows for s in self.epoch(e).shards[pieces]}

    def _slices(self, step: int) -> list[tuple[int, int, int, int]]:
        """The parts of a step: (epoch, window, first row, end) of each window, in reading order."""
        slices = []
        position = step * self.config.microbatch_size
        end = position + self.config.microbatch_size
        while position < end:
            epoch, offset = divmod(position, self.epoch_rows)
            starts = self.epoch(epoch).window_starts
            window = int(np.searchsorted(starts, offset, side="right")) - 1
            stops_at = starts[window + 1] if window + 1 < len(starts) else self.epoch_rows
            count = min(int(stops_at) - offset, end - position)
            begin = offset - int(starts[window])
            slices.append((epoch, window, begin, begin + count))
            position += count
        return slices

    def _pieces(self, window: int) -> slice:
        return slice(window * self.config.shuffle_shards, (window + 1) * self.config.shuffle_shards)

    def _epoch(self, epoch: int) -> Epoch:
        """Cut the part of this logical rank out of the epoch's permuted shards."""
        shards = permutation(len(self.shard_rows), (SHARDS, self.config.seed, epoch, 0, 0))
        shards = shards[self.shard_rows[shards] > 0]
        ends = np.cumsum(self.shard_rows[shards])
        starts = ends - self.shard_rows[shards]
        end = self.begin + self.epoch_rows
        mine = (starts < end) & (ends > self.begin)
        first = np.maximum(self.begin - starts[mine], 0)
        counts = np.minimum(ends[mine], end) - starts[mine] - first
        offsets = np.cumsum(counts) - counts
        return Epoch(shards[mine], first, counts, offsets[:: self.config.shuffle_shards])

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """The shuffled rows of one window. Returns (R, 2) int64: shard, row."""
        plan, pieces = self.epoch(epoch), self._pieces(window)
        spans = zip(plan.shards[pieces], plan.first[pieces], plan.counts[pieces], strict=True)
        rows: np.ndarray = np.concatenate(
            [np.stack([np.full(n, s), np.arange(a, a + n)], axis=1) for s, a, n in spans]
        )
        entropy = (WINDOW, self.config.seed, epoch, self.logical_rank, window)
        return np.take(rows, permutation(len(rows), entropy), axis=0)
