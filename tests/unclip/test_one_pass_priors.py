"""The priors that predict in one pass: the linear one, and ECLIPSE."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unclip.toys import (
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    SAMPLING,
    make_batch,
    perturb,
    seeded,
    toy_cascade,
    unit,
)
from tests.unclip.training_toys import CONFIG, fit
from unclip.checkpoint import load_model, save_model
from unclip.config import Config, ConfigError
from unclip.kinds import build, spec_of, training_loss
from unclip.kinds.eclipse_prior import contrastive_loss
from unclip.models import EclipsePrior
from unclip.training import Batch

BOTH = [LINEAR_PRIOR, ECLIPSE_PRIOR]
ROWS, HELD_OUT = 256, 64
NONE = torch.zeros(4, dtype=torch.bool)


def pairs() -> dict[str, Tensor]:
    """Image embeddings near their texts but for an offset, as in a CLIP, and for noise."""
    text_embeds = unit(ROWS, 8, seed=21)
    offset = unit(1, 8, seed=22)
    noise = 0.1 * torch.randn(ROWS, 8, generator=seeded(23))
    return {
        "text_embeds": text_embeds,
        "image_embeds": F.normalize(text_embeds + offset + noise, dim=-1),
        "tokens": torch.randint(1, 50, (ROWS, 6), generator=seeded(24)),
    }


TRAINING = {name: tensor[HELD_OUT:] for name, tensor in pairs().items()}
TEST = {name: tensor[:HELD_OUT] for name, tensor in pairs().items()}


class Batches:
    """Random rows for every logical rank and step; the same rows each time without `count`."""

    def __init__(self, count: int | None) -> None:
        self.count = count

    def __call__(self, start_step: int, ranks: tuple[int, ...]) -> Iterator[Sequence[Batch]]:
        step = start_step
        while True:
            yield [self.batch(100 * step + rank) for rank in ranks]
            step += 1

    def batch(self, seed: int) -> Batch:
        count = len(TRAINING["tokens"])
        rows = torch.randperm(count, generator=seeded(seed))[: self.count]
        return {name: tensor[rows] for name, tensor in TRAINING.items()} | {"keys": []}


def trained(config: Config, folder: Path, *, rows: int | None, **settings: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build(config)
    steps = {"log_every_steps": 100, "checkpoint_every_steps": 10_000, "logical_ranks": 1}
    options: Any = {**steps, "max_grad_norm": None, "weight_decay": 0.0, **settings}
    data, training = Batches(rows), replace(CONFIG, **options)
    result = fit(folder, training, model=model, loss=training_loss, data=data)
    model.load_state_dict(result.ema_weights)
    return model.eval()


def sample(model: Any, batch: dict[str, Tensor], seed: int = 0, **settings: Any) -> Tensor:
    given: Any = {"guidance_scale": 1.0, "temperature": 1.0, "generator": seeded(seed), **settings}
    draw: Any = spec_of(model).sample
    drawn: Tensor = draw(model, batch["tokens"], batch["text_embeds"], **given)
    return drawn


@pytest.fixture
def eclipse() -> EclipsePrior:
    model = perturb(EclipsePrior(ECLIPSE_PRIOR))
    assert isinstance(model, EclipsePrior)
    return model


def test_a_linear_prior_converges_to_the_least_squares_solution(tmp_path: Path) -> None:
    model = trained(LINEAR_PRIOR, tmp_path, rows=None, steps=500, warmup_steps=10)
    with_one = F.pad(TRAINING["text_embeds"], (0, 1), value=1.0).double()
    solution = torch.linalg.lstsq(with_one, TRAINING["image_embeds"].double()).solution.float()
    apart = {
        "weight": (model.to_image_embeds.weight - solution[:-1].T).abs().max().item(),  # type: ignore[union-attr,operator]
        "bias": (model.to_image_embeds.bias - solution[-1]).abs().max().item(),  # type: ignore[union-attr,operator]
    }
    print(f"linear prior, largest difference from least squares: {apart}")
    assert max(apart.values()) < 1e-3
    residual = (TRAINING["image_embeds"] - with_one.float() @ solution).square().sum(-1).mean()
    loss = training_loss(model, TRAINING, seeded())
    assert loss.item() == pytest.approx(residual.item(), rel=1e-4)


def test_an_untrained_linear_prior_takes_the_text_embedding_for_the_image_embedding() -> None:
    model, batch = build(LINEAR_PRIOR), make_batch(8)
    torch.testing.assert_close(sample(model, batch), batch["text_embeds"])


@pytest.mark.parametrize("config", BOTH)
def test_training_beats_the_mean_embedding_on_held_out_rows(config: Config, tmp_path: Path) -> None:
    model = trained(config, tmp_path, rows=64, steps=300, learning_rate=5e-3)
    truth, mean = TEST["image_embeds"], F.normalize(TRAINING["image_embeds"].mean(0), dim=0)
    cosine, of_mean = ((drawn * truth).sum(-1).mean() for drawn in (sample(model, TEST), mean))
    print(f"{type(config).__name__}: cosine {cosine:.3f}, of the mean embedding {of_mean:.3f}")
    assert cosine > of_mean + 0.1


@pytest.mark.parametrize("config", BOTH)
def test_saved_and_loaded_priors_give_equal_samples(config: Config, tmp_path: Path) -> None:
    model = perturb(build(config))
    save_model(tmp_path / "model.safetensors", model)
    loaded, batch = load_model(tmp_path / "model.safetensors"), make_batch(8)
    assert torch.equal(sample(loaded, batch), sample(model, batch))


def test_eclipse_samples_follow_from_the_generator_and_linear_ones_from_the_text(
    eclipse: EclipsePrior,
) -> None:
    batch = make_batch(8)
    first, again, other = (sample(eclipse, batch, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    linear = perturb(build(LINEAR_PRIOR))
    assert torch.equal(sample(linear, batch, 1), sample(linear, batch, 2))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("config", BOTH)
def test_a_sample_does_not_depend_on_its_neighbours(config: Config, guidance_scale: float) -> None:
    model, batch = perturb(build(config)), make_batch(8)
    batch["tokens"][1, 2:] = 0  # shorter than the others, so it is padded beside them
    settings = {"guidance_scale": guidance_scale}
    together = sample(model, batch, generator=[seeded(row) for row in range(4)], **settings)
    alone = {name: tensor[1:2] for name, tensor in batch.items()}
    torch.testing.assert_close(
        sample(model, alone, generator=[seeded(1)], **settings), together[1:2]
    )


def predict(model: EclipsePrior, batch: dict[str, Tensor], dropped: Tensor = NONE) -> Tensor:
    noise = torch.randn(4, 8, generator=seeded())
    predicted: Tensor = model(
        noise, model.condition(batch["tokens"], batch["text_embeds"], dropped)
    )
    return predicted


@torch.no_grad()
def test_guidance_extrapolates_from_the_prediction_without_a_caption(eclipse: EclipsePrior) -> None:
    batch = make_batch(8)
    conditional, unconditional = predict(eclipse, batch), predict(eclipse, batch, ~NONE)
    for scale in (1.0, 2.5):
        expected = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(
            sample(eclipse, batch, guidance_scale=scale), F.normalize(expected, dim=-1)
        )


@torch.no_grad()
def test_a_dropped_caption_leaves_no_trace(eclipse: EclipsePrior) -> None:
    batch, dropped = make_batch(8), torch.tensor([True, False, False, False])
    other = {"tokens": batch["tokens"].flip(0), "text_embeds": batch["text_embeds"].flip(0)}
    one, two = predict(eclipse, batch, dropped), predict(eclipse, other, dropped)
    torch.testing.assert_close(one[0], two[0])
    assert not torch.allclose(one[1:], two[1:], atol=1e-3)


def test_the_contrastive_loss_is_that_of_a_loop_over_rows_that_kept_their_text() -> None:
    predicted, texts = 3 * torch.randn(5, 8, generator=seeded(1)), unit(5, 8, seed=2)
    kept = torch.tensor([True, False, True, True, False])
    rows, images = [0, 2, 3], F.normalize(predicted, dim=-1).tolist()
    expected = 0.0
    for row in rows:
        cosines = [sum(a * b for a, b in zip(images[row], t, strict=True)) for t in texts.tolist()]
        exponentials = [math.exp(cosine / 0.07) for cosine in cosines]
        expected -= math.log(exponentials[row] / sum(exponentials)) / len(rows)
    ours = contrastive_loss(predicted, texts, kept=kept, temperature=0.07)
    assert ours.item() == pytest.approx(expected, rel=1e-5)
    none = contrastive_loss(predicted, texts, kept=torch.zeros(5, dtype=torch.bool), temperature=1)
    assert none.item() == 0


def test_equal_texts_share_the_probability() -> None:
    """Two pairs of equal texts: at best, each row finds the two that are its own."""
    texts = torch.eye(8)[[0, 0, 1, 1]]
    loss = contrastive_loss(texts, texts, kept=~NONE, temperature=0.01)
    assert loss.item() == pytest.approx(math.log(2))


@torch.no_grad()
def test_the_eclipse_loss_is_the_squared_distance_plus_the_weighted_contrast(
    eclipse: EclipsePrior,
) -> None:
    batch = make_batch(8)
    for weight in (0.0, 0.2, 1.0):
        eclipse.config = replace(
            ECLIPSE_PRIOR, text_dropout=0.0, contrastive_weight=weight, contrastive_temperature=0.5
        )
        predicted = predict(eclipse, batch)
        distance = (predicted - batch["image_embeds"]).square().sum(-1).mean()
        logits = F.normalize(predicted, dim=-1) @ batch["text_embeds"].T / 0.5
        contrast = F.cross_entropy(logits, torch.arange(4))
        loss = training_loss(eclipse, batch, seeded())
        torch.testing.assert_close(loss, distance + weight * contrast)


@pytest.mark.parametrize("config", BOTH)
def test_one_pass_priors_draw_images_in_a_cascade(config: Config) -> None:
    batch = make_batch(8)
    cascade = toy_cascade(replace(SAMPLING, bf16=True), prior=perturb(build(config)))
    out = cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded())
    assert out.image_embeds.dtype == torch.float32
    torch.testing.assert_close(out.image_embeds.norm(dim=-1), torch.ones(4))
    assert out.pixels[-1].isfinite().all()


@pytest.mark.parametrize("config", BOTH)
@pytest.mark.parametrize("name", ["text_embeds", "image_embeds"])
def test_embeddings_of_another_width_are_refused_with_both_widths(
    config: Config, name: str
) -> None:
    batch = {**make_batch(8), name: unit(4, 7)}
    with pytest.raises(ConfigError, match=rf"{name}.* has shape \(4, 7\), but .*\(B, 8\)"):
        training_loss(build(config), batch, seeded())


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LINEAR_PRIOR, {"embed_dim": 0}, "embed_dim=0 must be at least 1"),
        (ECLIPSE_PRIOR, {"heads": 3}, "prior.width=16 is not a multiple of 3; try 15"),
        (ECLIPSE_PRIOR, {"contrastive_weight": -0.2}, "contrastive_weight=-0.2 must be at least 0"),
        (ECLIPSE_PRIOR, {"contrastive_temperature": 0.0}, "temperature=0.0 must be positive"),
        (ECLIPSE_PRIOR, {"text_dropout": 1.5}, "text_dropout=1.5 is not a probability"),
    ],
)
def test_impossible_settings_are_refused(
    config: Any, changes: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **changes)
