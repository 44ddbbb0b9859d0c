from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

from unclip import presets
from unclip.config import Config, ConfigError
from unclip.kinds import build
from unclip.models import DiffusionPriorConfig
from unclip.presets import karlo

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"


def count(config: Config, *, but: str | None = None) -> int:
    """Parameters of a model that is not allocated, less those whose name begins with `but`."""
    with torch.device("meta"):
        model = build(config)
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if but is None or not name.startswith(but))


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Millions of parameters of each model; those of docs/reference/models.md, which a test compares.
COUNTS = {
    "tiny": (5, 5, 6, 1, 1),
    "small": (132, 132, 154, 51, 22),
    "paper": (911, 1330, 3563, 730, 282),
}
# Parameters of the linear and the ECLIPSE prior, and of the latter without its vocabulary.
ONE_PASS_COUNTS = {
    "tiny": (4_160, 2_024_256, 443_200),
    "small": (262_656, 13_497_856, 7_173_632),
    "paper": (1_049_600, 58_925_568, 33_628_672),
}
STATED = (1000, 1000, 3500, 700, 300)  # by table 3 of the paper, in the same order
EXPLAINED = 1330  # the diffusion prior, whose own transformer alone is beyond the stated number


def all_models(name: str) -> list[Config]:
    return [getattr(presets, f"{name}_ar_prior")(), *getattr(presets, name)().models.values()]


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_parameters_that_the_reference_states(name: str) -> None:
    counted = tuple(round(count(config) / 1e6) for config in all_models(name))
    assert counted == COUNTS[name]
    row = " | ".join(f"{number:,}" for number in counted)
    assert f"| {name} | {row} |" in REFERENCE.read_text()


@pytest.mark.parametrize("name", ONE_PASS_COUNTS)
def test_one_pass_priors_have_the_parameters_that_the_reference_states(name: str) -> None:
    linear, eclipse = (getattr(presets, f"{name}_{kind}_prior")() for kind in ("linear", "eclipse"))
    counted = (count(linear), count(eclipse), count(eclipse, but="text_encoder.embed."))
    assert counted == ONE_PASS_COUNTS[name]
    row = " | ".join(f"{round(number / 1e3):,}" for number in counted)
    assert f"| {name} | {row} |" in REFERENCE.read_text()


def test_the_eclipse_prior_of_the_paper_has_33_million_parameters() -> None:
    """As stated by Patel et al. 2024, who do not count the frozen text tower."""
    assert count(presets.paper_eclipse_prior(), but="text_encoder.embed.") / 1e6 == pytest.approx(
        33, rel=0.02
    )


def test_paper_models_have_the_parameters_of_table_3_but_for_one_that_is_explained() -> None:
    for counted, stated in zip(COUNTS["paper"], STATED, strict=True):
        apart = counted / stated - 1
        print(f"paper preset: {counted} million parameters, {apart:+.1%} from table 3")
        assert f"| {counted:,} | {stated:,} | {apart:+.1%} |" in REFERENCE.read_text()
        assert abs(apart) < 0.1 or counted == EXPLAINED


def test_the_transformer_of_table_3_alone_is_larger_than_its_diffusion_prior() -> None:
    """24 blocks of width 2048, 12 D² each: what no reading of the table avoids."""
    assert 24 * 12 * 2048**2 > 1.2 * 1e9


def test_karlo_has_the_parameters_of_its_networks_in_diffusers() -> None:
    unet = {
        "layers_per_block": 3,
        "norm_num_groups": 32,
        "block_out_channels": (320, 640, 960, 1280),
    }
    with torch.device("meta"):
        prior = PriorTransformer(
            num_attention_heads=32, attention_head_dim=64, num_layers=20, embedding_dim=768
        )
        decoder = UNet2DConditionModel(
            in_channels=3,
            out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
            cross_attention_dim=1536,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=64,
            **unet,
        )
        projection = UnCLIPTextProjModel(
            clip_embeddings_dim=768, time_embed_dim=1280, cross_attention_dim=1536
        )
        upsampler = UNet2DModel(
            in_channels=6,
            out_channels=3,
            down_block_types=("ResnetDownsampleBlock2D",) * 4,
            up_block_types=("ResnetUpsampleBlock2D",) * 4,
            add_attention=False,
            **unet,
        )
    preset = karlo()
    statistics = 2 * preset.prior.embed_dim  # parameters there, buffers here
    assert count(preset.prior, but="text_encoder.") == size(prior) - statistics
    assert count(preset.decoder, but="text_encoder.") == size(decoder) + size(projection)
    assert count(preset.upsamplers["upsampler_1"]) == 2 * size(upsampler)
    for config, millions in zip(preset.models.values(), (1022, 893, 1383), strict=True):
        assert round(count(config, but="text_encoder.") / 1e6) == millions
    assert "| karlo | – | 1,022 | 893 | 1,383 | – |" in REFERENCE.read_text()


@pytest.mark.parametrize("make", [presets.small, presets.paper])
def test_large_presets_end_at_1024_pixels(make: object) -> None:
    preset = make()  # type: ignore[operator]
    made = [preset.decoder, *preset.upsamplers.values()]
    assert [config.image_size for config in made] == [64, 256, 1024]


def test_tiny_is_small_enough_for_two_cores() -> None:
    for config in presets.tiny().models.values():
        assert count(config) < 10e6


def test_another_embed_dim_reaches_every_model_that_reads_embeddings() -> None:
    preset = presets.with_embed_dim(presets.tiny(), 256)
    assert preset.prior.embed_dim == preset.decoder.embed_dim == 256
    assert isinstance(preset.prior, DiffusionPriorConfig)
    tiny = presets.tiny().prior
    assert isinstance(tiny, DiffusionPriorConfig)
    assert preset.prior.embedding_scale == pytest.approx(2 * tiny.embedding_scale)


@pytest.mark.parametrize("kind", ["ar", "linear", "eclipse"])
def test_another_embed_dim_fits_priors_of_other_kinds_too(kind: str) -> None:
    tiny = replace(presets.tiny(), prior=getattr(presets, f"tiny_{kind}_prior")())
    assert presets.with_embed_dim(tiny, 256).prior.embed_dim == 256


def test_models_of_different_embed_dims_are_refused() -> None:
    tiny = presets.tiny()
    with pytest.raises(ConfigError, match=r"embed_dim=32 .*embed_dim=64"):
        replace(tiny, prior=replace(tiny.prior, embed_dim=32))


def test_models_whose_sizes_do_not_chain_are_refused() -> None:
    tiny = presets.tiny()
    first = replace(tiny.upsamplers["upsampler_1"], image_size=64, crop_fraction=1.0)
    with pytest.raises(ConfigError, match=r"upsampler_2.low_res_size=32, .* upsampler_1 .*=64"):
        replace(tiny, upsamplers={**tiny.upsamplers, "upsampler_1": first})
