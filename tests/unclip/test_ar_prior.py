from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unclip.toys import AR_PRIOR, make_batch, perturb, seeded, unit
from unclip.checkpoint import load_model, save_model
from unclip.config import ConfigError
from unclip.embeddings.pca import Moments, fit
from unclip.embeddings.quantise import quantile_edges
from unclip.kinds import training_loss
from unclip.kinds.autoregressive_prior import draw, draw_dots, sample_codes
from unclip.models import ARPrior

NONE = torch.zeros(4, dtype=torch.bool)
ALL = torch.ones(4, dtype=torch.bool)
DOTS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def model() -> ARPrior:
    prior = perturb(ARPrior(AR_PRIOR))
    assert isinstance(prior, ARPrior)
    images, texts = unit(500, 8, seed=11), unit(500, 8, seed=12)
    prior.calibrate(
        fit(Moments.of(images)), quantile_edges((images * texts).sum(-1), buckets=AR_PRIOR.dot_bins)
    )
    return prior


def codes_of(model: ARPrior, *, seed: int = 0, **settings: float | bool) -> Tensor:
    batch = make_batch(8)
    options = {"guidance_scale": 1.0, "temperature": 1.0, **settings}
    return sample_codes(
        model,
        batch["tokens"],
        batch["text_embeds"],
        generator=seeded(seed),
        **options,  # type: ignore[arg-type]
    )


def logits_of(model: ARPrior, codes: Tensor, *, dropped: Tensor = NONE) -> Tensor:
    batch = make_batch(8)
    condition = model.condition(batch["tokens"], batch["text_embeds"], DOTS, dropped)
    logits: Tensor = model(codes, condition)
    return logits


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_sampling_with_the_cache_gives_the_codes_of_sampling_without(
    model: ARPrior, guidance_scale: float
) -> None:
    cached, plain = (
        torch.cat(
            [
                codes_of(model, seed=seed, guidance_scale=guidance_scale, cached=cached)
                for seed in range(5)
            ]
        )
        for cached in (True, False)
    )
    differing = int((cached != plain).sum())
    print(f"cache, guidance {guidance_scale}: {differing} of {plain.numel()} codes differ")
    assert differing == 0


def test_logits_depend_on_the_codes_before_them_alone(model: ARPrior) -> None:
    codes = torch.randint(16, (4, 4), generator=seeded())
    changed = codes.clone()
    changed[:, 2] = (changed[:, 2] + 5) % 16
    before, after = logits_of(model, codes), logits_of(model, changed)
    assert before.shape == (4, 5, 16)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).all(-1).any()


def test_guidance_scale_one_equals_the_conditional_prediction(model: ARPrior) -> None:
    assert torch.equal(codes_of(model), codes_of(model, guidance_scale=1 + 1e-7))


def test_guidance_moves_samples_away_from_the_unconditional_ones(model: ARPrior) -> None:
    assert not torch.equal(codes_of(model), codes_of(model, guidance_scale=8.0))


def test_dropped_text_tells_nothing(model: ARPrior) -> None:
    batch = make_batch(8)
    codes = torch.randint(16, (4, 4), generator=seeded())
    dropped = model.condition(batch["tokens"], batch["text_embeds"], DOTS, ALL)
    other = model.condition(batch["tokens"].flip(0), unit(4, 8, seed=9), DOTS.flip(0), ALL)
    assert torch.equal(model(codes, dropped), model(codes, other))


def test_every_part_of_the_prefix_reaches_the_first_code(model: ARPrior) -> None:
    batch, empty = make_batch(8), torch.empty(4, 0, dtype=torch.int64)
    parts = (batch["tokens"], batch["text_embeds"], DOTS)
    others = (batch["tokens"].flip(0), batch["text_embeds"].flip(0), DOTS.flip(0))
    base = model(empty, model.condition(*parts, NONE))
    for place in range(3):
        changed = [
            other if i == place else own
            for i, (own, other) in enumerate(zip(parts, others, strict=True))
        ]
        assert not torch.allclose(model(empty, model.condition(*changed, NONE)), base)


def test_a_row_does_not_depend_on_padding_or_neighbours(model: ARPrior) -> None:
    batch = make_batch(8)
    tokens = batch["tokens"].clone()
    tokens[0, 2:] = 0
    codes = torch.randint(16, (4, 4), generator=seeded())
    together = model(codes, model.condition(tokens, batch["text_embeds"], DOTS, NONE))[:1]
    alone = model.condition(tokens[:1], batch["text_embeds"][:1], DOTS[:1], NONE[:1])
    torch.testing.assert_close(model(codes[:1], alone), together)


def test_a_low_temperature_draws_the_likeliest_code(model: ARPrior) -> None:
    codes = codes_of(model, temperature=1e-6)
    assert torch.equal(codes, codes_of(model, temperature=1e-6, cached=False))
    batch = make_batch(8)
    uniform = torch.special.ndtr(torch.randn(4, 6, generator=seeded()).double())
    dots = draw_dots(uniform[:, 0], bins=AR_PRIOR.dot_bins)
    condition = model.condition(batch["tokens"], batch["text_embeds"], dots, NONE)
    assert torch.equal(model(codes[:, :-1], condition).argmax(-1), codes)


def test_draws_have_the_frequencies_of_the_logits() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, -1)
    drawn = draw(logits, torch.rand(20_000, generator=seeded()))
    shares = drawn.bincount(minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.7]), atol=0.01, rtol=0)
    ends = draw(logits[:2], torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0, 2]


def test_the_dot_product_is_drawn_from_the_top_half_of_its_bins() -> None:
    drawn = draw_dots(torch.linspace(0, 1, 1001), bins=8)
    assert drawn.unique().tolist() == [4, 5, 6, 7]
    assert drawn.bincount()[4:].min() >= 249


def test_encoding_and_decoding_keeps_unit_embeddings_close() -> None:
    config = replace(AR_PRIOR, dimensions=8, buckets=1024, bucket_reach=4.0)
    prior, embeds = ARPrior(config), unit(300, 8, seed=5)
    prior.calibrate(fit(Moments.of(embeds)), torch.linspace(-1, 1, 3))
    restored = prior.decode(prior.encode(embeds))
    torch.testing.assert_close(restored.norm(dim=-1), torch.ones(300))
    assert (restored * embeds).sum(-1).min() > 0.9999


def test_codes_are_the_same_under_bfloat16(model: ARPrior) -> None:
    embeds = unit(100, 8, seed=6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.encode(embeds)
    assert torch.equal(inside, model.encode(embeds))


def test_a_saved_prior_holds_all_that_sampling_needs(model: ARPrior, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, ARPrior)
    codes = codes_of(loaded)
    assert torch.equal(codes, codes_of(model))
    assert torch.equal(loaded.decode(codes), model.decode(codes))


def test_the_loss_of_a_model_that_knows_nothing_is_that_of_a_uniform_guess(model: ARPrior) -> None:
    with torch.no_grad():
        model.to_logits.weight.zero_()
        model.to_logits.bias.zero_()
    loss = training_loss(model, make_batch(8), seeded())
    assert loss.item() == pytest.approx(torch.tensor(16.0).log().item())


def test_what_does_not_fit_is_refused_with_both_sizes(model: ARPrior) -> None:
    with pytest.raises(ConfigError, match=r"embed_dim=8.*basis of width 4"):
        model.calibrate(fit(Moments.of(unit(50, 4))), torch.linspace(-1, 1, 3))
    with pytest.raises(ConfigError, match=r"dot_bins=4, but .* 9 edges"):
        model.calibrate(fit(Moments.of(unit(50, 8))), torch.linspace(-1, 1, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimensions": 9}, "dimensions=9 must lie between 1 and embed_dim=8"),
        ({"dot_bins": 5}, "dot_bins=5 is not a multiple of 2"),
        ({"buckets": 1}, "buckets=1 must be at least 2"),
        ({"bucket_reach": 0.0}, "bucket_reach=0.0 positive"),
        ({"text_dropout": 1.5}, "text_dropout=1.5"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(AR_PRIOR, **changes)  # type: ignore[arg-type]
