"""On Gaussian data the best denoiser is known, and so is what every sampler must reach with it."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.unclip.toys import DECODER, seeded
from unclip.config import ConfigError
from unclip.diffusion import make_schedule
from unclip.objectives.draws import bernoulli
from unclip.samplers import (
    analytic_dpm,
    ddim,
    ddim_inversion,
    ddpm_fixed_large,
    ddpm_fixed_small,
    ddpm_learned,
    dpm_solver_pp_2m,
    estimate_noise_norms,
)

SCHEDULE = make_schedule("cosine", train_timesteps=1000)
MEAN = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
COVARIANCE = torch.tensor(
    [[0.30, 0.10, 0.00], [0.10, 0.20, -0.05], [0.00, -0.05, 0.10]], dtype=torch.float64
)


def denoise(x: Tensor, timesteps: Tensor, covariance: Tensor = COVARIANCE) -> Tensor:
    """E[x_0 | x_t] for data from N(MEAN, covariance)."""
    alpha_bar = SCHEDULE.alphas_cumprod[timesteps[0]]
    noised = alpha_bar * covariance + (1 - alpha_bar) * torch.eye(3, dtype=torch.float64)
    gain = alpha_bar.sqrt() * torch.linalg.solve(noised, covariance)
    return MEAN + (x.double() - alpha_bar.sqrt() * MEAN) @ gain


def denoise_with_variance(x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    return denoise(x, timesteps), torch.zeros_like(x)


def noise_norms(steps: int, covariance: Tensor = COVARIANCE) -> Tensor:
    data = (
        torch.randn(20_000, 3, generator=seeded(7)).double() @ torch.linalg.cholesky(covariance).T
    )
    return estimate_noise_norms(
        [(partial(denoise, covariance=covariance), MEAN + data)],
        schedule=SCHEDULE,
        num_inference_steps=steps,
        generator=seeded(8),
    )


def analytic(x: Tensor, steps: int) -> Tensor:
    return analytic_dpm(
        denoise,
        x,
        schedule=SCHEDULE,
        num_inference_steps=steps,
        noise_norms=noise_norms(steps),
        generator=seeded(1),
    )


def plain(sampler: Callable[..., Tensor], model: Callable[..., object] = denoise) -> object:
    return lambda x, steps: sampler(
        model, x, schedule=SCHEDULE, num_inference_steps=steps, generator=seeded(1)
    )


SAMPLERS = {
    "ddim": plain(partial(ddim, eta=0.0)),
    "ddim, eta 1": plain(partial(ddim, eta=1.0)),
    "ddpm_fixed_small": plain(ddpm_fixed_small),
    "ddpm_fixed_large": plain(ddpm_fixed_large),
    "ddpm_learned": plain(ddpm_learned, denoise_with_variance),
    "dpm_solver_pp_2m": plain(dpm_solver_pp_2m),
    "analytic_dpm": analytic,
}


def whitened(count: int) -> Tensor:
    """Noise whose sample mean is 0 and whose sample covariance is 1, so that no error is theirs."""
    x = torch.randn(count, 3, generator=seeded()).double()
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / count)).T


def errors(name: str, steps: int) -> tuple[float, float]:
    """How far the mean and the covariance of what is drawn are from the truth, at most."""
    drawn = SAMPLERS[name](whitened(20_000), steps)  # type: ignore[operator]
    mean_error = (drawn.mean(0) - MEAN).abs().max().item()
    covariance_error = (torch.cov(drawn.T) - COVARIANCE).abs().max().item()
    print(f"{name}, {steps} steps: mean off by {mean_error:.4f}, covariance {covariance_error:.4f}")
    return mean_error, covariance_error


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_reaches_the_mean_and_the_covariance_of_the_data(name: str) -> None:
    mean_error, covariance_error = errors(name, 250)
    assert mean_error < 0.015
    assert covariance_error < 0.015


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_come_closer(name: str) -> None:
    assert errors(name, 100)[1] < max(errors(name, 5)[1], 0.01)


def test_the_optimal_variance_is_exact_in_few_steps_where_one_number_says_it() -> None:
    """With the same variance along every axis the reverse steps are Gaussians of one variance."""
    covariance = 0.25 * torch.eye(3, dtype=torch.float64)
    errors = {}
    for sampler in (
        partial(analytic_dpm, noise_norms=noise_norms(5, covariance)),
        ddpm_fixed_small,
    ):
        drawn = sampler(
            partial(denoise, covariance=covariance),
            whitened(40_000),
            schedule=SCHEDULE,
            num_inference_steps=5,
            generator=seeded(1),
        )
        errors[len(errors)] = (torch.cov(drawn.T) - covariance).abs().max().item()
    assert errors[0] < 0.006
    assert errors[1] > 5 * errors[0]


def test_the_noise_norm_is_the_mean_square_of_the_predicted_noise() -> None:
    variance = 0.25
    alpha_bars = SCHEDULE.alphas_cumprod[[999, 500, 0]]
    wanted = (1 - alpha_bars) / (alpha_bars * variance + 1 - alpha_bars)
    estimated = noise_norms(3, variance * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(estimated, wanted, rtol=0, atol=0.01)


def test_noise_norms_of_other_steps_and_of_no_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="estimated for 4 steps, but num_inference_steps=5"):
        analytic_dpm(
            denoise,
            whitened(9),
            schedule=SCHEDULE,
            num_inference_steps=5,
            noise_norms=torch.ones(4),
        )
    with pytest.raises(ConfigError, match="at least one batch"):
        estimate_noise_norms([], schedule=SCHEDULE, num_inference_steps=5)


def there_and_back(x: Tensor, steps: int, iterations: int) -> Tensor:
    found = ddim_inversion(
        denoise, x, schedule=SCHEDULE, num_inference_steps=steps, iterations=iterations
    )
    return ddim(denoise, found, schedule=SCHEDULE, num_inference_steps=steps, eta=0.0)


def test_inversion_and_back_returns_the_input_closer_with_steps_and_with_iterations() -> None:
    x = MEAN + torch.randn(50, 3, generator=seeded()).double() * 0.3
    apart = {n: (there_and_back(x, n, 1) - x).abs().max().item() for n in (10, 100, 1000)}
    refined = (there_and_back(x, 10, 100) - x).abs().max().item()
    message = ", ".join(f"{n} steps {error:.1e}" for n, error in apart.items())
    print(f"inversion and back: {message}; 10 steps of 100 iterations {refined:.1e}")
    assert apart[1000] < apart[100] < apart[10]
    assert apart[1000] < 0.02
    assert refined < apart[10] / 5


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp_2m"])
def test_a_changed_seed_changes_nothing_but_the_first_noise(name: str) -> None:
    sampler = {"ddim": partial(ddim, eta=0.0), "dpm_solver_pp_2m": dpm_solver_pp_2m}[name]
    x = whitened(5)
    first, second = (
        sampler(denoise, x, schedule=SCHEDULE, num_inference_steps=9, generator=seeded(seed))
        for seed in (1, 2)
    )
    assert torch.equal(first, second)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    steps=st.integers(1, 6),
    double=st.booleans(),
)
def test_samplers_keep_any_shape_and_dtype(
    shape: tuple[int, ...], steps: int, double: bool
) -> None:
    x = torch.randn(shape, generator=seeded()).to(torch.float64 if double else torch.float32)
    options = {"schedule": SCHEDULE, "num_inference_steps": steps}
    half = lambda x, timesteps: x / 2  # noqa: E731
    drawn = [
        ddim(half, x, eta=0.5, generator=seeded(), **options),
        ddim_inversion(half, x, **options),
        ddpm_fixed_small(half, x, generator=seeded(), **options),
        ddpm_fixed_large(half, x, generator=seeded(), **options),
        ddpm_learned(lambda x, t: (x / 2, x), x, generator=seeded(), **options),
        dpm_solver_pp_2m(half, x, **options),
        analytic_dpm(half, x, noise_norms=torch.ones(steps), generator=seeded(), **options),
    ]
    for out in drawn:
        assert (out.shape, out.dtype) == (x.shape, x.dtype)
        assert out.isfinite().all()


def test_conditions_are_dropped_10_50_and_together_5_percent_of_the_time() -> None:
    generator, draws = seeded(), 200_000
    image, text = (
        bernoulli(rate, draws, generator, torch.device("cpu"))
        for rate in (DECODER.image_dropout, DECODER.text_dropout)
    )
    shares = [drawn.float().mean().item() for drawn in (image, text, image & text)]
    print("dropped: image {:.2%}, caption {:.2%}, both {:.2%}".format(*shares))
    for share, wanted in zip(shares, (0.10, 0.50, 0.05), strict=True):
        assert share == pytest.approx(wanted, abs=0.004)
