import math

import pytest
import torch

from unclip.config import ConfigError
from unclip.diffusion import SCHEDULES, make_schedule, respaced_timesteps


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("train_timesteps", [10, 100, 1000])
def test_signal_falls_from_nearly_all_to_nearly_none(name: str, train_timesteps: int) -> None:
    alphas_cumprod = make_schedule(name, train_timesteps=train_timesteps).alphas_cumprod
    assert alphas_cumprod.dtype == torch.float64
    assert (alphas_cumprod.diff() < 0).all()
    assert alphas_cumprod[0] > 0.95
    assert 0 < alphas_cumprod[-1] < 1e-4


def test_cosine_schedule_follows_its_formula_before_the_cap() -> None:
    def signal(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    alphas_cumprod = make_schedule("cosine", train_timesteps=1000).alphas_cumprod
    for step in (0, 250, 500, 900):
        assert alphas_cumprod[step].item() == pytest.approx(
            signal((step + 1) / 1000) / signal(0), rel=1e-9
        )


def test_linear_schedule_keeps_its_last_signal_level_with_fewer_steps() -> None:
    long, short = (
        make_schedule("linear", train_timesteps=steps).alphas_cumprod[-1].log()
        for steps in (1000, 500)
    )
    assert short.item() == pytest.approx(long.item(), rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 15, 27, 64, 250, 999, 1000])
def test_respaced_timesteps_fall_from_the_last_without_repeats(steps: int) -> None:
    timesteps = respaced_timesteps(1000, steps)
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert sorted(set(timesteps), reverse=True) == timesteps
    if steps > 1:
        assert timesteps[-1] == 0


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_name_both_numbers(steps: int) -> None:
    with pytest.raises(ConfigError, match=rf"num_inference_steps={steps}.*train_timesteps=1000"):
        respaced_timesteps(1000, steps)


def test_an_unknown_schedule_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"sigmoid.*cosine, linear"):
        make_schedule("sigmoid", train_timesteps=10)
