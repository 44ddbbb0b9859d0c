"""Real processes that train together, through gloo."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path

import torch
import torch.distributed as dist


def run_workers(count: int, work: Callable[[int, Path], None], folder: Path) -> None:
    """Call `work(rank, folder)` in `count` new processes, and wait for all of them."""
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(work, r, folder)) for r in range(count)]
    for worker in workers:
        worker.start()
    while living := [worker for worker in workers if worker.is_alive()]:
        if any(worker.exitcode for worker in workers):  # the others would wait for it
            for worker in workers:
                worker.kill()
        connection.wait([worker.sentinel for worker in living])
    assert [worker.exitcode for worker in workers] == [0] * count


def _work(work: Callable[[int, Path], None], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    work(rank, folder)
    os._exit(0)  # threads of gloo may outlive their group


@contextmanager
def group(rank: int, world_size: int, store: Path) -> Iterator[bool]:
    """The first `world_size` processes as torch's default group; whether this process is in it."""
    if rank < world_size > 1:
        files = dist.FileStore(str(store), world_size)
        dist.init_process_group("gloo", store=files, rank=rank, world_size=world_size)
    yield rank < world_size
    if dist.is_initialized():
        dist.barrier()  # a rank that leaves early takes the others' connections with it
        dist.destroy_process_group()
