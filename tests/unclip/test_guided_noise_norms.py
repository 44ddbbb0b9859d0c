"""Analytic-DPM with guidance, on a prior whose data are normal, so that the truth is known.

The conditional and the unconditional data are normal with one covariance and two means. The guided
denoiser is then the best one for normal data of the same covariance around the guided mean, so
guidance must leave the spread of what is drawn as it is.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.unclip.toys import sampling_with, seeded, toy_cascade
from unclip.config import Config
from unclip.denoising.denoisers import prior_denoiser
from unclip.diffusion import schedule_of
from unclip.generation import Cascade, with_prior_noise_norms
from unclip.kinds.spec import ModelSpec
from unclip.samplers import estimate_noise_norms

STD, SHIFT, ROWS, STEPS, SCALE = 0.3, 0.5, 4000, 10, 2.0


@dataclass(frozen=True, kw_only=True)
class NormalConfig(Config):
    """Data of N(SHIFT, STD²) with a caption, and of N(0, STD²) without."""

    model_kind: ClassVar[str] = f"{__name__}:NORMAL"
    unit_norm: ClassVar[bool] = True
    x_start_limit: ClassVar[float | None] = None

    embed_dim: int = 8
    schedule: str = "cosine"
    train_timesteps: int = 1000
    text_dropout: float = 0.1


class NormalPrior(nn.Module):
    """The best denoiser of these data."""

    def __init__(self, config: NormalConfig) -> None:
        super().__init__()
        self.config = config

    def condition(self, tokens: Tensor, text_embeds: Tensor, dropped: Tensor) -> Tensor:
        """The mean of each row, (B, 1)."""
        return torch.where(dropped, 0.0, SHIFT)[:, None]

    def precompute(self, condition: Tensor) -> Tensor:
        return condition

    def standardise(self, image_embeds: Tensor) -> Tensor:
        return image_embeds

    def to_image_space(self, standardised: Tensor) -> Tensor:
        return standardised

    def forward(self, x: Tensor, timesteps: Tensor, mean: Tensor) -> Tensor:
        """E[x_0 | x_t]."""
        alpha_bar = schedule_of(self.config, x.device).alphas_cumprod[timesteps].float()[:, None]
        gain = alpha_bar.sqrt() * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        return mean + gain * (x - alpha_bar.sqrt() * mean)


def not_trained(*_: Any) -> Tensor:
    raise AssertionError("this prior is exact")


NORMAL = ModelSpec(
    role="prior",
    kind="normal",
    config=NormalConfig,
    network=NormalPrior,
    loss=not_trained,
    batch_fields=(),
    preview=not_trained,
    denoiser=prior_denoiser,
)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    settings = {"sampler": "analytic_dpm", "num_inference_steps": STEPS, "candidates": 1}
    sampling = sampling_with(prior={**settings, "guidance_scale": SCALE})
    return toy_cascade(sampling, prior=NormalPrior(NormalConfig()))


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    drawn = SHIFT + STD * torch.randn(ROWS, 8, generator=seeded(1))
    return {
        "tokens": torch.ones(ROWS, 6, dtype=torch.int64),
        "text_embeds": drawn,
        "image_embeds": drawn,
    }


def spread_error(cascade: Cascade, batch: dict[str, Tensor]) -> float:
    """How far the standard deviation of guided samples is from that of the data, relatively."""
    drawn = cascade.sample_image_embeds(batch["tokens"], batch["text_embeds"], generator=seeded(3))
    assert drawn.mean().item() == pytest.approx(SCALE * SHIFT, abs=0.01)
    return abs(drawn.std().item() / STD - 1)


def test_guided_samples_keep_the_spread_of_the_data(
    cascade: Cascade, batch: dict[str, Tensor]
) -> None:
    unguided = with_prior_noise_norms(cascade, batch, generator=seeded(2))
    guided_denoiser = prior_denoiser(
        cascade.prior, batch["tokens"], batch["text_embeds"], guidance_scale=SCALE
    )
    guided_norms = estimate_noise_norms(
        [(guided_denoiser, batch["image_embeds"])],
        schedule=schedule_of(NormalConfig(), cascade.device),
        num_inference_steps=STEPS,
        generator=seeded(2),
    )
    guided = Cascade(
        cascade.prior, cascade.decoder, cascade.upsamplers, cascade.sampling, guided_norms
    )
    right, wrong = spread_error(unguided, batch), spread_error(guided, batch)
    print(f"spread off by {right:.2%} with norms without guidance, {wrong:.2%} with guidance")
    assert right < 0.01
    assert right < wrong / 2


def test_noise_norms_do_not_depend_on_the_guidance_of_the_cascade(
    cascade: Cascade, batch: dict[str, Tensor]
) -> None:
    unguided = toy_cascade(
        sampling_with(cascade.sampling, prior={"guidance_scale": 1.0}), prior=cascade.prior
    )
    norms = [
        with_prior_noise_norms(one, batch, generator=seeded(2)).prior_noise_norms
        for one in (cascade, unguided)
    ]
    assert norms[0] is not None
    assert norms[1] is not None
    assert torch.equal(*norms)
