import pytest
import torch

from tests.unclip.toys import seeded
from unclip import diffusion
from unclip.diffusion import make_schedule

SCHEDULE = make_schedule("cosine", train_timesteps=1000)
TIMESTEPS = torch.tensor([0, 100, 500, 990])


def noised() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x_start = torch.randn(4, 3, 8, 8, generator=seeded(0), dtype=torch.float64)
    noise = torch.randn(4, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
    return x_start, noise, diffusion.q_sample(x_start, TIMESTEPS, noise=noise, schedule=SCHEDULE)


def test_q_sample_at_the_first_timestep_is_nearly_the_data() -> None:
    x_start, _, x = noised()
    assert (x[0] - x_start[0]).abs().max() < 0.05


def test_q_sample_at_the_last_timestep_is_nearly_the_noise() -> None:
    x_start, noise, _ = noised()
    last = torch.full((4,), 999)
    x = diffusion.q_sample(x_start, last, noise=noise, schedule=SCHEDULE)
    torch.testing.assert_close(x, noise, atol=1e-2, rtol=0)


def test_q_sample_keeps_unit_variance() -> None:
    x_start = torch.randn(20_000, 1, generator=seeded(0))
    noise = torch.randn(20_000, 1, generator=seeded(1))
    timesteps = torch.full((20_000,), 400)
    x = diffusion.q_sample(x_start, timesteps, noise=noise, schedule=SCHEDULE)
    assert x.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("prediction", diffusion.TO_X_START)
def test_a_perfect_prediction_of_any_type_gives_back_the_data(prediction: str) -> None:
    x_start, noise, x = noised()
    output = diffusion.target(prediction, x_start, noise, TIMESTEPS, schedule=SCHEDULE)
    recovered = diffusion.to_x_start(prediction, output, x, TIMESTEPS, schedule=SCHEDULE)
    torch.testing.assert_close(recovered, x_start)


def test_noise_follows_from_the_data_and_from_the_velocity() -> None:
    x_start, noise, x = noised()
    v = diffusion.velocity(x_start, noise, TIMESTEPS, schedule=SCHEDULE)
    for recovered in (
        diffusion.noise_from_x_start(x_start, x, TIMESTEPS, schedule=SCHEDULE),
        diffusion.noise_from_velocity(v, x, TIMESTEPS, schedule=SCHEDULE),
    ):
        torch.testing.assert_close(recovered, noise)


def test_conversions_broadcast_over_embeddings_too() -> None:
    x_start, noise = torch.randn(2, 4, 16, generator=seeded(0), dtype=torch.float64)
    x = diffusion.q_sample(x_start, TIMESTEPS, noise=noise, schedule=SCHEDULE)
    for row in range(4):
        alone = diffusion.q_sample(
            x_start[row : row + 1],
            TIMESTEPS[row : row + 1],
            noise=noise[row : row + 1],
            schedule=SCHEDULE,
        )
        torch.testing.assert_close(x[row : row + 1], alone)


@pytest.mark.parametrize("prediction", diffusion.TO_X_START)
def test_min_snr_weighs_an_error_in_the_data_alike_for_any_prediction_type(
    prediction: str,
) -> None:
    x_start, noise, x = noised()
    wrong = x_start + 0.1
    wrong_noise = diffusion.noise_from_x_start(wrong, x, TIMESTEPS, schedule=SCHEDULE)
    wanted, given = (
        diffusion.target(prediction, *pair, TIMESTEPS, schedule=SCHEDULE)
        for pair in ((x_start, noise), (wrong, wrong_noise))
    )
    weights = diffusion.min_snr_weights(prediction, TIMESTEPS, gamma=5.0, schedule=SCHEDULE)
    losses = (given - wanted).square().flatten(1).mean(1) * weights
    expected = 0.01 * diffusion.signal_to_noise(TIMESTEPS, SCHEDULE).clamp(max=5)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-12)
