"""Compiled blocks change a training by rounding only, whether weights are sharded or not."""

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.unclip.process_groups import run_workers
from tests.unclip.sharded_toys import Run, run_all
from unclip.training import Parallel

RUNS = {
    "eager": Run(2, Parallel()),
    "replicated": Run(2, Parallel(compile_blocks=True)),
    "sharded": Run(2, Parallel(compile_blocks=True, shard_workers=2)),
    "recomputed": Run(
        2, Parallel(compile_blocks=True, shard_workers=2, checkpoint_activations=True)
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute for each compiled run
def test_compiled_blocks_change_a_training_by_rounding_only(tmp_path: Path) -> None:
    run_workers(2, partial(run_all, runs=RUNS), tmp_path)
    eager, *compiled = (torch.load(tmp_path / f"{name}.pt") for name in RUNS)
    for run in compiled:
        assert run["loss"] == pytest.approx(eager["loss"], rel=1e-4)
        assert run["weights"].keys() == eager["weights"].keys()
        for name, weight in eager["weights"].items():
            torch.testing.assert_close(run["weights"][name], weight, rtol=1e-3, atol=1e-5)
        for step, images in eager["samples"].items():
            torch.testing.assert_close(run["samples"][step], images, rtol=1e-3, atol=1e-4)
