"""Karlo whole: the same noise through their pipelines and ours, and folders there and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UnCLIPImageVariationPipeline, UnCLIPPipeline
from diffusers.pipelines import deprecated
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.unclip import karlo_toys as toys
from tests.unclip.toys import agree, sampling_with, seeded
from unclip.checkpoint import load_model, save_model
from unclip.diffusion import make_schedule
from unclip.interop import InteropError, read_pipeline, write_pipeline
from unclip.kinds import build
from unclip.pipeline import UnclipPipeline

CAPTIONS = ["a red cube on a blue cube!", "two cats"]
STEPS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("karlo")
    toys.save(toys.text_to_image(root / "tokenizer"), root / "text")
    toys.save(toys.variation(root / "tokenizer"), root / "variation")
    return root


@pytest.fixture(autouse=True)
def _where_pipelines_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of these pipelines in diffusers before it set them aside: it loads none without."""
    monkeypatch.setattr(diffusers.pipelines, "unclip", deprecated.unclip, raising=False)


def load_theirs(kind: Any, folder: Path) -> Any:
    return toys.quiet(kind.from_pretrained(folder))


def read(folder: Path, *, prior: float = 4.0, decoder: float = 8.0) -> UnclipPipeline:
    pipeline = read_pipeline(folder)
    sampling = sampling_with(
        pipeline.cascade.sampling,
        prior={"num_inference_steps": STEPS, "guidance_scale": prior},
        decoder={"num_inference_steps": STEPS, "guidance_scale": decoder},
    )
    return replace(pipeline, cascade=replace(pipeline.cascade, sampling=sampling))


def in_double_precision(pipeline: Any) -> Any:
    """Their schedulers with our tables.

    Theirs are float32, in which 1 - ᾱ_0 = 4e-5 has three digits left: each model's last step then
    returns x_0 times 1.0007 or so.
    """
    tables = make_schedule("cosine", train_timesteps=1000)
    for name, scheduler in pipeline.components.items():
        if name.endswith("scheduler"):
            scheduler.betas, scheduler.alphas = tables.betas, 1 - tables.betas
            scheduler.alphas_cumprod = tables.alphas_cumprod
            scheduler.one = torch.ones((), dtype=torch.float64)
    return pipeline


def pixels(images: Any) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2 - 1


def their_images(pipeline: Any, **options: Any) -> Tensor:
    out = pipeline(
        CAPTIONS,
        generator=seeded(),
        prior_num_inference_steps=STEPS,
        decoder_num_inference_steps=STEPS,
        output_type="np",
        **options,
    )
    return pixels(out.images)


@pytest.mark.parametrize(("prior", "decoder"), [(4.0, 8.0), (1.0, 1.0)])
def test_the_same_noise_makes_the_same_picture_of_a_caption(
    folder: Path, prior: float, decoder: float
) -> None:
    theirs = load_theirs(UnCLIPPipeline, folder / "text")
    scales = {"prior_guidance_scale": prior, "decoder_guidance_scale": decoder}
    ours = read(folder / "text", prior=prior, decoder=decoder)
    made = ours.generate(CAPTIONS, generator=seeded())
    exact = their_images(in_double_precision(theirs), **scales)
    agree(f"UnCLIPPipeline, guidance {prior} and {decoder}", made.pixels[-1], exact, tolerance=1e-4)
    assert exact.std() > 0.1


def test_their_float32_tables_are_less_than_half_a_grey_level_away(folder: Path) -> None:
    theirs = load_theirs(UnCLIPPipeline, folder / "text")
    made = read(folder / "text").generate(CAPTIONS, generator=seeded())
    agree(
        "UnCLIPPipeline on float32 tables", made.pixels[-1], their_images(theirs), tolerance=1 / 255
    )


def test_the_same_noise_makes_the_same_variation_of_a_picture(folder: Path) -> None:
    theirs = in_double_precision(load_theirs(UnCLIPImageVariationPipeline, folder / "variation"))
    pictures = [Image.effect_noise((16, 16), 90).convert("RGB"), Image.new("RGB", (16, 16), "red")]
    out = theirs(pictures, generator=seeded(), decoder_num_inference_steps=STEPS, output_type="np")
    ours, generator = read(folder / "variation"), seeded()
    small = ours.cascade.decode(ours.image_embeds(pictures), None, generator=generator)
    *_, made = ours.cascade.upsample(small, generator=generator)
    agree("UnCLIPImageVariationPipeline", made, pixels(out.images), tolerance=1e-4)


def test_an_exported_pipeline_makes_the_same_picture_in_diffusers(
    folder: Path, tmp_path: Path
) -> None:
    write_pipeline(tmp_path, read(folder / "text"))
    before, after = (
        their_images(load_theirs(UnCLIPPipeline, place)) for place in (folder / "text", tmp_path)
    )
    agree("UnCLIPPipeline of an export", before, after, tolerance=0)


def test_an_exported_variation_makes_the_same_picture_in_diffusers(
    folder: Path, tmp_path: Path
) -> None:
    write_pipeline(tmp_path, read(folder / "variation"), variation=True)
    before, after = (
        load_theirs(UnCLIPImageVariationPipeline, place)(
            Image.new("RGB", (16, 16), "red"),
            generator=seeded(),
            decoder_num_inference_steps=STEPS,
            output_type="np",
        ).images
        for place in (folder / "variation", tmp_path)
    )
    agree(
        "UnCLIPImageVariationPipeline of an export",
        *map(torch.from_numpy, (before, after)),
        tolerance=0,
    )


@pytest.mark.parametrize("kind", ["text", "variation"])
def test_weights_come_back_bit_for_bit(folder: Path, tmp_path: Path, kind: str) -> None:
    write_pipeline(tmp_path, read(folder / kind), variation=kind == "variation")
    files = sorted(
        path.relative_to(folder / kind) for path in (folder / kind).rglob("*.safetensors")
    )
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors"))
    for file in files:
        before, after = load_file(folder / kind / file), load_file(tmp_path / file)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), file


def models(pipeline: UnclipPipeline) -> list[nn.Module]:
    cascade = pipeline.cascade
    assert cascade.prior is not None
    return [cascade.prior, cascade.decoder, cascade.upsamplers["upsampler_1"]]


def test_models_of_karlo_are_kept_in_checkpoints_of_ours(folder: Path, tmp_path: Path) -> None:
    for model in models(read(folder / "text")):
        save_model(tmp_path / "model.safetensors", model)
        loaded = load_model(tmp_path / "model.safetensors")
        assert loaded.config == model.config
        weights = loaded.state_dict()
        assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())


def test_the_text_tower_is_in_memory_once_and_does_not_train(folder: Path) -> None:
    prior, decoder, _ = models(read(folder / "text"))
    assert prior.text_encoder is decoder.text_encoder
    assert not any(weight.requires_grad for weight in prior.text_encoder.parameters())  # type: ignore[union-attr]


def test_a_pipeline_is_written_only_with_all_that_it_needs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InteropError, match="needs CLIP's image tower"):
        write_pipeline(tmp_path, read(folder / "text"), variation=True)
    with pytest.raises(InteropError, match="needs a prior"):
        write_pipeline(tmp_path, read(folder / "variation"))
    prior = load_and_change_text_tower(folder)
    text = read(folder / "text")
    with pytest.raises(InteropError, match="different text towers"):
        write_pipeline(tmp_path, replace(text, cascade=replace(text.cascade, prior=prior)))


def test_patches_are_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    text = read(folder / "text")
    config: Any = text.cascade.decoder.config
    patched = build(replace(config, unet=replace(config.unet, patch_size=2)))
    patched.text_encoder = text.cascade.decoder.text_encoder
    with pytest.raises(InteropError, match=r"patch_size=2.*export in the unclip format"):
        write_pipeline(tmp_path, replace(text, cascade=replace(text.cascade, decoder=patched)))


def load_and_change_text_tower(folder: Path) -> Any:
    prior = read(folder / "text").cascade.prior
    assert prior is not None
    prior.text_encoder.positions.data.add_(1)
    return prior
