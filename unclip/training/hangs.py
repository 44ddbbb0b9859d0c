"""Names the worker that keeps the others waiting.

Workers wait for each other in every step. If one of them hangs, the others learn after the timeout
of the process group that something did not come, but not from whom. So each worker notes in torch's
store which step it begins, and the ones that waited look up who did not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from unclip.training.parallel import Workers


class WorkerHangsError(RuntimeError):
    """A worker did not come to a step in time."""


@contextmanager
def named_hangs(workers: Workers, step: int) -> Iterator[None]:
    """Note that this worker begins a step; an error of the communication in it names the hang.

    Raises `WorkerHangsError` in place of an error of the process group if some worker has not begun
    the step.
    """
    if workers.world_size == 1:
        yield
        return
    store = dist.distributed_c10d._get_default_store()
    store.set(_key(workers.rank), str(step))
    try:
        yield
    except RuntimeError as error:
        last = {rank: _last_step(store, rank) for rank in range(workers.world_size)}
        late = [rank for rank, begun in last.items() if begun < step]
        if not late:
            raise
        ranks = ", ".join(f"{rank} (last at step {last[rank]})" for rank in late)
        raise WorkerHangsError(
            f"training: the others wait at step {step} for the workers of rank {ranks}. They hang, "
            "or are much slower: look at their logs and machines"
        ) from error


def _last_step(store: Any, rank: int) -> int:
    return int(store.get(_key(rank))) if store.check([_key(rank)]) else -1


def _key(rank: int) -> str:
    return f"unclip/step/{rank}"
