import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unclip.training_toys import (
    CONFIG,
    StopAfter,
    denoising_loss,
    fit,
    make_model,
    same,
)
from unclip.config import ConfigError
from unclip.training import (
    Batch,
    Keep,
    LocalCheckpoints,
)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("steps", [1, 5, 11])
def test_run_stopped_anywhere_and_resumed_ends_bit_for_bit_where_the_uninterrupted_one_does(
    tmp_path: Path, steps: int, precision: Any
) -> None:
    config = replace(CONFIG, precision=precision)
    whole_model, resumed_model = make_model(), make_model()
    whole = fit(tmp_path / "whole", config, model=whole_model)
    part = fit(tmp_path / "parts", config, stop=StopAfter(steps))
    assert (part.step, part.finished) == (steps, False)
    torch.manual_seed(12345)  # nothing may depend on where the global generator stands
    resumed = fit(tmp_path / "parts", config, model=resumed_model)
    assert resumed.finished
    assert same(resumed_model.state_dict(), whole_model.state_dict())
    assert same(resumed.ema_weights, whole.ema_weights)


def test_run_killed_between_checkpoints_repeats_the_same_steps(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(step: int, values: dict[str, float]) -> None:
        if step == 8:
            raise KilledError

    whole = fit(tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(tmp_path / "parts", on_log=kill)
    first = LocalCheckpoints(tmp_path / "parts", keep=Keep(2)).latest(print)
    assert first is not None
    assert first.step == 5
    assert same(fit(tmp_path / "parts").ema_weights, whole.ema_weights)


def test_finished_run_takes_no_further_step(tmp_path: Path) -> None:
    first = fit(tmp_path)
    again = fit(tmp_path)
    assert same(first.ema_weights, again.ema_weights)
    assert again.loss == first.loss
    assert math.isfinite(first.loss)


def test_dropout_draws_differ_between_steps_and_logical_ranks(tmp_path: Path) -> None:
    drawn: list[Tensor] = []

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        drawn.append(nn.functional.dropout(torch.ones(64), training=True))
        drawn.append(torch.rand(64, generator=generator))
        return denoising_loss(model, batch, generator)

    fit(tmp_path, replace(CONFIG, steps=3), loss=loss)
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn) == 3 * 4 * 2


def test_more_workers_than_logical_ranks_are_refused_with_the_most_that_can(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 workers .* logical_ranks=4; use at most 4 workers"):
        fit(tmp_path, world_size=5)


def test_checkpoint_of_other_settings_is_refused_and_of_a_longer_constant_run_is_not(
    tmp_path: Path,
) -> None:
    constant = replace(CONFIG, lr_schedule="constant")
    fit(tmp_path, constant)
    with pytest.raises(ConfigError, match="made with other settings"):
        fit(tmp_path, replace(constant, learning_rate=2e-2))
    assert fit(tmp_path, replace(constant, steps=15, log_every_steps=1)).step == 15
