"""The smallest change of a training that makes it fit a device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from unclip.training.estimate import Memory
from unclip.training.parallel import Parallel

NODE = 8  # GPUs that are connected fast


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What may be changed: how workers share the model, and the number of microbatches."""

    parallel: Parallel
    logical_ranks: int


def smallest_change(
    layout: Layout, *, workers: int, batch_size: int, fits: Callable[[Layout], Memory | None]
) -> tuple[Layout, Memory] | None:
    """The first layout that fits, in the order of what it costs; None if none does.

    First more shards within a node, which add communication; then also computing activations
    again, which adds up to a third of the FLOPs; then shards across nodes; last smaller
    microbatches, which change the result.
    fits: the memory of a layout, or None if that is too much.
    """
    for candidate in _candidates(layout, workers, batch_size):
        if memory := fits(candidate):
            return candidate, memory
    return None


def _candidates(layout: Layout, workers: int, batch_size: int) -> Iterator[Layout]:
    now = layout.parallel
    shards = [n for n in range(now.shard_workers, workers + 1) if workers % n == 0]
    near = [replace(now, shard_workers=n) for n in shards if n <= NODE]
    far = [replace(now, shard_workers=n) for n in shards if n > NODE]
    for parallel in [*near, *map(_recomputed, near), *far, *map(_recomputed, far)]:
        yield replace(layout, parallel=parallel)
    ranks = layout.logical_ranks * 2
    while batch_size % ranks == 0:
        for parallel in map(_recomputed, [*near, *far]):
            yield Layout(parallel=parallel, logical_ranks=ranks)
        ranks *= 2


def _recomputed(parallel: Parallel) -> Parallel:
    return replace(parallel, checkpoint_activations=True)
