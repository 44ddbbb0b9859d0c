from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import Tensor

from tests.unclip.toys import (
    DECODER,
    PRESET,
    PRIOR,
    TEXT,
    UNET,
    make_batch,
    perturb,
    seeded,
    unit,
    upsampler_config,
)
from unclip.config import ConfigError
from unclip.kinds import build
from unclip.models import Decoder, DiffusionPrior, TextEncoder, UNet, Upsampler
from unclip.models.layers import attend
from unclip.models.text_encoder import visible_tokens

NONE = torch.zeros(4, dtype=torch.bool)
ALL = torch.ones(4, dtype=torch.bool)
T = torch.tensor([0, 10, 50, 99])


def decoder_output(
    model: Decoder, *, image_embeds: Tensor, tokens: Tensor, drop_image: Tensor, drop_text: Tensor
) -> Tensor:
    condition = model.condition(image_embeds, tokens, drop_image=drop_image, drop_text=drop_text)
    out: Tensor = model(torch.randn(4, 3, 8, 8, generator=seeded(9)), T, condition)
    return out


@pytest.fixture
def decoder() -> Decoder:
    model = perturb(Decoder(DECODER))
    assert isinstance(model, Decoder)
    return model


@pytest.fixture
def prior() -> DiffusionPrior:
    model = perturb(DiffusionPrior(PRIOR))
    assert isinstance(model, DiffusionPrior)
    return model


def test_only_trailing_zeros_are_padding() -> None:
    tokens = torch.tensor([[5, 0, 7, 0, 0], [0, 0, 0, 0, 0]])  # 0 is also the token of "!"
    assert visible_tokens(tokens).tolist() == [
        [True, True, True, False, False],
        [True, False, False, False, False],
    ]


def test_text_encoding_does_not_depend_on_padding() -> None:
    encoder = perturb(TextEncoder(TEXT))
    tokens = torch.randint(1, 50, (4, 6), generator=seeded())
    tokens[0, 3:] = 0
    among_longer = encoder(tokens).hidden[:1, :3]
    torch.testing.assert_close(encoder(tokens[:1]).hidden, among_longer)
    torch.testing.assert_close(encoder(tokens[:1, :3]).hidden, among_longer)


def test_the_prior_does_not_depend_on_padding(prior: DiffusionPrior) -> None:
    batch = make_batch(8)
    tokens, x = batch["tokens"].clone(), unit(4, 8, seed=7)
    tokens[0, 2:] = 0
    together = prior(x, T, prior.condition(tokens, batch["text_embeds"], NONE))[:1]
    alone = prior.condition(tokens[:1], batch["text_embeds"][:1], NONE[:1])
    torch.testing.assert_close(prior(x[:1], T[:1], alone), together)


def test_captions_of_nothing_are_encoded_to_something_finite() -> None:
    encoded = perturb(TextEncoder(TEXT))(torch.zeros(2, 6, dtype=torch.int64))
    assert encoded.hidden.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_is_close_to_float32(masked: bool) -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=seeded())
    mask = torch.tensor([True, False, True, True, False]).expand(5, 5) if masked else None
    expected = attend(q, k, v, mask)
    q16, k16, v16 = (t.bfloat16().requires_grad_() for t in (q, k, v))
    training = attend(q16, k16, v16, mask)
    assert training.dtype == torch.bfloat16
    torch.testing.assert_close(training.float(), expected, atol=0.03, rtol=0.03)


def test_tokens_of_another_length_are_refused_with_both_lengths() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 9\).*context_length=6"):
        TextEncoder(TEXT)(torch.ones(2, 9, dtype=torch.int64))


def test_prior_reads_caption_text_embedding_timestep_and_noised_embedding(
    prior: DiffusionPrior,
) -> None:
    batch = make_batch(8)
    x = unit(4, 8, seed=7)

    def predict(**changed: Tensor) -> Tensor:
        inputs = {"tokens": batch["tokens"], "text_embeds": batch["text_embeds"], "x": x, "t": T}
        inputs.update(changed)
        condition = prior.condition(inputs["tokens"], inputs["text_embeds"], NONE)
        out: Tensor = prior(inputs["x"], inputs["t"], condition)
        return out

    start = predict()
    for changed in (
        {"tokens": batch["tokens"].flip(0)},
        {"text_embeds": batch["text_embeds"].flip(0)},
        {"x": x.flip(0)},
        {"t": T.flip(0)},
    ):
        assert not torch.allclose(predict(**changed), start)


def test_dropped_text_leaves_no_trace_in_the_prior(prior: DiffusionPrior) -> None:
    batch = make_batch(8)
    x = unit(4, 8, seed=7)
    first = prior.condition(batch["tokens"], batch["text_embeds"], ALL)
    other = prior.condition(batch["tokens"].flip(0), batch["text_embeds"].flip(0), ALL)
    torch.testing.assert_close(prior(x, T, first), prior(x, T, other))


@pytest.mark.parametrize("dropped", ["image", "text"])
def test_a_dropped_condition_leaves_no_trace_in_the_decoder(decoder: Decoder, dropped: str) -> None:
    batch = make_batch(8)
    inputs = {"image_embeds": batch["image_embeds"], "tokens": batch["tokens"]}
    drops = {"drop_image": NONE, "drop_text": NONE, f"drop_{dropped}": ALL}
    name = "image_embeds" if dropped == "image" else "tokens"
    changed = inputs | {name: inputs[name].flip(0)}
    kept = {"drop_image": NONE, "drop_text": NONE}
    torch.testing.assert_close(
        decoder_output(decoder, **inputs, **drops), decoder_output(decoder, **changed, **drops)
    )
    assert not torch.allclose(
        decoder_output(decoder, **inputs, **kept), decoder_output(decoder, **changed, **kept)
    )


@pytest.mark.parametrize("path", ["to_embedding", "to_image_tokens"])
def test_the_image_embedding_reaches_the_decoder_in_two_places(decoder: Decoder, path: str) -> None:
    batch = make_batch(8)
    with torch.no_grad():  # cut the other path
        other = {"to_embedding": "to_image_tokens", "to_image_tokens": "to_embedding"}[path]
        getattr(decoder, other).weight.zero_()
    first, second = (
        decoder_output(
            decoder,
            image_embeds=image_embeds,
            tokens=batch["tokens"],
            drop_image=NONE,
            drop_text=NONE,
        )
        for image_embeds in (batch["image_embeds"], batch["image_embeds"].flip(0))
    )
    assert not torch.allclose(first, second)


def test_samples_of_a_batch_do_not_mix(decoder: Decoder) -> None:
    batch = make_batch(8)
    kept = {"drop_image": NONE, "drop_text": NONE}
    inputs = {"image_embeds": batch["image_embeds"], "tokens": batch["tokens"]}
    changed = {name: tensor.clone() for name, tensor in inputs.items()}
    changed["image_embeds"][0], changed["tokens"][0] = unit(8, seed=5), 3
    first = decoder_output(decoder, **inputs, **kept)
    second = decoder_output(decoder, **changed, **kept)
    torch.testing.assert_close(first[1:], second[1:])
    assert not torch.allclose(first[0], second[0])


def test_upsampler_sees_the_low_resolution_image() -> None:
    model = perturb(Upsampler(upsampler_config(8)))
    assert isinstance(model, Upsampler)
    x = torch.randn(4, 3, 16, 16, generator=seeded(1))
    low_res = make_batch(8)["pixels"]
    first = model(x, T, model.condition(low_res))
    assert first.shape == x.shape
    assert not torch.allclose(first, model(x, T, model.condition(low_res.flip(0))))


def test_upsampler_trained_on_crops_runs_at_any_size() -> None:
    model = Upsampler(upsampler_config(8))
    low_res = make_batch(12)["pixels"]
    assert model(torch.zeros(4, 3, 24, 24), T, model.condition(low_res)).shape == (4, 3, 24, 24)


@pytest.mark.parametrize("residual_scale", [None, 4.0])
def test_what_an_upsampler_noises_stands_for_the_pixels(residual_scale: float | None) -> None:
    model = Upsampler(replace(upsampler_config(8), residual_scale=residual_scale))
    enlarged = model.condition(make_batch(8)["pixels"])
    pixels = make_batch(16)["pixels"]
    diffused = model.to_diffused(pixels, enlarged)
    torch.testing.assert_close(model.to_pixels(diffused, enlarged), pixels)


def test_a_unet_starts_from_zero_output() -> None:
    model = UNet(UNET, image_size=8, in_channels=3, out_channels=3, context_width=16)
    context, visible = torch.randn(4, 5, 16), torch.ones(4, 5, dtype=torch.bool)
    out = model(torch.randn(4, 3, 8, 8), T, context=context, visible=visible)
    assert torch.equal(out, torch.zeros(4, 3, 8, 8))


def test_a_unet_of_patches_is_a_unet_over_their_pixels_as_channels() -> None:
    patches = perturb(
        UNet(replace(UNET, patch_size=2), image_size=16, in_channels=3, out_channels=5)
    )
    plain = UNet(UNET, image_size=8, in_channels=12, out_channels=20)
    plain.load_state_dict(patches.state_dict())
    x = torch.randn(4, 3, 16, 16)
    channels = rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
    out = rearrange(plain(channels, T), "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)
    assert torch.equal(patches(x, T), out)


def test_a_unet_ignores_context_that_is_not_visible() -> None:
    model = perturb(UNet(UNET, image_size=8, in_channels=3, out_channels=3, context_width=16))
    x, context = torch.randn(4, 3, 8, 8), torch.randn(4, 5, 16)
    visible = torch.tensor([True, True, True, False, False]).expand(4, -1)
    other = context.clone()
    other[:, 3:] = 100.0
    torch.testing.assert_close(
        model(x, T, context=context, visible=visible), model(x, T, context=other, visible=visible)
    )


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (UNET, {"norm_groups": 3}, "unet.channels=8 is not a multiple of 3; try 6"),
        (UNET, {"residual_blocks": 0}, "residual_blocks=0"),
        (UNET, {"patch_size": 0}, "unet.patch_size=0 must be at least 1"),
        (PRIOR, {"heads": 3}, "prior.width=16 is not a multiple of 3; try 15"),
        (PRIOR, {"embedding_scale": 0.0}, r"embedding_scale=0.0.*sqrt\(embed_dim\) = 2.8"),
        (PRIOR, {"text_dropout": 1.5}, "text_dropout=1.5 is not a probability"),
        (DECODER, {"prediction": "x0"}, "prediction='x0'.*epsilon, v, x_0"),
        (DECODER, {"image_size": 9}, "image_size=9 is not a multiple of 2; try 8"),
        (DECODER, {"image_size": 16}, r"no level has 4 pixels.*\[16, 8\]"),
        (upsampler_config(8), {"crop_fraction": 0.3}, "crops of 5 pixels"),
        (upsampler_config(8), {"degradation": "jpeg"}, "'jpeg'.*gaussian_blur, bsr"),
        (upsampler_config(8), {"low_res_noise": 0.0}, "low_res_noise=0.0 must be positive"),
        (upsampler_config(8), {"residual_scale": 0.0}, "residual_scale=0.0 must be positive"),
        (upsampler_config(8), {"unet": UNET}, "no attention; give"),
    ],
)
def test_impossible_configs_say_what_was_given_and_the_way_out(
    base: object, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(base, **changes)  # type: ignore[type-var]


def test_build_makes_the_model_of_each_config() -> None:
    for config in PRESET.models.values():
        assert build(config).config is config


def test_build_refuses_a_config_that_is_no_model() -> None:
    with pytest.raises(ConfigError, match="UNetConfig is of no known model kind"):
        build(UNET)
