"""Folders that are not a Karlo that our networks can express."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unclip import karlo_toys as toys
from unclip.interop import InteropError, read_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("karlo")
    toys.text_to_image(root / "tokenizer").save_pretrained(root / "text")
    return root / "text"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "karlo"))


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def refused(folder: Path, *messages: str) -> None:
    with pytest.raises(InteropError) as error:
        read_pipeline(folder)
    for message in messages:
        assert message in str(error.value)


def test_a_missing_tensor_is_named_with_its_shape(folder: Path) -> None:
    change_weights(folder / "prior" / WEIGHTS, lambda tensors: tensors.pop("proj_in.weight"))
    refused(folder, "prior: proj_in.weight (32, 16) is missing")


def test_a_tensor_that_the_config_does_not_know_is_named(folder: Path) -> None:
    stray = {"stray.weight": torch.zeros(1)}
    change_weights(folder / "super_res_last" / WEIGHTS, lambda tensors: tensors.update(stray))
    refused(folder, "super_res_last: stray.weight is unknown to its config")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    name = "down_blocks.1.attentions.0.add_v_proj.weight"
    wrong = {name: torch.zeros(16, 7)}
    change_weights(folder / "decoder" / WEIGHTS, lambda tensors: tensors.update(wrong))
    refused(folder, f"decoder: {name} has shape (16, 7), but its config asks for (16, 24)")


def test_old_buffers_of_positions_do_no_harm(folder: Path) -> None:
    buffer = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    change_weights(
        folder / "text_encoder" / "model.safetensors", lambda tensors: tensors.update(buffer)
    )
    read_pipeline(folder)


def test_a_config_that_contradicts_its_weights_is_refused(folder: Path) -> None:
    change_json(folder / "prior" / "config.json", num_layers=3)
    refused(folder, "prior: transformer_blocks.2.norm1.weight (32,) is missing")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("decoder/config.json", {"act_fn": "gelu"}, "act_fn='gelu'"),
        ("decoder/config.json", {"encoder_hid_dim": 8}, "encoder_hid_dim=8: not supported"),
        ("decoder/config.json", {"cross_attention_dim": "24"}, "cross_attention_dim='24'"),
        ("decoder/config.json", {"sample_size": 6}, "image_size=6 is not a multiple of 4"),
        ("super_res_first/config.json", {"add_attention": True}, "add_attention=True"),
        ("super_res_last/config.json", {"norm_num_groups": 8}, "equal configs"),
        ("text_proj/config.json", {"time_embed_dim": 64}, "time_embed_dim=64"),
        ("text_encoder/config.json", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("text_encoder/config.json", {"projection_dim": 8}, "all three must be the same"),
        ("prior_scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "'epsilon'"),
        ("decoder_scheduler/scheduler_config.json", {"clip_sample_range": 2.0}, "=2.0"),
        ("model_index.json", {"_class_name": "Other"}, "_class_name='Other'"),
        ("model_index.json", {"prior": ["x", "Other"]}, "but Karlo has a PriorTransformer"),
        ("tokenizer/vocab.json", {"a": 7}, "1 tokens differ from CLIP's, starting with 'a'"),
    ],
)
def test_settings_that_mean_another_model_are_named(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    if file.startswith("tokenizer"):
        toys.write_tokenizer(folder / "tokenizer", context_length=77)
    change_json(folder / file, **changes)
    refused(folder, message)


def test_a_tokenizer_in_one_file_is_read_too(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["a"] = 7
    file.write_text(json.dumps(content))
    refused(folder, "tokenizer.json: 1 tokens differ from CLIP's")


def test_levels_that_do_not_mirror_each_other_are_refused(folder: Path) -> None:
    change_json(folder / "decoder" / "config.json", up_block_types=["ResnetUpsampleBlock2D"] * 3)
    refused(folder, "do not mirror each other")


def test_a_setting_without_which_a_network_is_another_must_be_given(folder: Path) -> None:
    file = folder / "super_res_first" / "config.json"
    settings = json.loads(file.read_text())
    del settings["add_attention"]
    file.write_text(json.dumps(settings))
    refused(folder, "has no add_attention")


def test_settings_that_older_files_leave_out_are_what_diffusers_takes_for_them(
    folder: Path,
) -> None:
    expected = read_pipeline(folder)
    for name in ("super_res_first", "super_res_last"):
        file = folder / name / "config.json"
        left_out = ("mid_block_type", "class_embed_type", "resnet_time_scale_shift")
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in settings.items() if k not in left_out}))
    found = read_pipeline(folder)
    ours, theirs = (p.cascade.upsamplers["upsampler_1"].config for p in (found, expected))
    assert ours == theirs


def test_pickled_weights_are_refused_without_being_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (marker,)

    (folder / "prior" / WEIGHTS).unlink()
    (folder / "prior" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    refused(folder, "does not exist", "diffusion_pytorch_model.bin", "safetensors")
    (folder / "prior" / WEIGHTS).write_bytes(pickle.dumps(Evil()))
    refused(folder, "not a complete safetensors file")
    assert not marker.exists()


def test_weights_in_shards_are_read_as_one(folder: Path) -> None:
    pipeline = folder / "prior" / WEIGHTS
    tensors = load_file(pipeline)
    names, stem = sorted(tensors), "diffusion_pytorch_model"
    shards = {name: f"{stem}-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({n: t for n, t in tensors.items() if shards[n] == shard}, pipeline.parent / shard)
    pipeline.unlink()
    index = pipeline.parent / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    prior = read_pipeline(folder).cascade.prior
    assert prior is not None
    assert torch.equal(prior.from_image_embeds.weight, tensors["proj_in.weight"])


def test_a_folder_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    refused(tmp_path / "none", "model_index.json does not exist", "complete Karlo pipeline")
