"""Karlo's original checkpoints in small: the weights of a folder of diffusers under Karlo's names.

The layout is written from kakaobrain/karlo's constructors, block by block and head by head.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch
from torch import Tensor, nn

from tests.unclip import karlo_toys as toys
from unclip.interop import InteropError, read_pipeline
from unclip.interop.karlo_checkpoints import KarloLayout, published_layout, read_checkpoints
from unclip.pipeline import UnclipPipeline

Tensors = dict[str, Tensor]
CPU = torch.device("cpu")
HEAD, PRIOR_HEAD = 8, 16
STEPS = "ckpt-step=01000000-of-01000000.ckpt"


def by_head(parts: list[Tensor], width: int) -> Tensor:
    """One matrix: all parts of the first head, then all of the second, and so on."""
    heads = range(len(parts[0]) // width)
    return torch.cat([part[h * width : (h + 1) * width] for h in heads for part in parts])


def fused(weights: Tensors, names: list[str], width: int) -> dict[str, Tensor]:
    return {k: by_head([weights[f"{n}.{k}"] for n in names], width) for k in ("weight", "bias")}


def put(target: Tensors, path: str, values: dict[str, Tensor], *, conv: bool = False) -> None:
    for kind, value in values.items():
        target[f"{path}.{kind}"] = value[..., None] if conv and kind == "weight" else value


def at(weights: Tensors, path: str) -> dict[str, Tensor]:
    return {k: weights[f"{path}.{k}"] for k in ("weight", "bias")}


def put_residual(target: Tensors, path: str, weights: Tensors, source: str) -> None:
    names = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
    }
    if f"{source}.conv_shortcut.weight" in weights:
        names["skip_connection"] = "conv_shortcut"
    for name, theirs in names.items():
        put(target, f"{path}.{name}", at(weights, f"{source}.{theirs}"))


def put_attention(target: Tensors, path: str, weights: Tensors, source: str) -> None:
    put(target, f"{path}.norm", at(weights, f"{source}.group_norm"))
    qkv = [f"{source}.to_{letter}" for letter in "qkv"]
    put(target, f"{path}.qkv", fused(weights, qkv, HEAD), conv=True)
    kv = [f"{source}.add_{letter}_proj" for letter in "kv"]
    put(target, f"{path}.encoder_kv", fused(weights, kv, HEAD), conv=True)
    put(target, f"{path}.proj_out", at(weights, f"{source}.to_out.0"), conv=True)


def original_unet(model: nn.Module, prefix: str, attends: list[bool]) -> Tensors:
    weights, found = model.state_dict(), {}
    found |= {f"time_embed.0.{k}": v for k, v in at(weights, "time_embedding.linear_1").items()}
    found |= {f"time_embed.2.{k}": v for k, v in at(weights, "time_embedding.linear_2").items()}
    put(found, "input_blocks.0.0", at(weights, "conv_in"))
    block = 1
    for level, attend in enumerate(attends):
        for layer in range(2):
            place, source = f"input_blocks.{block}", f"down_blocks.{level}"
            put_residual(found, f"{place}.0", weights, f"{source}.resnets.{layer}")
            if attend:
                put_attention(found, f"{place}.1", weights, f"{source}.attentions.{layer}")
            block += 1
        if level < len(attends) - 1:
            source = f"down_blocks.{level}.downsamplers.0"
            put_residual(found, f"input_blocks.{block}.0", weights, source)
            block += 1
    put_residual(found, "middle_block.0", weights, "mid_block.resnets.0")
    if any(attends):
        put_attention(found, "middle_block.1", weights, "mid_block.attentions.0")
    last = 2 if any(attends) else 1
    put_residual(found, f"middle_block.{last}", weights, "mid_block.resnets.1")
    block = 0
    for level, attend in enumerate(reversed(attends)):
        for layer in range(3):
            place, source = f"output_blocks.{block}", f"up_blocks.{level}"
            put_residual(found, f"{place}.0", weights, f"{source}.resnets.{layer}")
            if attend:
                put_attention(found, f"{place}.1", weights, f"{source}.attentions.{layer}")
            if layer == 2 and level < len(attends) - 1:
                next_place = f"{place}.{2 if attend else 1}"
                put_residual(found, next_place, weights, f"{source}.upsamplers.0")
            block += 1
    put(found, "out.0", at(weights, "conv_norm_out"))
    put(found, "out.2", at(weights, "conv_out"))
    return {f"{prefix}.{name}": tensor for name, tensor in found.items()}


def original_decoder(pipeline: Any) -> Tensors:
    found = original_unet(pipeline.decoder, "model", [False, True, True])
    weights = pipeline.text_proj.state_dict()
    for name, source in {
        "text_feat_proj": "embedding_proj",
        "clip_emb": "clip_image_embeddings_project_to_time_embeddings",
        "clip_tok_proj": "clip_extra_context_tokens_proj",
        "text_seq_proj.0": "encoder_hidden_states_proj",
        "text_seq_proj.1": "text_encoder_hidden_states_norm",
    }.items():
        put(found, f"model.{name}", at(weights, source))
    return found | {"model.cf_param": weights["learned_classifier_free_guidance_embeddings"]}


def original_prior(prior: nn.Module) -> Tensors:
    weights, found = prior.state_dict(), {}
    for name, source in {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "text_enc_proj": "encoder_hidden_states_proj",
        "text_emb_proj": "embedding_proj",
        "clip_img_proj": "proj_in",
        "out_proj": "proj_to_clip_embeddings",
        "final_ln": "norm_out",
    }.items():
        put(found, f"model.{name}", at(weights, source))
    for i in range(2):
        block, source = f"model.transformer.resblocks.{i}", f"transformer_blocks.{i}"
        qkv = [f"{source}.attn1.to_{letter}" for letter in "qkv"]
        put(found, f"{block}.attn.c_qkv", fused(weights, qkv, PRIOR_HEAD))
        put(found, f"{block}.attn.c_proj", at(weights, f"{source}.attn1.to_out.0"))
        put(found, f"{block}.ln_1", at(weights, f"{source}.norm1"))
        put(found, f"{block}.ln_2", at(weights, f"{source}.norm3"))
        put(found, f"{block}.mlp.c_fc", at(weights, f"{source}.ff.net.0.proj"))
        put(found, f"{block}.mlp.c_proj", at(weights, f"{source}.ff.net.2"))
    found["model.positional_embedding"] = weights["positional_embedding"]
    return found | {"model.prd_emb": weights["prd_embedding"]}


class Saved(NamedTuple):
    """The same models, as read from diffusers and as original files."""

    expected: UnclipPipeline
    variation: UnclipPipeline
    folder: Path
    layout: KarloLayout


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    root = tmp_path_factory.mktemp("original")
    theirs, variation = toys.text_to_image(root / "tokenizer"), toys.variation(root / "tokenizer")
    toys.save(theirs, root / "text")
    toys.save(variation, root / "variation")
    expected, varied = read_pipeline(root / "text"), read_pipeline(root / "variation")
    assert varied.clip is not None
    folder = root / "original"
    folder.mkdir()
    torch.save({"state_dict": original_prior(theirs.prior)}, folder / f"prior-{STEPS}")
    torch.save({"state_dict": original_decoder(theirs)}, folder / f"decoder-{STEPS}")
    upsampler = original_unet(theirs.super_res_first, "model_first_steps", [False] * 3)
    upsampler |= original_unet(theirs.super_res_last, "model_last_step", [False] * 3)
    torch.save({"state_dict": upsampler}, folder / "improved-sr-ckpt-step=1.2M.ckpt")
    torch.save(varied.clip.model.state_dict(), folder / "ViT-L-14.pt")
    mean, std = theirs.prior.clip_mean[0].data, theirs.prior.clip_std[0].data
    torch.save((mean, std), folder / "ViT-L-14_stats.th")
    (root / "toy-karlo-quickgelu.json").write_text(json.dumps(varied.clip.model_config))
    open_clip.add_model_config(root / "toy-karlo-quickgelu.json")
    models = expected.cascade.models
    layout = KarloLayout(
        prior=models["prior"].config,
        decoder=models["decoder"].config,
        upsampler=models["upsampler_1"].config,
        clip_model="toy-karlo-quickgelu",
    )
    return Saved(expected, varied, folder, layout)


def equal(ours: nn.Module, expected: nn.Module) -> bool:
    weights, wanted = ours.state_dict(), expected.state_dict()
    return weights.keys() == wanted.keys() and all(
        torch.equal(weights[n], w) for n, w in wanted.items()
    )


def test_original_checkpoints_hold_the_models_of_the_folder_of_diffusers(saved: Saved) -> None:
    models = read_checkpoints(saved.folder, saved.layout, device=CPU)
    expected = saved.expected.cascade.models
    assert equal(models.prior, expected["prior"])
    assert equal(models.decoder, expected["decoder"])
    assert equal(models.upsampler, expected["upsampler_1"])
    assert saved.variation.clip is not None
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    embeds = models.clip.encode_images(images)
    torch.testing.assert_close(embeds, saved.variation.clip.encode_images(images))


def test_one_of_the_files_stands_for_its_folder(saved: Saved) -> None:
    models = read_checkpoints(saved.folder / f"prior-{STEPS}", saved.layout, device=CPU)
    assert equal(models.prior, saved.expected.cascade.models["prior"])


def test_a_missing_file_is_named_with_the_ways_to_go_on(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / f"prior-{STEPS}")
    for path in (tmp_path, tmp_path / f"prior-{STEPS}"):
        with pytest.raises(InteropError) as error:
            read_pipeline(path)
        text = str(error.value)
        assert (
            "decoder-ckpt*.ckpt, improved-sr-ckpt*.ckpt, ViT-L-14.pt, ViT-L-14_stats.th are" in text
        )
        assert "convert_kakao_brain_unclip_to_diffusers.py" in text


def copy_of(saved: Saved, folder: Path) -> Path:
    for file in saved.folder.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def refused(saved: Saved, folder: Path, layout: KarloLayout | None = None) -> str:
    with pytest.raises(InteropError) as error:
        read_checkpoints(folder, layout or saved.layout, device=CPU)
    return str(error.value)


def test_a_checkpoint_of_another_size_is_refused_with_the_tensor(saved: Saved) -> None:
    other = replace(saved.layout, prior=replace(saved.layout.prior, depth=3))
    assert "model.transformer.resblocks.2.ln_1.weight (32,) is missing" in refused(
        saved, saved.folder, other
    )


def test_a_damaged_or_foreign_checkpoint_is_refused(saved: Saved, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    file = folder / f"decoder-{STEPS}"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    assert f"{file} is not a complete checkpoint" in refused(saved, folder)
    torch.save({"weights": 1}, file)
    assert "has no state_dict of tensors" in refused(saved, folder)


def test_pickled_objects_in_a_checkpoint_are_not_run(saved: Saved, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = copy_of(saved, tmp_path)
    file = folder / f"decoder-{STEPS}"
    file.unlink()
    torch.save({"state_dict": {}, "hparams": Trap()}, file)
    assert "holds pickled objects, which are not loaded" in refused(saved, folder)
    assert not (tmp_path / "sprung").exists()


def test_the_published_layout_clamps_the_prior_as_the_original_code_does() -> None:
    assert published_layout().prior.x_start_limit == 10.0
