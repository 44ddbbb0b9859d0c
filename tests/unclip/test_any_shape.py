"""Models, losses and manipulations over shapes, odd sizes, dtypes and batches of one."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unclip import karlo_configs
from tests.unclip.toys import (
    AR_PRIOR,
    DECODER,
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    PRESET,
    PRIOR,
    TEXT,
    UNET,
    make_batch,
    perturb,
    seeded,
    toy_cascade,
    unit,
    upsampler_config,
)
from unclip.denoising.denoisers import prior_denoiser
from unclip.kinds import build, training_loss
from unclip.manipulate import Latent, decode, encode, interpolate, shrink_mask, slerp, variations
from unclip.models import ARPrior, Decoder, DiffusionPrior, UNet, Upsampler

ROWS = st.integers(1, 3)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
quick = settings(deadline=None, max_examples=15)

PRIOR_MODEL = perturb(DiffusionPrior(PRIOR))
AR_PRIOR_MODEL = perturb(ARPrior(AR_PRIOR))
DECODER_MODEL = perturb(Decoder(DECODER))
UPSAMPLER = perturb(Upsampler(upsampler_config(8)))
CASCADE = toy_cascade(prior=PRIOR_MODEL, decoder=DECODER_MODEL)


def tokens_of(rows: int, length: int) -> Tensor:
    return torch.randint(1, TEXT.vocab_size, (rows, length), generator=seeded(length))


def alone(rows: int, pipeline: Tensor, single: Tensor) -> None:
    """The first row of a batch is what it is alone."""
    assert pipeline.shape == (rows, *single.shape[1:])
    torch.testing.assert_close(pipeline[:1], single, atol=1e-4, rtol=1e-3)


@quick
@given(rows=ROWS, length=st.integers(1, 6))
def test_priors_read_captions_of_any_length_in_batches_of_any_size(rows: int, length: int) -> None:
    tokens, z_t, x = tokens_of(rows, length), unit(rows, 8), unit(rows, 8, seed=1)
    drop, dots = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.int64)
    with torch.no_grad():
        made = [
            PRIOR_MODEL(x[:n], dots[:n], PRIOR_MODEL.condition(tokens[:n], z_t[:n], drop[:n]))
            for n in (rows, 1)
        ]
        codes = AR_PRIOR_MODEL.encode(x)[:, :-1]
        logits = [
            AR_PRIOR_MODEL(
                codes[:n], AR_PRIOR_MODEL.condition(tokens[:n], z_t[:n], dots[:n], drop[:n])
            )
            for n in (rows, 1)
        ]
    alone(rows, *made)
    alone(rows, *logits)
    assert logits[0].shape == (rows, AR_PRIOR.dimensions, AR_PRIOR.buckets)


@quick
@given(
    rows=ROWS,
    levels=st.integers(1, 3),
    blocks=st.integers(1, 2),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    context=st.integers(0, 4),
)
def test_a_unet_keeps_any_multiple_of_its_stride(
    rows: int, levels: int, blocks: int, height: int, width: int, context: int
) -> None:
    config = replace(
        UNET,
        channel_multipliers=(1, 2, 1)[:levels],
        residual_blocks=blocks,
        attention_resolutions=(8,) if context else (),
    )
    model = UNet(config, image_size=8, in_channels=2, out_channels=5, context_width=4)
    perturb(model)
    x = torch.randn(rows, 2, height * config.stride, width * config.stride, generator=seeded())
    message = torch.randn(rows, context, 4, generator=seeded()) if context else None
    seen = torch.ones(rows, context, dtype=torch.bool) if context else None
    with torch.no_grad():
        pipeline, single = (
            model(
                x[:n],
                torch.full((n,), 7),
                context=None if message is None else message[:n],
                visible=None if seen is None else seen[:n],
            )
            for n in (rows, 1)
        )
    assert pipeline.shape == (rows, 5, *x.shape[2:])
    assert pipeline.isfinite().all()
    alone(rows, pipeline, single)


@quick
@given(rows=ROWS, height=st.integers(1, 12), width=st.integers(1, 12))
def test_upsamplers_enlarge_images_of_odd_sizes_beyond_their_crops(
    rows: int, height: int, width: int
) -> None:
    low_res = torch.rand(rows, 3, height, width, generator=seeded()) * 2 - 1
    middle, large = CASCADE.upsample(low_res, generator=seeded())
    assert middle.shape == (rows, 3, 2 * height, 2 * width)
    assert large.shape == (rows, 3, 4 * height, 4 * width)
    assert large.isfinite().all()
    assert large.abs().max() <= 1


@pytest.mark.parametrize("sides", [(8, 8), (4, 10)])
def test_karlos_upsampler_keeps_the_proportions_of_an_image(sides: tuple[int, int]) -> None:
    model, low_res = build(karlo_configs.UPSAMPLER), torch.full((1, 3, *sides), 0.5)
    enlarged = model.condition(low_res)
    assert enlarged.shape == (1, 3, 2 * sides[0], 2 * sides[1])
    torch.testing.assert_close(enlarged, torch.full_like(enlarged, 0.5))


def test_upsamplers_run_at_full_size_though_they_train_on_crops() -> None:
    config = PRESET.upsamplers["upsampler_1"]
    seen: list[tuple[int, ...]] = []
    model = build(config)
    model.register_forward_hook(lambda _, given_, out: seen.append(tuple(given_[0].shape[2:])))
    training_loss(model, make_batch(config.image_size), seeded())
    models = replace(CASCADE, upsamplers={**CASCADE.upsamplers, "upsampler_1": model})
    models.upsample(make_batch(config.low_res_size)["pixels"], generator=seeded())
    assert set(seen) == {(config.crop_size,) * 2, (config.image_size,) * 2}
    assert config.crop_size < config.image_size


@quick
@given(dtype=DTYPES, rows=ROWS)
def test_models_run_in_the_dtype_of_their_weights(dtype: torch.dtype, rows: int) -> None:
    batch, drop = make_batch(8, count=rows), torch.zeros(rows, dtype=torch.bool)
    steps = torch.arange(rows)
    prior, decoder = (build(config).to(dtype) for config in (PRIOR, DECODER))
    upsampler = build(replace(upsampler_config(8), low_res_noise=0.1)).to(dtype)
    pixels, z_i, z_t = (batch[n].to(dtype) for n in ("pixels", "image_embeds", "text_embeds"))
    with torch.no_grad():
        enlarged = upsampler.condition(pixels)
        message = decoder.condition(z_i, batch["tokens"], drop_image=drop, drop_text=drop)
        made = (
            prior(z_i, steps, prior.condition(batch["tokens"], z_t, drop)),
            decoder(pixels, steps, message),
            upsampler(enlarged, steps, enlarged, torch.zeros(rows, dtype=dtype)),
        )
    for out, given_ in zip(made, (z_i, pixels, enlarged), strict=True):
        assert (out.shape, out.dtype) == (given_.shape, dtype)


@quick
@given(rows=ROWS, seed=st.integers(0, 99))
@pytest.mark.parametrize(
    "config",
    [PRIOR, AR_PRIOR, LINEAR_PRIOR, ECLIPSE_PRIOR, DECODER, PRESET.upsamplers["upsampler_1"]],
)
def test_losses_are_finite_for_batches_of_one_too(config: object, rows: int, seed: int) -> None:
    batch = make_batch(getattr(config, "image_size", 8), count=rows)
    model = build(config)  # type: ignore[arg-type]
    assert training_loss(model, batch, seeded(seed)).isfinite()


@quick
@given(rows=ROWS, length=st.integers(1, 6))
def test_a_cascade_draws_for_any_number_of_captions(rows: int, length: int) -> None:
    tokens, z_t = tokens_of(rows, length), unit(rows, 8)
    made = CASCADE.generate(tokens, z_t, generator=seeded())
    assert [tuple(p.shape) for p in made.pixels] == [(rows, 3, s, s) for s in (8, 16, 32)]


@quick
@given(
    rows=ROWS, count=st.integers(1, 4), weights=st.lists(st.floats(0, 1), min_size=1, max_size=4)
)
def test_manipulations_make_as_many_images_as_are_asked_for(
    rows: int, count: int, weights: list[float]
) -> None:
    pixels = make_batch(8, count=rows)["pixels"]
    latent = encode(CASCADE, pixels, unit(rows, 8))
    assert latent.noise.shape == decode(CASCADE, latent).shape == pixels.shape
    one = Latent(latent.image_embeds[:1], latent.noise[:1])
    other = Latent(latent.image_embeds[-1:], latent.noise[-1:])
    varied = variations(CASCADE, one, count=count, eta=0.5, generator=seeded())
    walk = interpolate(CASCADE, one, other, weights=torch.tensor(weights))
    assert (len(varied), len(walk)) == (count, len(weights))
    assert varied.isfinite().all()
    assert walk.isfinite().all()


@quick
@given(
    width=st.integers(1, 40), double=st.booleans(), weight=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_slerp_stays_on_the_sphere_in_any_width_and_dtype(
    width: int, double: bool, weight: float, seed: int
) -> None:
    dtype = torch.float64 if double else torch.float32
    start, end = unit(1, width, seed=seed).to(dtype), unit(1, width, seed=seed + 100).to(dtype)
    between = slerp(start, end, torch.tensor([weight]))
    assert (between.shape, between.dtype) == (start.shape, dtype)
    if (start + end).norm() > 1e-3:  # between opposite vectors there is no one way
        torch.testing.assert_close(
            between.norm(dim=-1), torch.ones(1, dtype=dtype), atol=1e-4, rtol=0
        )


@quick
@given(rows=ROWS, side=st.integers(1, 33), size=st.integers(1, 33), seed=st.integers(0, 99))
def test_a_shrunk_mask_loses_no_pixel(rows: int, side: int, size: int, seed: int) -> None:
    mask = torch.rand(rows, 1, side, side, generator=seeded(seed)) < 0.1
    small = shrink_mask(mask, min(size, side))
    assert small.shape == (rows, 1, *[min(size, side)] * 2)
    assert torch.equal(small.flatten(1).any(1), mask.flatten(1).any(1))


def test_prior_guidance_of_one_is_the_conditional_prediction() -> None:
    tokens, z_t, x = tokens_of(4, 6), unit(4, 8), unit(4, 8, seed=1)
    none, steps = torch.zeros(4, dtype=torch.bool), torch.full((4,), 50)
    with torch.no_grad():
        conditional = PRIOR_MODEL(x, steps, PRIOR_MODEL.condition(tokens, z_t, none))
        for scale in (1.0, 1 + 1e-7):
            guided = prior_denoiser(PRIOR_MODEL, tokens, z_t, guidance_scale=scale)  # type: ignore[arg-type]
            torch.testing.assert_close(guided(x, steps), conditional, atol=1e-5, rtol=0)
