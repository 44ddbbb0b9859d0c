"""Karlo's networks learn from the losses that they were made with."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.unclip.karlo_configs import (
    CONFIGS,
    DECODER,
    PRIOR,
    UPSAMPLER,
    karlo_batch,
    karlo_model,
)
from tests.unclip.toys import seeded
from tests.unclip.training_toys import CONFIG, fit
from unclip.checkpoint import load_model, save_model
from unclip.config import Config, ConfigError
from unclip.kinds import build, training_loss

TIMESTEPS = 100


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a loss drew by chance, as it drew it."""
    drawn: dict[str, Any] = {"noise": [], "timesteps": []}

    def recording(module: str, function: str, name: str) -> None:
        import importlib

        owner = importlib.import_module(module)
        original = getattr(owner, function)

        def record(*args: Any, **options: Any) -> Any:
            drawn[name].append(original(*args, **options))
            return drawn[name][-1]

        monkeypatch.setattr(owner, function, record)

    for kind in ("prior", "decoder", "upsampler"):
        recording(f"unclip.kinds.karlo_{kind}", "draw_timesteps", "timesteps")
    for module in ("unclip.kinds.karlo_prior", "unclip.objectives.denoising"):
        recording(module, "randn", "noise")
    return drawn


def alphas_cumprod() -> list[float]:
    """Nichol and Dhariwal 2021, eq. 17, in plain floats."""
    signal = [
        math.cos((t / TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(TIMESTEPS + 1)
    ]
    found, level = [], 1.0
    for before, after in itertools.pairwise(signal):
        level *= 1 - min(1 - after / before, 0.999)
        found.append(level)
    return found


def noised(x: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
    return math.sqrt(level) * x + math.sqrt(1 - level) * noise


def nothing(count: int = 1) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool)


def test_the_prior_loss_is_the_error_of_the_standardised_embedding_of_clip(
    draws: dict[str, Any],
) -> None:
    model = karlo_model(replace(PRIOR, text_dropout=0.0))
    batch = karlo_batch(PRIOR, count=1)
    loss = training_loss(model, batch, seeded(3))
    as_clip_made_it = batch["image_embeds"][0] * batch["image_norm"][0]
    x_start = (as_clip_made_it - model.mean) / model.std
    ((t,),) = (timesteps.tolist() for timesteps in draws["timesteps"])
    x = noised(x_start, draws["noise"][0][0], alphas_cumprod()[t])
    predicted = model(x[None], torch.tensor([t]), model.condition(batch["tokens"], None, nothing()))
    expected = sum(
        (p - w) ** 2 for p, w in zip(predicted[0].tolist(), x_start.tolist(), strict=True)
    )
    assert loss.item() == pytest.approx(expected / 8, rel=1e-5)


def test_the_decoder_loss_is_the_error_in_noise_and_a_thousandth_of_the_bound(
    draws: dict[str, Any],
) -> None:
    model = karlo_model(replace(DECODER, image_dropout=0.0, text_dropout=0.0))
    batch = karlo_batch(DECODER, count=1)
    loss = training_loss(model, batch, seeded(3))
    ((t,),) = (timesteps.tolist() for timesteps in draws["timesteps"])
    assert t > 1
    level, before = alphas_cumprod()[t], alphas_cumprod()[t - 1]
    noise = draws["noise"][0]
    x = noised(batch["pixels"], noise, level)
    condition = model.condition(
        batch["image_embeds"] * batch["image_norm"][:, None],
        batch["tokens"],
        drop_image=nothing(),
        drop_text=nothing(),
    )
    output = model(x, torch.tensor([t]), condition).double()
    epsilon, place = output[:, :3], output[:, 3:]
    simple = (epsilon - noise.double()).square().mean()

    beta = 1 - level / before
    smallest = beta * (1 - before) / (1 - level)
    log_variance = (place + 1) / 2 * math.log(beta) + (1 - place) / 2 * math.log(smallest)
    predicted = (x.double() - math.sqrt(1 - level) * epsilon) / math.sqrt(level)
    shift = math.sqrt(before) * beta / (1 - level) * (batch["pixels"].double() - predicted)
    kl = 0.5 * (log_variance - math.log(smallest) - 1 + (smallest + shift**2) / log_variance.exp())
    bits = kl.mean() / math.log(2)
    assert loss.item() == pytest.approx((simple + 0.001 * TIMESTEPS * bits).item(), rel=1e-4)


def test_the_upsampler_loss_is_the_error_in_noise_of_both_networks(draws: dict[str, Any]) -> None:
    model = karlo_model(UPSAMPLER)
    batch = karlo_batch(UPSAMPLER, count=1)
    loss = training_loss(model, batch, seeded(3))
    ((t,),) = (timesteps.tolist() for timesteps in draws["timesteps"])
    enlarged = model.condition(F.avg_pool2d(batch["pixels"], 2))
    expected = 0.0
    for network, at, noise in zip(
        (model.unet, model.last_unet), (t, 0), draws["noise"], strict=True
    ):
        x = noised(batch["pixels"], noise, alphas_cumprod()[at])
        epsilon = network(torch.cat([x, enlarged], dim=1), torch.tensor([at]))
        expected += (epsilon - noise).square().mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_weight_but_those_of_the_frozen_tower_receives_a_gradient(config: Config) -> None:
    model = karlo_model(config)
    for seed in range(4):  # what is dropped differs
        training_loss(model, karlo_batch(config, count=16), seeded(seed)).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    tower = {n for n, _ in model.named_parameters() if n.startswith("text_encoder.")}
    assert bool(tower) is (config is not UPSAMPLER)
    assert reached == {n for n, _ in model.named_parameters()} - tower


@pytest.mark.parametrize("config", CONFIGS)
def test_training_lowers_the_loss_of_one_batch_and_leaves_the_tower_alone(
    config: Config, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, batch = build(config), karlo_batch(config)
    tower = {n: w.clone() for n, w in model.state_dict().items() if n.startswith("text_encoder.")}

    def mean_loss() -> float:
        with torch.no_grad():
            losses = [training_loss(model, batch, seeded(1000 + i)) for i in range(16)]
        return torch.stack(losses).mean().item()

    before = mean_loss()
    steps = replace(
        CONFIG, steps=60, batch_size=4, logical_ranks=1, warmup_steps=0, learning_rate=3e-3
    )
    result = fit(
        tmp_path,
        replace(steps, checkpoint_every_steps=100, weight_decay=0.5, lr_schedule="constant"),
        model=model,
        loss=training_loss,
        data=lambda start_step, logical_ranks: iter([[batch]] * 60),
    )
    assert mean_loss() < 0.9 * before
    for name, weights in tower.items():
        assert torch.equal(model.state_dict()[name], weights)
        assert torch.equal(result.ema_weights[name], weights)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_loaded_model_learns_as_the_saved_one_did(config: Config, tmp_path: Path) -> None:
    model, batch = karlo_model(config), karlo_batch(config)
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors").train()
    for one in (model, loaded):
        training_loss(one, batch, seeded(1)).backward()
    ours, theirs = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert [n for n, p in ours.items() if p.requires_grad] == [
        n for n, p in theirs.items() if p.requires_grad
    ]
    for name, parameter in ours.items():
        if parameter.requires_grad:
            torch.testing.assert_close(theirs[name].grad, parameter.grad)


def test_dropped_conditions_do_not_reach_the_decoders_loss() -> None:
    batch = karlo_batch(DECODER)
    changed = batch | {"image_norm": batch["image_norm"] * 2, "tokens": batch["tokens"].flip(0)}
    for rate, affected in ((0.0, True), (1.0, False)):
        model = karlo_model(replace(DECODER, image_dropout=rate, text_dropout=rate))
        losses = [training_loss(model, rows, seeded(1)) for rows in (batch, changed)]
        assert torch.equal(*losses) is not affected


@pytest.mark.parametrize("config", [PRIOR, DECODER])
def test_embeddings_without_their_norms_are_refused(config: Config) -> None:
    batch = karlo_batch(config)
    del batch["image_norm"]
    with pytest.raises(ConfigError, match="also needs image_norm"):
        training_loss(build(config), batch, seeded())
    batch["image_norm"] = torch.ones(4, 1)
    with pytest.raises(ConfigError, match=r"\['image_norm'\] has shape \(4, 1\).*\(B\)"):
        training_loss(build(config), batch, seeded())
