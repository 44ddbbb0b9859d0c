"""The smallest change of a training that makes it fit a device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from unclip.training.estimate import Memory
from unclip.training.parallel import Parallel


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What may be changed: how workers share the model, and the number of microbatches."""

    parallel: Parallel
    logical_ranks: int


def smallest_change(
    layout: Layout, *, workers: int, batch_size: int, fits: Callable[[Layout], Memory | None]
) -> tuple[Layout, Memory] | None:
    """The first layout that fits, in the order of what it costs; None if none does.

    First more shards, which add communication; then computing activations again, which adds a
    third of the FLOPs, with ever more shards; last smaller microbatches, which change the result.
    fits: the memory of a layout, or None if that is too much.
    """
    for candidate in _candidates(layout, workers, batch_size):
        if memory := fits(candidate):
            return candidate, memory
    return None


def _candidates(layout: Layout, workers: int, batch_size: int) -> Iterator[Layout]:
    now = layout.parallel
    shards = [n for n in range(now.shard_workers, workers + 1) if workers % n == 0]
    sharded = [replace(now, shard_workers=n) for n in shards]
    again = [replace(each, checkpoint_activations=True) for each in sharded]
    for parallel in [*sharded, *again]:
        yield replace(layout, parallel=parallel)
    ranks = layout.logical_ranks * 2
    while batch_size % ranks == 0:
        for parallel in again:
            yield Layout(parallel=parallel, logical_ranks=ranks)
        ranks *= 2
