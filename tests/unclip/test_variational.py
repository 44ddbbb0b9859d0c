"""The variational bound beside torch's distributions, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from tests.unclip.toys import DECODER, agree, make_batch, perturb, seeded
from unclip import diffusion
from unclip.diffusion import make_schedule
from unclip.kinds import build, training_loss
from unclip.models import DecoderConfig

SCHEDULE = make_schedule("cosine", train_timesteps=1000)
LEARNED = DecoderConfig(**{**vars(DECODER), "learned_variance": True})


def test_the_posterior_is_what_bayes_rule_gives() -> None:
    """q(x_s | x_t, x_0) from the densities of x_s given x_0 and of x_t given x_s."""
    for alpha_bar, alpha_bar_prev in ((0.3, 0.6), (0.01, 0.9), (0.98, 0.99)):
        alpha, x_start, x = alpha_bar / alpha_bar_prev, 0.7, -0.4
        precision = 1 / (1 - alpha_bar_prev) + alpha / (1 - alpha)
        mean = (
            alpha_bar_prev**0.5 * x_start / (1 - alpha_bar_prev) + alpha**0.5 * x / (1 - alpha)
        ) / precision
        a, b, variance = diffusion.posterior_coefficients(alpha_bar, alpha_bar_prev)
        assert a * x_start + b * x == pytest.approx(mean, rel=1e-10)
        assert variance == pytest.approx(1 / precision, rel=1e-10)


def test_the_terms_of_the_bound_are_the_divergences_that_they_stand_for() -> None:
    timesteps = torch.tensor([1, 2, 300, 998, 999])
    x_start, x, predicted = torch.randn(3, 5, 3, 4, 4, generator=seeded(), dtype=torch.float64)
    log_variance = torch.randn(5, 3, 4, 4, generator=seeded(1), dtype=torch.float64)
    terms = diffusion.vlb_terms(
        x_start,
        x,
        timesteps,
        predicted_x_start=predicted,
        predicted_log_variance=log_variance,
        schedule=SCHEDULE,
    )
    for row, step in enumerate(timesteps.tolist()):
        alpha_bar, alpha_bar_prev = SCHEDULE.alphas_cumprod[[step, step - 1]].tolist()
        a, b, variance = diffusion.posterior_coefficients(alpha_bar, alpha_bar_prev)
        wanted = Normal(a * x_start[row] + b * x[row], math.sqrt(variance))
        given_ = Normal(a * predicted[row] + b * x[row], (log_variance[row] / 2).exp())
        direct = kl_divergence(wanted, given_).mean() / math.log(2)
        agree(
            f"L_vlb at timestep {step}, direct KL in float64",
            terms[row],
            direct,
            tolerance=1e-9 * direct.item(),
        )


def test_the_first_term_is_the_mass_of_the_datas_bin() -> None:
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.0, 0.3), (-0.99, 0.01), (0.2, 2.0)):
        log_variance = torch.full((256,), 2 * math.log(std), dtype=torch.float64)
        nll = diffusion.discretised_gaussian_nll(values, torch.tensor(mean), log_variance)
        assert torch.exp(-nll).sum().item() == pytest.approx(1, abs=1e-6)
        edges = Normal(mean, std).cdf(torch.cat([values - 1 / 255, values[-1:] + 1 / 255]))
        edges[0], edges[-1] = 0, 1
        agree(f"L_0, mass of 256 bins, std {std}", torch.exp(-nll), edges.diff(), tolerance=1e-7)


def test_the_first_term_is_finite_however_far_off_the_prediction_is() -> None:
    mean = torch.tensor([-40.0, 40.0, 0.0, 1e4]).requires_grad_()
    log_variance = torch.full((4,), -12.0).requires_grad_()
    nll = diffusion.discretised_gaussian_nll(torch.zeros(4), mean, log_variance)
    nll.sum().backward()
    assert nll.isfinite().all()
    for leaf in (mean, log_variance):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@given(rows=st.integers(1, 3), side=st.integers(1, 7), double=st.booleans())
def test_learned_variance_lies_between_its_ends(rows: int, side: int, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    timesteps = torch.randint(1000, (rows,), generator=seeded(rows * side))
    output = torch.rand(rows, 3, side, side, generator=seeded(), dtype=dtype) * 2 - 1
    low, high, between = (
        diffusion.interpolated_log_variance(v, timesteps, schedule=SCHEDULE)
        for v in (-torch.ones_like(output), torch.ones_like(output), output)
    )
    assert between.dtype == dtype
    assert ((low - 1e-5 <= between) & (between <= high + 1e-5)).all()
    betas = SCHEDULE.betas[timesteps].log().to(dtype).view(-1, 1, 1, 1).expand_as(high)
    torch.testing.assert_close(high, betas, rtol=1e-4, atol=1e-4)


def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone() -> None:
    batch, seed = make_batch(8), 3
    torch.manual_seed(0)
    learned = perturb(build(LEARNED))
    plain = build(DECODER)
    weights = {
        k: v[:3] if k.startswith("unet.out.") else v for k, v in learned.state_dict().items()
    }
    plain.load_state_dict(weights)
    for model in (learned, plain):
        training_loss(model, batch, seeded(seed)).backward()
    for name in ("unet.out.weight", "unet.out.bias"):
        gradients = [model.get_parameter(name).grad for model in (learned, plain)]
        assert gradients[0] is not None
        assert gradients[1] is not None
        torch.testing.assert_close(gradients[0][:3], gradients[1], rtol=1e-4, atol=1e-7)
        assert gradients[0][3:].abs().max() > 0
