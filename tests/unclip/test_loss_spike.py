import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unclip.training_toys import CONFIG, Data, StopAfter, denoising_loss, fit, same
from unclip.training import (
    Batch,
    TrainingDiverged,
)


def test_nan_is_rolled_back_and_reported_with_the_keys_of_its_logical_rank(tmp_path: Path) -> None:
    messages: list[str] = []
    result = fit(tmp_path, data=Data(poisoned=(7,)), on_rollback=lambda r: messages.append(str(r)))
    (rollback,) = result.rollbacks
    assert (rollback.step, rollback.back_to, result.skipped_steps) == (7, 5, (7,))
    assert rollback.keys == ("7-2-0", "7-2-1", "7-2-2", "7-2-3")
    assert "step 7 was not taken (the loss is nan)" in messages[0]
    assert "7-2-1" in messages[0]
    assert result.finished
    assert all(w.isfinite().all() for w in result.ema_weights.values())


def test_run_resumed_after_a_rollback_skips_the_same_step(tmp_path: Path) -> None:
    data = Data(poisoned=(6,))
    whole = fit(tmp_path / "whole", data=data)
    fit(tmp_path / "parts", data=data, stop=StopAfter(10))
    resumed = fit(tmp_path / "parts", data=data)
    assert resumed.rollbacks == ()
    assert resumed.skipped_steps == (6,)
    assert same(resumed.ema_weights, whole.ema_weights)


def test_gradient_that_is_not_finite_is_rolled_back_though_the_loss_is(tmp_path: Path) -> None:
    class BrokenOnceError(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        value = denoising_loss(model, batch, generator)
        broken: Tensor = BrokenOnceError.apply(value)
        return broken if batch["keys"][0] == "2-1-0" else value

    result = fit(tmp_path, loss=loss)
    assert "gradient norm" in result.rollbacks[0].reason
    assert result.skipped_steps == (2,)


def test_loss_spike_is_rolled_back(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, lr_schedule="constant")
    result = fit(tmp_path, config, data=Data(scaled={30: 100.0}))
    assert result.skipped_steps == (30,)
    assert "times the running median" in result.rollbacks[0].reason


def test_too_many_rollbacks_to_one_checkpoint_end_training_with_a_hint(tmp_path: Path) -> None:
    config = replace(CONFIG, max_rollbacks=2)
    with pytest.raises(
        TrainingDiverged, match=r"step 9 was not taken.*max_rollbacks=2.*learning_rate"
    ):
        fit(tmp_path, config, data=Data(poisoned=(6, 8, 9)))
    spread = Data(poisoned=(1, 2, 6, 7))  # two before the checkpoint of step 5, and two after
    assert fit(tmp_path / "spread", config, data=spread).skipped_steps == (1, 2, 6, 7)


def test_run_whose_first_steps_are_all_skipped_goes_on_without_a_log_entry_for_them(
    tmp_path: Path,
) -> None:
    logged: list[int] = []

    def log_loss(step: int, values: dict[str, float]) -> None:
        assert math.isfinite(values["loss"])
        logged.append(step)

    config = replace(CONFIG, log_every_steps=1)
    result = fit(tmp_path, config, data=Data(poisoned=(0, 1)), on_log=log_loss)
    assert result.skipped_steps == (0, 1)
    assert logged == list(range(3, 13))
