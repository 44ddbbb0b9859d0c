"""The commands that manipulate pictures: what they refuse, and what they write."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from pipelines.artifacts import PairShards
from pipelines.cli import project as cli_project
from pipelines.cli.inputs import Inputs
from pipelines.cli.main import main
from pipelines.cli.models import ModelSource
from pipelines.cli.options import ImageRequest, ModelChoice, ProjectChoice
from pipelines.cli.project import Project
from pipelines.config.load import load_config
from pipelines.core.errors import PipelineError
from pipelines.core.graph import Graph
from pipelines.core.stage import load_artifact
from pipelines.core.store import Store
from pipelines.data.decode import decode_rgb
from pipelines.evaluation.grids import FONT_SIZE, Tile, draw_grid, wrap
from pipelines.tracking import image as tracking
from pipelines.tracking.image import log_images
from pipelines.tracking.settings import TrackingSettings
from tests.pipelines.given import GivenPca, evaluate_config, evaluate_stage
from tests.pipelines.given_pairs import GivenPairs, GivenVerdicts
from tests.pipelines.local import make

MODELS = ("clip", "prior", "decoder", "upsampler_1", "upsampler_2")
CHOICE = ProjectChoice("demo", None, ())


@dataclass(frozen=True)
class ListedPairs(GivenPairs):
    """Pairs of a URL list that is a file."""

    url_list: str = ""

    def digests(self) -> Mapping[str, str]:
        try:
            return {"urls": Path(self.url_list).read_text()}
        except OSError as error:
            raise PipelineError(f"There is no URL list at {self.url_list}.") from error


@pytest.fixture(autouse=True)
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save("clear.png")
    Image.new("L", (40, 30), 90).save("grey.png")
    for name, shade in (("black", 0), ("smooth", 128)):
        Image.new("L", (40, 40), shade).save(f"{name}.png")
    half = np.zeros((40, 40), np.uint8)
    half[:, :20] = 255
    Image.fromarray(half).save("half.png")
    Path("text.png").write_text("no picture")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["variations", "nowhere.png"], "nowhere.png cannot be read as an image"),
        (["variations", "0123456789abcdef0123"], "does not hold download"),
        (["variations", "text.png"], "text.png cannot be decoded as an image"),
        (["variations", "."], ". cannot be read as an image: Is a directory"),
        (["variations", "clear.png"], "Train them first"),
        (["variations", "grey.png"], "Train them first"),
        (["variations", "clear.png", "--count", "0"], "'--count': 0 is not in the range"),
        (["variations", "clear.png", "--eta", "2"], "'--eta': 2.0 is not in the range"),
        (["variations", "clear.png", "--out", "no/such.png"], "there is no folder no"),
        (
            ["interpolate", "clear.png", "grey.png", "--count", "1"],
            "'--count': 1 is not in the range",
        ),
        (["edit", "clear.png", "--to", " "], "'--to': a caption is empty"),
        (["edit", "clear.png", "--to", "a", "--from-text", "a"], "gives no direction"),
        (
            ["edit", "clear.png", "--to", "a", "--strength", "0"],
            "'--strength': 0.0 is not in the range",
        ),
        (["reconstruct", "clear.png", "--components", "1,x"], "'--components': 1,x is not a list"),
        (["inpaint", "grey.png", "half.png"], "mask of the image's size"),
        (["inpaint", "clear.png", "smooth.png"], "1600 pixels that are neither black nor white"),
        (["inpaint", "clear.png", "black.png"], "nothing to paint"),
        (["importance", ""], "a caption is empty"),
        (["attack", "clear.png", "--labels", "apple,"], "two or more"),
    ],
)
def test_bad_input_is_one_paragraph_before_anything_is_loaded(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ModelSource, "load", lambda source: pytest.fail("loaded"))
    assert main([*arguments, "--store", "store"]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not Path("store").exists()


def project_of(url_list: Path, store: Store) -> Project:
    """A project of small models; no key of it has been computed yet."""
    stage = evaluate_stage(evaluate_config())
    pairs = ListedPairs(48, url_list=str(url_list))
    embeddings = replace(stage.embeddings, pairs=pairs, verdicts=GivenVerdicts(pairs))
    selection = replace(stage.selection, embeddings=embeddings)
    stage = replace(stage, pairs=pairs, embeddings=embeddings, selection=selection)
    config = replace(load_config("demo"), evaluate=stage.config)
    return Project(CHOICE, config, Graph([stage, GivenPca()]), store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose store has small models with random weights, pairs, and a PCA basis."""
    url_list = tmp_path_factory.mktemp("source") / "urls.csv"
    url_list.write_text("first edition")
    project = project_of(url_list, Store(str(tmp_path_factory.mktemp("store"))))
    for name in (*MODELS, "download", "pca"):
        make(project.store, project.graph[name])
    return project


@pytest.fixture
def project(made: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project that every command opens."""
    monkeypatch.setattr(cli_project, "open_project", lambda choice: made)
    monkeypatch.setattr(tracking, "log_images", lambda *given, **named: None)
    return made


@pytest.mark.parametrize(
    ("arguments", "columns", "rows"),
    [
        (["variations", "clear.png", "--count", "2"], 4, 1),
        (["interpolate", "clear.png", "grey.png", "--count", "2"], 4, 2),
        (["edit", "grey.png", "--to", "a heart", "--from-text", "a star", "--count", "2"], 3, 1),
        (["inpaint", "clear.png", "half.png", "--caption", "a heart", "--count", "2"], 4, 1),
        (["inpaint", "clear.png", "half.png", "--count", "1"], 3, 1),
        (["importance", "a heart", "--image", "grey.png", "--count", "2"], 3, 4),
        (["attack", "grey.png", "--labels", "heart,star", "--count", "2"], 3, 1),
    ],
)
def test_a_command_writes_a_labelled_grid_and_tracks_it(
    arguments: list[str],
    columns: int,
    rows: int,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[dict[str, object]] = []
    monkeypatch.setattr(tracking, "log_images", lambda *given, **named: logged.append(named))
    assert main(["--debug", *arguments, "demo", "--out", "grid.png"]) == 0
    grid = Image.open("grid.png")
    assert grid.width == columns * (128 + 8) + 8
    assert grid.height > rows * 128
    (said,) = logged
    assert said["name"] == arguments[0]


def test_all_images_that_a_project_draws_are_tracked(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[list[Path]] = []
    monkeypatch.setattr(tracking, "log_images", lambda files, *given, **named: logged.append(files))
    assert main(["--debug", "generate", "a heart", "a star", "demo", "--out", "drawn"]) == 0
    assert logged == [[Path("drawn/0000-a-heart.png"), Path("drawn/0001-a-star.png")]]


def test_generate_says_which_project_draws(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a heart", "demo", "--json", "--out", "drawn"]
    assert main(["--debug", "generate", *words]) == 0
    printed = capsys.readouterr()
    assert f"The models of the project demo draw, from the store {project.store.root}." in (
        printed.err
    )
    captions = [json.loads(line)["caption"] for line in printed.out.splitlines()]
    assert captions == ["a heart"] * 8


def test_commands_that_read_a_caption_warn_if_it_is_cut(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a red heart" * 12
    for words in (
        ["edit", "grey.png", "--to", long, "--count", "2"],
        ["importance", long, "--count", "1"],
        ["attack", "grey.png", "--labels", f"heart,{long}", "--count", "1"],
    ):
        caplog.clear()
        assert main(["--debug", *words, "demo", "--out", "grid.png"]) == 0
        assert sum("Left out: " in each.getMessage() for each in caplog.records) == 1


@pytest.mark.parametrize("list_now", [None, "second edition"])
def test_trained_models_draw_after_the_url_list_is_gone_or_changed(
    project: Project, list_now: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    url_list = Path("urls.csv")
    if list_now:
        url_list.write_text(list_now)
    now = project_of(url_list, project.store)
    monkeypatch.setattr(cli_project, "open_project", lambda choice: now)
    assert main(["--debug", "generate", "a heart", "demo", "--count", "1", "--out", "a.png"]) == 0
    assert Image.open("a.png").width == 144
    if list_now:
        assert now.graph["download"].key != project.graph["download"].key


def test_an_image_is_reconstructed_from_a_stored_basis(project: Project) -> None:
    flags = ["--components", "2,64,500", "--out", "grid.png"]
    assert main(["--debug", "reconstruct", "grey.png", *flags]) == 0
    tiles = tiles_of("grid.png")
    assert len(tiles) == 1 + len({2, 64})  # 500 are no more than all 64
    assert (
        main(["--debug", "variations", "grey.png", "demo", "--count", "1", "--out", "grid.png"])
        == 0
    )
    pipeline = tiles_of("grid.png")[1]
    assert (
        np.abs(tiles[2] - pipeline).max() <= 2
    )  # of 255: all components are the picture's own z_i
    assert np.abs(tiles[1] - pipeline).max() > 2


def test_a_stored_pair_is_found_by_its_key(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = load_artifact(project.store, project.graph["download"])
    assert isinstance(pairs, PairShards)
    row = pairs.read(list(pairs.shards)[-1]).to_pylist()[-1]
    request = ImageRequest("variations", ModelChoice(CHOICE, None), 0, Path("a.png"), {})
    picture = Inputs(request).read_image(row["key"])
    assert picture.tobytes() == decode_rgb(row["image"], max_pixels=10**6).tobytes()
    assert main(["variations", "0" * 20, "demo"]) == 2
    assert f"has the key {'0' * 20}" in capsys.readouterr().err


def tiles_of(file: str) -> list[np.ndarray]:
    """Those of a grid's first row."""
    grid = np.asarray(Image.open(file), np.int16)
    return [grid[8:136, left : left + 128] for left in range(8, grid.shape[1] - 128, 136)]


def test_labels_are_wrapped_to_their_picture_and_stay_readable() -> None:
    font = ImageFont.load_default(FONT_SIZE)
    lines = wrap("a rather long label that needs lines\nand a second one", 60, font)
    assert len(lines) > 4
    assert all(font.getlength(line) <= 60 for line in lines)
    assert wrap("unbreakable" * 9, 60, font)[0].endswith("…")
    white = Tile(Image.new("RGB", (64, 64), "white"), "a label")
    below = np.asarray(draw_grid([[white]]).convert("L"))[140:]
    assert below.min() < 80


def test_an_outage_of_the_tracking_server_is_a_warning_and_the_picture_is_told_later(
    tmp_path: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    settings = TrackingSettings(uri=f"http://127.0.0.1:{port}")
    said: list[str] = []
    store = Store(str(tmp_path / "kept"))
    log_images(
        [Path("grey.png")], store, settings, name="edit", params={"to": "a"}, warn=said.append
    )
    assert "does not answer" in said[0]
    assert len(list((tmp_path / "kept").rglob("*.json"))) == 4


def test_a_picture_is_a_run_with_its_parameters(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    said: list[str] = []
    store, settings = Store(str(tmp_path / "kept")), TrackingSettings()
    log_images(
        [Path("grey.png")], store, settings, name="edit", params={"to": "a"}, warn=said.append
    )
    assert said == []
    client = MlflowClient(f"sqlite:///{tmp_path}/kept/mlflow.db")
    experiment = client.get_experiment_by_name(settings.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("edit", "FINISHED")
    assert run.data.params == {"to": "a"}
    assert [f.path for f in client.list_artifacts(run.info.run_id, "samples")] == [
        "samples/grey.png"
    ]
