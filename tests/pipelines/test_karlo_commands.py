"""Karlo from the command line: folders of diffusers in and out, and pictures in between."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.cli.main import main
from tests.unclip import karlo_toys as toys
from unclip.interop import KARLO_SAMPLING, merge, read_pipeline
from unclip.pipeline import UnclipPipeline

SAMPLING = replace(
    KARLO_SAMPLING,
    prior=replace(KARLO_SAMPLING.prior, num_inference_steps=3),
    decoder=replace(KARLO_SAMPLING.decoder, num_inference_steps=3),
    upsamplers={
        name: replace(upsampler, num_inference_steps=2)
        for name, upsampler in KARLO_SAMPLING.upsamplers.items()
    },
)
TILE, GAP = 128, 8


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both pipelines of one Karlo, as they are published."""
    root = tmp_path_factory.mktemp("theirs")
    toys.save(toys.text_to_image(root / "tokenizer"), root / "text")
    toys.save(toys.variation(root / "tokenizer"), root / "variation")
    return root


@pytest.fixture(scope="module")
def imported(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `unclip import` makes of both, set to few steps."""
    folder = tmp_path_factory.mktemp("ours") / "karlo"
    paths = [str(theirs / kind) for kind in ("text", "variation")]
    assert main(["--debug", "import", *paths, "--to", str(folder)]) == 0
    use_few_steps(folder)
    return folder


def use_few_steps(folder: Path) -> None:
    """Edit the settings, as a user may."""
    (folder / "sampling.json").write_text(json.dumps(asdict(SAMPLING)))


@pytest.fixture(autouse=True)
def _pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(f"{name}.png")
    half = np.zeros((16, 16), np.uint8)
    half[:, :8] = 255
    Image.fromarray(half).save("half.png")


def refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert sorted(Path().rglob("*")) == before


def grid_of(imported: Path, *arguments: str) -> list[np.ndarray]:
    """The tiles of the first row that a command writes."""
    assert main(["--debug", *arguments, "--models", str(imported), "--out", "grid.png"]) == 0
    grid = np.asarray(Image.open("grid.png"), np.int16)
    lefts = range(GAP, grid.shape[1] - TILE, TILE + GAP)
    return [grid[GAP : GAP + TILE, left : left + TILE] for left in lefts]


def assert_same_weights(before: Path, after: Path) -> None:
    files = sorted(path.relative_to(before) for path in before.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(after) for path in after.rglob("*.safetensors"))
    for file in files:
        ours, others = load_file(before / file), load_file(after / file)
        assert ours.keys() == others.keys()
        assert all(torch.equal(ours[name], others[name]) for name in ours), file


@pytest.mark.parametrize(("kind", "flags"), [("text", []), ("variation", ["--variation"])])
def test_what_is_imported_and_exported_again_is_the_same_bit_for_bit(
    theirs: Path, imported: Path, kind: str, flags: list[str]
) -> None:
    assert main(["--debug", "export", "--models", str(imported), "--to", "out", *flags]) == 0
    assert_same_weights(theirs / kind, Path("out"))
    assert [path.name for path in Path().glob(".out*")] == []


def test_a_folder_of_models_is_the_same_when_it_is_loaded(theirs: Path, imported: Path) -> None:
    before = merge([read_pipeline(theirs / kind) for kind in ("text", "variation")])
    after = UnclipPipeline.from_pretrained(imported)
    assert after.cascade.sampling == SAMPLING
    for name, model in before.cascade.models.items():
        weights = after.cascade.models[name].state_dict()
        assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())
    assert after.image_tower.digest == before.image_tower.digest
    assert after.cascade.prior is not None
    assert after.cascade.prior.text_encoder is after.cascade.decoder.text_encoder


def test_the_command_draws_what_the_library_draws_with_the_same_seed(
    theirs: Path, imported: Path
) -> None:
    drawn = ["generate", "two cats", "--count", "2", "--seed", "5", "--out", "cats.png"]
    assert main(["--debug", *drawn, "--models", str(imported)]) == 0
    karlo = merge([read_pipeline(theirs / k, sampling=SAMPLING) for k in ("text", "variation")])
    made = karlo("two cats", num_images=2, seed=5)
    grid = np.asarray(Image.open("cats.png"), np.int16)
    for place, image in enumerate(made):
        left = GAP + place * (TILE + GAP)
        tile = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
        shown = grid[GAP : GAP + TILE, left : left + TILE]
        assert np.abs(shown - np.asarray(tile, np.int16)).max() <= 1


def test_captions_alone_need_no_image_tower(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--debug", "import", str(theirs / "text"), "--to", "half"]) == 0
    assert "No image tower" in capsys.readouterr().out
    assert not Path("half/clip").exists()
    use_few_steps(Path("half"))
    assert main(["generate", "a cat", "--count", "1", "--models", "half", "--out", "cat.png"]) == 0
    assert Image.open("cat.png").width == TILE + 2 * GAP
    refused(["variations", "a.png", "--models", "half"], "without CLIP's image tower", capsys)


def test_pictures_alone_need_no_prior(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "import", str(theirs / "variation"), "--to", "half"]) == 0
    assert "No prior" in capsys.readouterr().out
    assert len(grid_of(Path("half"), "variations", "a.png", "--count", "1")) == 3
    refused(["generate", "a cat", "--models", "half"], "has no prior", capsys)
    refused(["export", "--models", "half", "--to", "out"], "needs a prior", capsys)


def test_variations_without_noise_are_the_reconstruction(imported: Path) -> None:
    _, reconstruction, *varied = grid_of(
        imported, "variations", "a.png", "--count", "2", "--eta", "0"
    )
    assert all(np.array_equal(picture, reconstruction) for picture in varied)
    *_, noisy = grid_of(imported, "variations", "a.png", "--count", "1")
    assert not np.array_equal(noisy, reconstruction)


def test_interpolation_ends_in_the_reconstructions(imported: Path) -> None:
    walk = grid_of(imported, "interpolate", "a.png", "b.png", "--count", "3")[1:-1]
    for picture, end in (("a.png", walk[0]), ("b.png", walk[-1])):
        reconstruction = grid_of(imported, "variations", picture, "--count", "1")[1]
        assert np.abs(end - reconstruction).max() <= 2  # of 255
    assert np.abs(walk[1] - walk[0]).max() > 2


def test_an_edit_begins_with_the_reconstruction(imported: Path) -> None:
    flags = ["--to", "a cat", "--from-text", "a dog", "--count", "2"]
    _, first, last = grid_of(imported, "edit", "a.png", *flags)
    reconstruction = grid_of(imported, "variations", "a.png", "--count", "1")[1]
    assert np.abs(first - reconstruction).max() <= 2  # of 255
    assert np.abs(last - first).max() > 2


@pytest.mark.parametrize("flags", [[], ["--caption", "a cat"]])
def test_inpainting_keeps_what_the_mask_leaves(imported: Path, flags: list[str]) -> None:
    tiles = grid_of(imported, "inpaint", "a.png", "half.png", "--count", "1", *flags)
    original, _, painted = tiles
    inside, outside = slice(None, 40), slice(88, None)  # bicubic enlargement mixes the seam
    assert np.abs(painted[:, outside] - original[:, outside]).max() <= 1
    assert np.abs(painted[:, inside] - original[:, inside]).max() > 20


def test_the_remaining_probes_draw_too(imported: Path) -> None:
    assert len(grid_of(imported, "importance", "a cat", "--image", "a.png", "--count", "2")) == 3
    assert len(grid_of(imported, "attack", "a.png", "--labels", "cat,dog", "--count", "1")) == 2


def test_reconstruction_says_where_a_basis_is(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["reconstruct", "a.png", "--models", str(imported)], "needs a PCA basis", capsys)


def without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def of_another_class(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


def without_a_decoder(folder: Path) -> None:
    shutil.rmtree(folder / "decoder")


def misshapen(folder: Path) -> None:
    file = folder / "prior" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"proj_in.weight": torch.zeros(7, 3)}, file)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_index, "model_index.json does not exist"),
        (of_another_class, "_class_name='StableDiffusionPipeline'"),
        (without_a_decoder, "decoder/config.json does not exist"),
        (misshapen, "prior: proj_in.weight has shape (7, 3), but its config asks for (32, 16)"),
    ],
)
def test_a_folder_that_is_no_karlo_is_one_paragraph(
    theirs: Path,
    spoil: Callable[[Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(theirs / "text", "given")
    spoil(Path("given"))
    refused(["import", "given", "--to", "out"], message, capsys)


def test_folders_of_two_karlos_are_not_mixed(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(theirs / "variation", "given")
    file = Path("given/super_res_last/diffusion_pytorch_model.safetensors")
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file)
    refused(["import", str(theirs / "text"), "given", "--to", "out"], "of the same Karlo", capsys)


def test_a_target_that_is_there_stays_as_it_is(
    theirs: Path, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["import", str(theirs / "text"), "--to", "a.png"], "exists already", capsys)
    refused(["import", str(theirs / "text"), "--to", "no/such"], "there is no folder no", capsys)
    refused(["export", "--models", str(imported), "--to", "a.png"], "exists already", capsys)


def test_a_folder_of_models_must_be_whole(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["generate", "a cat", "--models", "nowhere"], "there are no models 'nowhere'", capsys)
    shutil.copytree(imported, "broken")
    file = Path("broken/upsampler_1.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    refused(["generate", "a cat", "--models", "broken"], "upsampler_1.safetensors has", capsys)
    file.unlink()
    message = "upsampler_1.safetensors missing"
    refused(["generate", "a cat", "--models", "broken"], message, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_steps": 50}, "has the flat form of earlier versions (decoder_steps)"),
        ({"eta": 2}, "sampling.eta=2 must lie between 0 and 1"),
        ({"stpes": 2}, "unknown: stpes"),
    ],
)
def test_a_wrong_setting_of_sampling_is_named(
    imported: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(imported, "edited")
    file = Path("edited/sampling.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    refused(["generate", "a cat", "--models", "edited"], message, capsys)
    file.write_text("{")
    refused(["generate", "a cat", "--models", "edited"], "is not a JSON object", capsys)


@pytest.mark.parametrize(
    ("flags", "named"), [(["small"], "CONFIG small"), (["--store", "x", "--set", "a=b"], "--set")]
)
def test_a_folder_of_models_and_a_project_contradict_each_other(
    imported: Path, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["generate", "a cat", *flags, "--models", str(imported)], named, capsys)


def test_the_key_of_a_pair_means_nothing_without_a_store(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "0123456789abcdef0123"
    refused(["variations", key, "--models", str(imported)], "cannot be read as an image", capsys)
