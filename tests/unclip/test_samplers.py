import pytest
import torch

from tests.unclip.toys import seeded
from unclip.config import ConfigError
from unclip.denoising.guidance import clamp_static, classifier_free, threshold_dynamic
from unclip.diffusion import make_schedule
from unclip.samplers import ddim

SCHEDULE = make_schedule("cosine", train_timesteps=1000)
MEAN, STD = 0.7, 0.2


def gaussian_denoiser(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The exact E[x_0 | x_t] of data drawn from N(MEAN, STD²)."""
    signal = SCHEDULE.alphas_cumprod[timesteps].float().view(-1, 1)
    gain = signal.sqrt() * STD**2 / (signal * STD**2 + 1 - signal)
    return MEAN + gain * (x - signal.sqrt() * MEAN)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_with_an_exact_denoiser_draws_from_the_data(eta: float) -> None:
    noise = torch.randn(20_000, 1, generator=seeded(0))
    drawn = ddim(
        gaussian_denoiser,
        noise,
        schedule=SCHEDULE,
        num_inference_steps=200,
        eta=eta,
        generator=seeded(1),
    )
    assert drawn.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert drawn.std().item() == pytest.approx(STD, rel=0.05)


def test_ddim_without_eta_is_a_function_of_its_noise() -> None:
    noise = torch.randn(8, 4, generator=seeded(0))
    first, second = (
        ddim(
            gaussian_denoiser,
            noise,
            schedule=SCHEDULE,
            num_inference_steps=10,
            eta=0.0,
            generator=seeded(seed),
        )
        for seed in (1, 2)
    )
    assert torch.equal(first, second)


def test_ddim_with_eta_follows_its_generator() -> None:
    noise = torch.randn(8, 4, generator=seeded(0))
    first, again, other = (
        ddim(
            gaussian_denoiser,
            noise,
            schedule=SCHEDULE,
            num_inference_steps=10,
            eta=1.0,
            generator=seeded(seed),
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ddim_ends_at_the_last_prediction() -> None:
    wanted = torch.randn(3, 5, generator=seeded(0))
    for steps in (1, 7):
        drawn = ddim(
            lambda x, timesteps: wanted,
            torch.randn(3, 5, generator=seeded(1)),
            schedule=SCHEDULE,
            num_inference_steps=steps,
            eta=0.5,
            generator=seeded(2),
        )
        torch.testing.assert_close(drawn, wanted)


def test_ddim_visits_falling_timesteps_of_the_whole_batch() -> None:
    seen: list[list[int]] = []

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append(timesteps.tolist())
        return x

    ddim(denoise, torch.zeros(2, 1), schedule=SCHEDULE, num_inference_steps=3, eta=0.0)
    assert seen == [[999, 999], [500, 500], [0, 0]]


def test_more_steps_than_the_model_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_inference_steps=1001"):
        ddim(
            gaussian_denoiser,
            torch.zeros(1, 1),
            schedule=SCHEDULE,
            num_inference_steps=1001,
            eta=0.0,
        )


def test_guidance_scale_one_equals_conditional_prediction() -> None:
    conditional, unconditional = torch.randn(2, 4, 3, generator=seeded(0))
    guided = classifier_free(conditional, unconditional, guidance_scale=1.0)
    torch.testing.assert_close(guided, conditional)


def test_guidance_scale_zero_equals_unconditional_prediction() -> None:
    conditional, unconditional = torch.randn(2, 4, 3, generator=seeded(0))
    guided = classifier_free(conditional, unconditional, guidance_scale=0.0)
    torch.testing.assert_close(guided, unconditional)


def test_static_clamp_keeps_what_is_in_range() -> None:
    x_start = torch.tensor([-3.0, -0.5, 0.5, 3.0])
    assert clamp_static(x_start).tolist() == [-1.0, -0.5, 0.5, 1.0]


def test_dynamic_threshold_leaves_images_in_range_alone() -> None:
    x_start = torch.rand(2, 3, 4, 4, generator=seeded(0)) * 2 - 1
    torch.testing.assert_close(threshold_dynamic(x_start, quantile=0.995), x_start)


def test_dynamic_threshold_rescales_each_image_by_its_own_range() -> None:
    calm = torch.rand(1, 3, 4, 4, generator=seeded(0)) - 0.5
    wild = calm * 8
    result = threshold_dynamic(torch.cat([calm, wild]), quantile=1.0)
    torch.testing.assert_close(result[:1], calm)
    torch.testing.assert_close(result[1:], wild / wild.abs().max())
