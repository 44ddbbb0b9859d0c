from dataclasses import replace

import pytest
import torch

from unclip import ar_presets, presets
from unclip.config import ConfigError
from unclip.models import DiffusionPriorConfig, build

NAMES = ["prior", "decoder", "upsampler_1", "upsampler_2"]


def parameters(preset: presets.Preset, name: str) -> int:
    with torch.device("meta"):
        model = build(getattr(preset, name))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "stated"),
    [("prior", 1e9), ("decoder", 3.5e9), ("upsampler_1", 700e6), ("upsampler_2", 300e6)],
)
def test_paper_models_have_the_parameters_of_table_3(name: str, stated: float) -> None:
    assert parameters(presets.paper(), name) == pytest.approx(
        stated, rel=0.35 if stated == 1e9 else 0.07
    )


def test_the_autoregressive_prior_of_the_paper_has_the_parameters_of_table_3() -> None:
    preset = replace(presets.paper(), prior=ar_presets.paper_ar_prior())
    assert parameters(preset, "prior") == pytest.approx(1e9, rel=0.1)


@pytest.mark.parametrize("make", [presets.small, presets.paper])
def test_large_presets_end_at_1024_pixels(make: object) -> None:
    preset = make()  # type: ignore[operator]
    assert [preset.decoder.image_size, preset.upsampler_1.image_size] == [64, 256]
    assert preset.upsampler_2.image_size == 1024


def test_tiny_is_small_enough_for_two_cores() -> None:
    for name in NAMES:
        assert parameters(presets.tiny(), name) < 10e6


def test_another_embed_width_reaches_every_model_that_reads_embeddings() -> None:
    preset = presets.with_embed_width(presets.tiny(), 256)
    assert preset.prior.embed_width == preset.decoder.embed_width == 256
    assert isinstance(preset.prior, DiffusionPriorConfig)
    tiny = presets.tiny().prior
    assert isinstance(tiny, DiffusionPriorConfig)
    assert preset.prior.embedding_scale == pytest.approx(2 * tiny.embedding_scale)


def test_another_embed_width_fits_an_autoregressive_prior_too() -> None:
    tiny = replace(presets.tiny(), prior=ar_presets.tiny_ar_prior())
    assert presets.with_embed_width(tiny, 256).prior.embed_width == 256


def test_models_of_different_embed_widths_are_refused() -> None:
    tiny = presets.tiny()
    with pytest.raises(ConfigError, match=r"embed_width=32 .*embed_width=64"):
        replace(tiny, prior=replace(tiny.prior, embed_width=32))


def test_models_whose_sizes_do_not_chain_are_refused() -> None:
    tiny = presets.tiny()
    with pytest.raises(ConfigError, match=r"\[16, 64\] pixels.*\[16, 32\]"):
        replace(tiny, upsampler_1=replace(tiny.upsampler_1, image_size=64, crop_fraction=1.0))
