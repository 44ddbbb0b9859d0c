"""`unclip generate` with packaged weights: captions in, images and lines of JSON out."""

import io
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.cli.captions import split_config
from pipelines.cli.main import main
from pipelines.cli.models import ModelSource
from tests.unclip.toys import toy_pipeline
from unclip import pretrained
from unclip.pipeline import UnclipPipeline


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packaged weights with one generator, emoji."""
    root = tmp_path_factory.mktemp("pretrained")
    toy_pipeline().save(root / "emoji", half=True)
    return root


@pytest.fixture(autouse=True)
def _packaged(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "HERE", weights)
    monkeypatch.chdir(tmp_path)


def use_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_packaged_generator_draws_where_no_project_is_named(weights: Path) -> None:
    assert main(["--debug", "generate", "a red heart", "--seed", "5"]) == 0
    grid = Image.open("generated.png")
    assert grid.width == 4 * (128 + 8) + 8  # eight images, in two rows
    made = UnclipPipeline.from_pretrained("emoji")("a red heart", num_images=8, seed=5)
    tile = made.images[0].resize((128, 128), Image.Resampling.BICUBIC)
    shown = np.asarray(grid.crop((8, 8, 136, 136)), int)
    assert np.abs(shown - np.asarray(tile, int)).max() <= 2


def test_each_image_of_a_folder_is_a_file_and_a_line_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["a red heart", "ein Käse", "--count", "2", "--out", "pics", "--json"]
    assert main(["--debug", "generate", *words]) == 0
    lines = lines_of(capsys)
    assert [(line["caption"], line["number"]) for line in lines] == [
        ("a red heart", 0),
        ("a red heart", 1),
        ("ein Käse", 0),
        ("ein Käse", 1),
    ]
    assert [Path(line["file"]).name for line in lines] == [
        "0000-a-red-heart.png",
        "0001-a-red-heart.png",
        "0002-ein-käse.png",
        "0003-ein-käse.png",
    ]
    alone = UnclipPipeline.from_pretrained("emoji")("ein Käse", num_images=2, seed=0)
    for line, wanted in zip(lines[2:], alone, strict=True):
        drawn = np.asarray(Image.open(line["file"]), int)
        assert np.abs(drawn - np.asarray(wanted, int)).max() <= 1


def test_captions_come_from_arguments_standard_input_and_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stdin(monkeypatch, b"a dog\n\n  a cat \n")
    Path("captions.txt").write_text("\ufeffa fish\r\na bird\n")
    words = ["a cow", "-", "--file", "captions.txt", "--json", "--out", "grid.png"]
    assert main(["--debug", "generate", *words]) == 0
    assert [line["caption"] for line in lines_of(capsys)] == [
        "a cow",
        "a dog",
        "a cat",
        "a fish",
        "a bird",
    ]
    assert Image.open("grid.png").width == 4 * (128 + 8) + 8


def test_settings_of_the_decoder_are_flags(weights: Path) -> None:
    few = ["--steps", "2", "--guidance", "1", "--sampler", "ddpm_fixed_small", "--out", "few"]
    assert main(["--debug", "generate", "a cat", "--count", "1", *few]) == 0
    wanted = UnclipPipeline.from_pretrained("emoji")(
        "a cat", seed=0, num_inference_steps=2, guidance_scale=1.0, sampler="ddpm_fixed_small"
    )
    drawn = np.asarray(Image.open("few/0000-a-cat.png"), int)
    assert np.abs(drawn - np.asarray(wanted.images[0], int)).max() <= 1


def test_other_image_commands_use_the_packaged_generator_too() -> None:
    Image.effect_noise((20, 20), 90).convert("RGB").save("a.png")
    mask = Image.new("L", (20, 20))
    mask.paste(255, (0, 0, 10, 20))
    mask.save("mask.png")
    for words in (
        ["variations", "a.png", "--count", "1"],
        ["interpolate", "a.png", "a.png", "--count", "2"],
        ["edit", "a.png", "--to", "a cat", "--count", "2"],
        ["inpaint", "a.png", "mask.png", "--count", "1"],
    ):
        assert main(["--debug", *words]) == 0
        assert Path(f"{words[0]}.png").exists()


@pytest.mark.parametrize(
    ("words", "more", "captions", "config"),
    [
        (["a red heart"], False, ["a red heart"], None),
        (["a red heart", "demo"], False, ["a red heart"], "demo"),
        (["a", "b", "my.yaml"], False, ["a", "b"], "my.yaml"),
        (["demo"], False, ["demo"], None),
        (["demo"], True, [], "demo"),
        (["demo", "a red heart"], False, ["demo", "a red heart"], None),
    ],
)
def test_the_last_word_may_name_a_project(
    words: list[str], more: bool, captions: list[str], config: str | None
) -> None:
    assert split_config(words, more=more) == (captions, config)


LONG = f"a red heart{' and a red heart' * 5}"  # longer than the toys read


def test_a_caption_that_is_cut_gives_one_warning_for_all_of_its_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert main(["--debug", "generate", LONG, "a cat", "--count", "9", "--out", "drawn"]) == 0
    (message,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert message.startswith("The caption 'a red heart and a red heart")
    assert "has 23 tokens, of which the models read the first 4. Left out: 'a red heart" in message


def test_warnings_about_captions_go_to_standard_error(weights: Path) -> None:
    words = ["generate", LONG, "--count", "2", "--json", "--models", str(weights / "emoji")]
    after = "import logging\nlogging.basicConfig()\nlogging.getLogger('unclip').warning('a hint')"
    code = f"from pipelines.cli.main import main\nassert main({words!r}) == 0\n{after}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 2
    caption, *_, other = done.stderr.splitlines()
    assert caption.startswith("The caption 'a red heart")
    assert done.stderr.count("Left out: ") == 1
    assert other == "a hint"  # libraries that set up logging do not change the format


def damage(folder: Path) -> None:
    file = folder / "decoder.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")


def use_version_2(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"version": 2, "files": {}}')


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There is no caption"),
        ([" "], "a caption is empty"),
        (["cat " * 1000], "a caption has 3999 characters"),
        (["a\udcffcat"], "a caption is not text"),
        (["a cat", "--count", "0"], "'--count': 0 is not in the range"),
        (["a cat", "--count", "two"], "'two' is not a valid integer"),
        (["a cat", "b", "--count", "200"], "too many for one grid"),
        (["--file", "nowhere.txt"], "captions nowhere.txt cannot be read: No such file"),
        (["--file", "latin.txt"], "latin.txt, line 2: byte 0xe4 is not UTF-8"),
        (["--file", "empty.txt"], "empty.txt has no caption"),
        (["--file", "long.txt"], "long.txt, line 2: a caption has 4000 characters"),
        (["a cat", "--models", "emojj"], "did you mean emoji?"),
        (["a cat", "--models", "damaged"], "was damaged or changed"),
        (["a cat", "--models", "version"], "has version 2"),
        (["a cat", "--models", "http://127.0.0.1:9/x"], "cannot be fetched"),
        (["a cat", "--models", "emoji", "demo"], "--models emoji replaces the project"),
        (["a cat", "--sampler", "dim"], "did you mean ddim?"),
        (["a cat", "--out", "a.txt"], "a.txt must end in one of"),
        (["a cat", "--out", "latin.txt/pics"], "cannot be made in"),
    ],
)
def test_bad_input_is_one_paragraph_before_weights_are_loaded(
    words: list[str],
    message: str,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("latin.txt").write_bytes("a cat\nein Käse\n".encode("latin-1"))
    Path("empty.txt").write_text("\n \n")
    Path("long.txt").write_text("a cat\n" + "b" * 4000)
    for name, spoil in (("damaged", damage), ("version", use_version_2)):
        shutil.copytree(weights / "emoji", name)
        spoil(Path(name))
    if "damaged" not in words:  # whose digests are read when it is loaded, before its weights
        monkeypatch.setattr(ModelSource, "load", lambda source: pytest.fail("loaded"))
    before = sorted(Path().rglob("*"))
    assert main(["generate", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert sorted(Path().rglob("*")) == before


def test_packaged_weights_are_drawn_without_the_packages_of_the_pipeline(weights: Path) -> None:
    code = (
        "import sys\nfrom pipelines.cli.main import main\n"
        f"assert main(['generate', 'a cat', '--models', {str(weights / 'emoji')!r}]) == 0\n"
        "heavy = {'ray', 'mlflow', 'timm', 'pandas', 'pyarrow', 'pydantic', 'open_clip'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_are_exported_in_half_precision(weights: Path) -> None:
    words = ["--models", "emoji", "--format", "unclip", "--half", "--to", "copy"]
    assert main(["--debug", "export", *words]) == 0
    wanted = UnclipPipeline.from_pretrained("emoji")("a cat", seed=0).images[0]
    assert UnclipPipeline.from_pretrained("copy")("a cat", seed=0).images[0].tobytes() == (
        wanted.tobytes()
    )
