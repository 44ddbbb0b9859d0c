"""A worker that hangs is named by the others."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.unclip.process_groups import run_workers
from tests.unclip.training_toys import CONFIG, CPU, Data, denoising_loss, make_model
from unclip.training import Batch, Keep, LocalCheckpoints, WorkerHangsError, train

HANGS, AT_STEP, TIMEOUT_S = 1, 3, 15


class Slow(Data):
    """Rows that one worker waits for at one step, longer than the others wait for it."""

    def __call__(
        self, start_step: int, logical_ranks: tuple[int, ...]
    ) -> Iterator[Sequence[Batch]]:
        for step, batch in enumerate(super().__call__(start_step, logical_ranks), start_step):
            if step == AT_STEP and dist.get_rank() == HANGS:
                time.sleep(2 * TIMEOUT_S)
            yield batch


def train_or_name(rank: int, folder: Path) -> None:
    """Train with two others; write down the error."""
    files = dist.FileStore(str(folder / "store"), 3)
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", store=files, rank=rank, world_size=3, timeout=timeout)
    error = "none"
    try:
        train(
            make_model(),
            denoising_loss,
            Slow(),
            CONFIG,
            checkpoints=LocalCheckpoints(folder / "checkpoints", keep=Keep(2)),
            device=CPU,
            rank=rank,
            world_size=3,
        )
    except WorkerHangsError as hang:
        error = str(hang)
    except RuntimeError:
        error = "connection lost"  # the worker that hangs finds the others gone
    (folder / f"error-{rank}").write_text(error)


@pytest.mark.slow  # the workers wait
@pytest.mark.timeout(180)
def test_workers_that_wait_name_the_one_that_hangs(tmp_path: Path) -> None:
    run_workers(3, train_or_name, tmp_path)
    errors = [(tmp_path / f"error-{rank}").read_text() for rank in range(3)]
    named = [error for error in errors if "the workers of rank 1 (last at step 2)" in error]
    assert named
    assert all(f"wait at step {AT_STEP}" in error for error in named)
    assert errors[HANGS] == "connection lost"
