"""The validation loss: fixed rows, timesteps and noise; no influence on the training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unclip.toys import make_batch, toy_cascade
from tests.unclip.training_toys import CONFIG, Data, StopAfter, denoising_loss, fit, same
from unclip.diffusion import q_sample, schedule_of, target
from unclip.kinds import training_loss
from unclip.training import Batch, seed_logical_rank, validation_losses

Curve = dict[int, dict[str, float]]
EVERY_3 = replace(CONFIG, validate_every_steps=3)
HELD_OUT = [Data().batch(step=1000, logical_rank=0)]


class Validation:
    """Keeps the losses of each step, as a stage does."""

    def __init__(self) -> None:
        self.curve: Curve = {}

    def __call__(self, step: int, model: nn.Module) -> None:
        losses = validation_losses(model, denoising_loss, HELD_OUT, EVERY_3)
        assert self.curve.setdefault(step, losses) == losses


def test_a_training_takes_the_same_steps_with_and_without_validation(tmp_path: Path) -> None:
    validation = Validation()
    with_it = fit(tmp_path / "with", EVERY_3, on_validation=validation)
    without = fit(tmp_path / "without", CONFIG)
    assert sorted(validation.curve) == [3, 6, 9, 12]
    assert same(with_it.ema_weights, without.ema_weights)


@pytest.mark.parametrize("cut", [1, 4, 6, 11])
def test_the_curve_does_not_depend_on_where_the_run_was_stopped(tmp_path: Path, cut: int) -> None:
    whole, parts = Validation(), Validation()
    fit(tmp_path / "whole", EVERY_3, on_validation=whole)
    fit(tmp_path / "parts", EVERY_3, on_validation=parts, stop=StopAfter(cut))
    fit(tmp_path / "parts", EVERY_3, on_validation=parts)
    assert parts.curve == whole.curve


def test_the_loss_of_a_decoder_is_measured_at_eight_fixed_timesteps() -> None:
    model = toy_cascade().decoder.eval()
    batch = make_batch(model.config.image_size)
    losses = validation_losses(model, training_loss, [batch], CONFIG)
    mean = losses.pop("validation_loss")
    last = model.config.train_timesteps
    timesteps = [round((i + 0.5) * last / 8 - 1e-6) for i in range(8)]
    assert [int(name.rpartition("/t")[2]) for name in losses] == pytest.approx(timesteps, abs=1)
    assert mean == pytest.approx(sum(losses.values()) / 8)
    assert losses == {
        name: value
        for name, value in validation_losses(model, training_loss, [batch], CONFIG).items()
        if name != "validation_loss"
    }


@torch.no_grad()
def test_the_loss_at_a_timestep_is_the_error_of_the_prediction_there() -> None:
    model = toy_cascade().decoder.eval()
    config = replace(model.config, image_dropout=0.0, text_dropout=0.0, learned_variance=False)
    model.config = config
    batch = make_batch(config.image_size, count=3)
    losses = validation_losses(model, training_loss, [batch], CONFIG)
    name, value = list(losses.items())[4]
    timesteps = torch.full((3,), int(name.rpartition("/t")[2]))
    generator = seed_logical_rank(CONFIG.seed, 0, 0, device=torch.device("cpu"))
    torch.rand(3, generator=generator)  # the dropped image embeddings and captions
    torch.rand(3, generator=generator)
    noise = torch.randn(batch["pixels"].shape, generator=generator)
    schedule = schedule_of(config, noise.device)
    x = q_sample(batch["pixels"], timesteps, noise=noise, schedule=schedule)
    nothing = torch.zeros(3, dtype=torch.bool)
    condition = model.condition(
        batch["image_embeds"], batch["tokens"], drop_image=nothing, drop_text=nothing
    )
    predicted = model(x, timesteps, condition)[:, :3]
    wanted = target(config.prediction, batch["pixels"], noise, timesteps, schedule=schedule)
    assert value == pytest.approx(float((predicted - wanted).square().mean()), rel=1e-5)


def test_batches_are_weighted_by_their_rows() -> None:
    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return batch["x"].mean()

    batches = [{"x": torch.zeros(3)}, {"x": torch.ones(1)}]
    assert validation_losses(nn.Linear(1, 1), loss, batches, CONFIG) == {"validation_loss": 0.25}
