"""Input that cannot work is refused before anything is computed, with its value and a fix."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.unclip import karlo_configs
from tests.unclip.toys import (
    AR_PRIOR,
    DECODER,
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    PRESET,
    PRIOR,
    make_batch,
    seeded,
    toy_cascade,
    unit,
)
from unclip.clip.frozen import FrozenClip
from unclip.clip.training import ClipArchitecture, build_clip
from unclip.config import Config, ConfigError
from unclip.embeddings.pca import Moments, fit
from unclip.generation import Cascade
from unclip.kinds import build, training_loss
from unclip.manipulate import (
    Latent,
    class_probabilities,
    encode,
    inpaint,
    interpolate,
    pca_reconstruct,
    text_diff,
    to_pixels,
    variations,
)
from unclip.manipulate import decode as decode_latent
from unclip.models import ARPrior, Decoder, DiffusionPrior, EclipsePrior, LinearPrior, Upsampler

NARROW = unit(4, 7)  # where 8 is asked for
BATCH = make_batch(8)
TOKENS, Z_T, Z_I = BATCH["tokens"], BATCH["text_embeds"], BATCH["image_embeds"]
PIXELS = make_batch(32)["pixels"]
MASK = torch.ones(4, 1, 32, 32, dtype=torch.bool)
NONE = torch.zeros(4, dtype=torch.bool)


def cascade_of(prior: Config = PRIOR, decoder: object = DECODER) -> Cascade:
    return toy_cascade(prior=build(prior), decoder=build(decoder))  # type: ignore[arg-type]


CASCADE = cascade_of()
LATENT = Latent(Z_I[:1], torch.zeros(1, 3, 8, 8))
LATENTS = Latent(Z_I, torch.zeros(4, 3, 8, 8))  # of several images, where one is expected


@pytest.fixture(autouse=True)
def _no_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def spent(*args: object, **kwargs: object) -> None:
        raise AssertionError("compute was spent")

    for kind in (DiffusionPrior, ARPrior, LinearPrior, EclipsePrior, Decoder, Upsampler):
        monkeypatch.setattr(kind, "forward", spent)


def decode(
    image_embeds: Tensor | None = Z_I, tokens: Tensor | None = TOKENS, **noise: Tensor
) -> None:
    CASCADE.decode(image_embeds, tokens, generator=seeded(), **noise)


def paint(pixels: Tensor = PIXELS, mask: Tensor = MASK, image_embeds: Tensor = Z_I) -> None:
    inpaint(CASCADE, pixels, mask, image_embeds, generator=seeded())


def generate(
    tokens: Tensor = TOKENS, text_embeds: Tensor = Z_T, cascade: Cascade = CASCADE
) -> None:
    cascade.generate(tokens, text_embeds, generator=seeded())


THETAS = torch.tensor([0.5])
WIDTH = {
    "text embeddings of a prior": (lambda: generate(text_embeds=NARROW), "text_embeds"),
    "text embeddings of an autoregressive prior": (
        lambda: generate(text_embeds=NARROW, cascade=cascade_of(prior=AR_PRIOR)),
        "text_embeds",
    ),
    "text embeddings of a linear prior": (
        lambda: generate(text_embeds=NARROW, cascade=cascade_of(prior=LINEAR_PRIOR)),
        "text_embeds",
    ),
    "text embeddings of an ECLIPSE prior": (
        lambda: generate(text_embeds=NARROW, cascade=cascade_of(prior=ECLIPSE_PRIOR)),
        "text_embeds",
    ),
    "image embeddings of a decoder": (lambda: decode(NARROW), "image_embeds"),
    "of an image to encode": (
        lambda: encode(CASCADE, make_batch(8)["pixels"], NARROW),
        "image_embeds",
    ),
    "of an image to paint": (lambda: paint(image_embeds=NARROW), "image_embeds"),
    "of a caption to turn to": (
        lambda: text_diff(CASCADE, LATENT, NARROW[:1], thetas=THETAS),
        "the end",
    ),
    "of the other image": (
        lambda: interpolate(
            CASCADE, LATENT, replace(LATENT, image_embeds=NARROW[:1]), weights=THETAS
        ),
        "the end",
    ),
    "of classes": (lambda: class_probabilities(Z_I, NARROW, logit_scale=1.0), "class_embeds"),
    "of a training batch": (
        lambda: training_loss(CASCADE.prior, {**BATCH, "text_embeds": NARROW}, seeded()),
        "text_embeds",
    ),
}


@pytest.mark.parametrize("case", WIDTH)
def test_an_embedding_of_the_wrong_width_is_refused_with_both_widths(case: str) -> None:
    call, name = WIDTH[case]
    with pytest.raises(ConfigError, match=rf"{name} has shape \(\d, 7\), but \(.*8\)"):
        call()


def test_a_basis_of_another_width_is_refused_with_both_widths() -> None:
    basis = fit(Moments.of(unit(50, 7)))
    with pytest.raises(ConfigError, match=r"\(1, 8\) do not fit a basis of width 7"):
        pca_reconstruct(CASCADE, LATENT, basis, components=[2])


ROWS = {
    "captions and text embeddings": lambda: generate(tokens=TOKENS[:3]),
    "captions and image embeddings": lambda: decode(tokens=TOKENS[:3]),
    "images and embeddings to encode": lambda: encode(CASCADE, make_batch(8)["pixels"], Z_I[:3]),
    "images and embeddings to paint": lambda: paint(image_embeds=Z_I[:3]),
}


@pytest.mark.parametrize("case", ROWS)
def test_conditions_of_other_numbers_of_rows_are_refused_with_both_numbers(case: str) -> None:
    with pytest.raises(ConfigError, match=r"has [34], .* has [34] rows; give one of each"):
        ROWS[case]()


SIZES: dict[str, tuple[Callable[[], object], str]] = {
    "of grey images": (lambda: encode(CASCADE, torch.zeros(4, 1, 8, 8), Z_I), r"\(4, 1, 8, 8\)"),
    "of large images": (lambda: encode(CASCADE, PIXELS, Z_I), r"\(B, 3, 8, 8\).*to_pixels"),
    "of one image": (lambda: encode(CASCADE, torch.zeros(3, 8, 8), Z_I), r"\(3, 8, 8\)"),
    "of the noise": (lambda: decode(noise=torch.zeros(4, 3, 9, 9)), r"\(4, 3, 9, 9\).*one x_T"),
    "of noise for fewer": (lambda: decode(noise=torch.zeros(3, 3, 8, 8)), r"\(4, 3, 8, 8\)"),
    "of images to enlarge": (
        lambda: CASCADE.upsample(torch.zeros(2, 4, 8, 8), generator=seeded()),
        r"low_res has shape \(2, 4, 8, 8\), but \(B, 3, h, w\)",
    ),
    "of small images to paint": (lambda: paint(pixels=make_batch(16)["pixels"]), "resize"),
    "of a mask": (lambda: paint(mask=MASK[..., :16]), r"mask has shape \(4, 1, 32, 16\)"),
    "of a mask for fewer": (lambda: paint(mask=MASK[:3]), r"\(3, 1, 32, 32\), but \(4, 1, 32"),
    "of a mask of colours": (lambda: paint(mask=MASK.expand(-1, 3, -1, -1)), r"\(4, 3, 32, 32\)"),
    "of no bool": (lambda: paint(mask=MASK.float()), r"torch.float32; give torch.bool"),
    "of latents to vary": (
        lambda: variations(CASCADE, LATENTS, count=2, eta=1.0, generator=seeded()),
        r"image_embeds has shape \(4, 8\), but \(1, E\)",
    ),
    "of latents to walk between": (
        lambda: interpolate(CASCADE, LATENTS, LATENTS, weights=THETAS),
        r"the start has shape \(4, 8\), but \(1, D\)",
    ),
    "of tokens": (
        lambda: generate(tokens=torch.ones(4, 9, dtype=torch.int64)),
        r"9\), but the text encoder.s context_length=6",
    ),
}


@pytest.mark.parametrize("case", SIZES)
def test_the_wrong_shape_is_refused_with_both_shapes(case: str) -> None:
    call, message = SIZES[case]
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("mode", ["F", "I", "I;16"])
def test_images_of_more_than_8_bits_are_refused_rather_than_cut_off(mode: str) -> None:
    image = Image.new(mode, (20, 16))
    architecture = ClipArchitecture(
        embed_dim=8,
        image_size=8,
        patch_size=8,
        vision_width=16,
        vision_layers=1,
        vision_heads=2,
        text_context_length=6,
        text_width=16,
        text_layers=1,
        text_heads=2,
        init_temperature=0.07,
    )
    clip = FrozenClip.from_trained(
        build_clip(architecture), architecture, name="toy", device=torch.device("cpu")
    )
    for call in (lambda: to_pixels(CASCADE, [image]), lambda: clip.encode_images([image])):
        with pytest.raises(ConfigError, match=rf"mode '{mode}' with 20 x 16 pixels.*convert it"):
            call()


@pytest.mark.parametrize(
    ("prior", "decoder", "message"),
    [
        (replace(PRIOR, text_dropout=0.0), DECODER, "prior.guidance_scale=2.0, but prior.model.te"),
        (replace(AR_PRIOR, text_dropout=0.0), DECODER, "prior.model.text_dropout=0"),
        (replace(ECLIPSE_PRIOR, text_dropout=0.0), DECODER, "prior.model.text_dropout=0"),
        (PRIOR, replace(DECODER, text_dropout=0.0), "decoder.model.text_dropout=0"),
        (PRIOR, replace(DECODER, image_dropout=0.0), "image_dropout=0: .*null condition"),
    ],
)
def test_guidance_needs_a_null_condition_that_was_trained(
    prior: Config, decoder: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        cascade_of(prior, decoder)


def test_sides_that_the_network_cannot_halve_are_refused() -> None:
    config = replace(PRESET.upsamplers["upsampler_1"], low_res_size=16, crop_fraction=1.0)
    upsampler = Upsampler(config)
    with pytest.raises(ConfigError, match="side of the output=13 is not a multiple of 2; try 12"):
        upsampler.condition(torch.zeros(1, 3, 13, 8))


def test_a_turn_between_equal_captions_is_refused() -> None:
    with pytest.raises(ConfigError, match="no direction leads from one to the other"):
        text_diff(CASCADE, LATENT, Z_T[:1], from_text_embeds=Z_T[:1].clone(), thetas=THETAS)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (replace(PRIOR, embed_dim=7), "prior.embed_dim=7 and decoder.embed_dim=8 differ"),
        (
            karlo_configs.PRIOR,
            "KarloPriorConfig and DecoderConfig use image embeddings of different norms",
        ),
    ],
)
def test_a_prior_of_another_decoder_is_refused(prior: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CASCADE, prior=build(prior))  # type: ignore[arg-type]


def test_upsamplers_that_do_not_take_what_is_before_them_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"upsampler_2.low_res_size=16, but decoder before it .* image_size=8"
    ):
        replace(CASCADE, upsamplers=dict(reversed(CASCADE.upsamplers.items())))


def test_noise_without_a_generator_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"eta=0.5 adds noise; give a generator"):
        decode_latent(CASCADE, LATENT, eta=0.5)


def test_painting_without_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="resamplings=0 must be at least 1"):
        inpaint(CASCADE, PIXELS, MASK, Z_I, resamplings=0, generator=seeded())
