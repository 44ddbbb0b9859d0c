from dataclasses import replace

import pytest
import torch

from tests.unclip.toys import (
    AR_PRIOR,
    DECODER,
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    PRESET,
    PRIOR,
    UNET,
    make_batch,
    perturb,
    seeded,
)
from unclip.config import Config, ConfigError
from unclip.degradations import degrade, gaussian_blur
from unclip.kinds import build, training_loss

MODELS = [
    PRESET.prior,
    AR_PRIOR,
    ECLIPSE_PRIOR,
    PRESET.decoder,
    PRESET.upsamplers["upsampler_1"],
    PRESET.upsamplers["upsampler_2"],
    replace(DECODER, learned_variance=True),
    replace(PRESET.upsamplers["upsampler_1"], degradation="bsr", low_res_noise=0.3),
]


def batch_for(config: Config, *, count: int = 4) -> dict[str, torch.Tensor]:
    return make_batch(getattr(config, "image_size", 8), count=count)


@pytest.mark.parametrize("config", [*MODELS, replace(DECODER, unet=replace(UNET, dropout=0.5))])
def test_a_loss_follows_from_the_generator_alone(config: Config) -> None:
    model = perturb(build(config)).train()
    batch = batch_for(config)
    first = training_loss(model, batch, seeded(1))
    torch.manual_seed(5)
    again = training_loss(model, batch, seeded(1))
    other = training_loss(model, batch, seeded(2))
    assert first.shape == ()
    assert first.isfinite()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_leaves_the_global_random_state_alone() -> None:
    model = build(replace(DECODER, unet=replace(UNET, dropout=0.5)))
    before = torch.get_rng_state()
    training_loss(model, batch_for(DECODER), seeded(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("config", [*MODELS, LINEAR_PRIOR])
def test_every_weight_receives_a_gradient(config: Config) -> None:
    model = perturb(build(config)).train()
    for seed in range(4):  # what is dropped differs
        training_loss(model, batch_for(config, count=16), seeded(seed)).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("config", [*MODELS, LINEAR_PRIOR])
def test_a_model_learns_one_batch(config: Config) -> None:
    torch.manual_seed(0)
    model = build(config)
    batch = batch_for(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def mean_loss() -> float:
        with torch.no_grad():
            losses = [training_loss(model, batch, seeded(1000 + i)) for i in range(16)]
        return torch.stack(losses).mean().item()

    before = mean_loss()
    for step in range(80):
        optimizer.zero_grad()
        training_loss(model, batch, seeded(step)).backward()
        optimizer.step()
    assert mean_loss() < 0.9 * before


def test_the_prior_loss_of_an_exact_model_is_zero_and_of_a_wrong_one_the_squared_distance() -> None:
    model = build(replace(PRIOR, text_dropout=0.0))
    batch = batch_for(PRIOR)
    batch["image_embeds"] = batch["image_embeds"][:1].expand(4, -1)
    with torch.no_grad():
        model.to_image_embeds.weight.zero_()
        model.to_image_embeds.bias.copy_(batch["image_embeds"][0] * PRIOR.embedding_scale)
        assert training_loss(model, batch, seeded()).item() == pytest.approx(0, abs=1e-9)
        model.to_image_embeds.bias.mul_(-1)
        assert training_loss(model, batch, seeded()).item() == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize(("rate", "affected"), [(0.0, False), (1.0, True)])
def test_dropped_conditions_do_not_reach_the_loss(rate: float, affected: bool) -> None:
    config = replace(DECODER, image_dropout=rate, text_dropout=rate)
    model = perturb(build(config))
    batch = batch_for(config)
    changed = batch | {"image_embeds": batch["image_embeds"].flip(0)}
    losses = [training_loss(model, rows, seeded(1)) for rows in (batch, changed)]
    assert torch.equal(*losses) is affected


@pytest.mark.parametrize("name", ["tokens", "image_embeds", "pixels"])
def test_a_missing_tensor_is_named(name: str) -> None:
    batch = batch_for(DECODER)
    del batch[name]
    with pytest.raises(ConfigError, match=f"also needs {name}"):
        training_loss(build(DECODER), batch, seeded())


def test_pixels_of_another_size_are_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match=r"\(4, 3, 16, 16\).*\(B, 3, 8, 8\)"):
        training_loss(build(DECODER), make_batch(16), seeded())


def test_a_blur_keeps_flat_images_and_dampens_edges() -> None:
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(flat), flat)
    checks = torch.ones(1, 3, 8, 8)
    checks[..., ::2] = -1
    assert gaussian_blur(checks).abs()[..., 1:-1].max() < 0.6


def test_degradation_chooses_images_at_its_probability() -> None:
    pixels = torch.rand(400, 3, 4, 4, generator=seeded())
    degraded = degrade(pixels, "gaussian_blur", probability=0.25, generator=seeded(1))
    changed = (degraded != pixels).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.07)
    torch.testing.assert_close(degraded[changed], gaussian_blur(pixels[changed]))
