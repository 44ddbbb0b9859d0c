import json
import pickle
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.unclip.toys import (
    AR_PRIOR,
    DECODER,
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    PRESET,
    make_batch,
    perturb,
    seeded,
)
from unclip.checkpoint import CheckpointError, check_file, config_metadata, load_model, save_model
from unclip.config import Config
from unclip.kinds import build, training_loss


@pytest.mark.parametrize(
    "config",
    [
        PRESET.prior,
        AR_PRIOR,
        LINEAR_PRIOR,
        ECLIPSE_PRIOR,
        PRESET.decoder,
        PRESET.upsamplers["upsampler_1"],
        replace(DECODER, min_snr_gamma=5.0),
    ],
)
def test_a_saved_model_comes_back_as_it_was(config: Config, tmp_path: Path) -> None:
    model = perturb(build(config))
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == config
    assert not loaded.training
    batch = make_batch(getattr(config, "image_size", 8))
    assert torch.equal(
        training_loss(model, batch, seeded()), training_loss(loaded, batch, seeded())
    )
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, str]]:
    model = build(DECODER)
    return tmp_path / "model.safetensors", model.state_dict(), config_metadata(DECODER)


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(saved: tuple) -> None:  # type: ignore[type-arg]
    path, tensors, metadata = saved
    write(path, tensors | {"null_image_embeds": torch.zeros(3)}, metadata)
    with pytest.raises(CheckpointError, match=r"null_image_embeds has shape \(3,\).*\(8,\)"):
        load_model(path)


def test_a_config_that_contradicts_the_weights_is_refused_by_the_first_of_them(
    saved: tuple,  # type: ignore[type-arg]
) -> None:
    path, tensors, _ = saved
    write(path, tensors, config_metadata(replace(DECODER, embed_dim=9, image_tokens=5)))
    with pytest.raises(CheckpointError, match=r"has shape \(8,\) where \(9,\).*; .*write both"):
        load_model(path)
    deeper = replace(DECODER, text_encoder=replace(DECODER.text_encoder, depth=9))
    write(path, tensors, config_metadata(deeper))
    with pytest.raises(CheckpointError, match=r"text_encoder.* is missing; .*; and \d+ more"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": "8"}, "DecoderConfig.image_size is '8', which is not of type int"),
        ({"learned_variance": 1}, "learned_variance is 1, which is not of type bool"),
        ({"unet": 3}, "DecoderConfig.unet is 3, which is not a UNetConfig"),
        ({"image_size": 9}, "cannot be used.*image_size=9 is not a multiple of 2"),
    ],
)
def test_a_config_of_other_types_or_that_cannot_be_is_refused(
    saved: tuple,  # type: ignore[type-arg]
    changes: dict[str, object],
    message: str,
) -> None:
    path, tensors, metadata = saved
    config = json.loads(metadata["DecoderConfig"]) | changes
    write(path, tensors, metadata | {"DecoderConfig": json.dumps(config)})
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_a_config_that_is_no_json_is_refused(saved: tuple) -> None:  # type: ignore[type-arg]
    path, tensors, metadata = saved
    write(path, tensors, metadata | {"DecoderConfig": "{"})
    with pytest.raises(CheckpointError, match="its DecoderConfig cannot be used"):
        load_model(path)


def test_missing_and_unknown_tensors_are_named(saved: tuple) -> None:  # type: ignore[type-arg]
    path, tensors, metadata = saved
    del tensors["null_image_embeds"]
    write(path, tensors | {"stray": torch.zeros(1)}, metadata)
    with pytest.raises(
        CheckpointError, match=r"null_image_embeds \(8,\) is missing; stray \(1,\) is unknown"
    ):
        load_model(path)


def test_a_config_with_other_fields_is_refused_by_name(saved: tuple) -> None:  # type: ignore[type-arg]
    path, tensors, metadata = saved
    config = json.loads(metadata["DecoderConfig"])
    config["unet"]["activation"] = config["unet"].pop("channels")
    write(path, tensors, metadata | {"DecoderConfig": json.dumps(config)})
    with pytest.raises(CheckpointError, match="missing: channels; unknown: activation"):
        load_model(path)


def test_a_file_without_a_config_is_refused(saved: tuple) -> None:  # type: ignore[type-arg]
    path, tensors, _ = saved
    write(path, tensors, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not written by `save_model`"):
        load_model(path)


def test_a_pickle_is_refused_without_being_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (marker,)

    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_model(tmp_path / "model.safetensors")
    assert not marker.exists()


def test_a_truncated_file_is_refused(saved: tuple) -> None:  # type: ignore[type-arg]
    path, tensors, metadata = saved
    write(path, tensors, metadata)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_model(path)


@pytest.mark.parametrize(
    "entry", [5, {"shape": "wide"}, {"shape": [-1], "data_offsets": [0, 4]}, {"shape": [1]}]
)
def test_a_header_that_describes_no_tensors_is_refused(entry: object) -> None:
    header = {"__metadata__": config_metadata(DECODER), "null_image_embeds": entry}
    content = json.dumps(header).encode()
    with pytest.raises(CheckpointError, match="has a broken header"):
        check_file(BytesIO(len(content).to_bytes(8, "little") + content), where="a.safetensors")


def test_the_metadata_says_what_the_file_is_without_loading_it(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", build(DECODER))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["DecoderConfig"])["image_size"] == 8


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    model = build(DECODER)
    for number in range(5):
        save_model(tmp_path / f"{number}.safetensors", model)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_only_models_of_ours_are_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Linear cannot be saved: .*no known model kind"):
        save_model(tmp_path / "model.safetensors", torch.nn.Linear(1, 1))
