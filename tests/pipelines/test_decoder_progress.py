"""The samples of a decoder's training, and the image that shows them side by side."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.artifacts import SAMPLE_FILE, TrainedModel
from pipelines.config.load import load_config
from pipelines.core.folder import Folder
from pipelines.core.store import Store
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from pipelines.evaluation.images import encode_png
from pipelines.report.decoder_progress import decoder_progress, spread
from pipelines.stages.train import LoaderSettings, TrainModel
from tests.pipelines import given
from tests.pipelines.local import context, make
from tests.pipelines.training import TrainingContext, given_rows
from unclip.training import TrainingConfig

QUICK: TrainingConfig = replace(
    load_config("demo").decoder.training,
    steps=5,
    warmup_steps=1,
    batch_size=6,
    log_every_steps=2,
    checkpoint_every_steps=5,
    validate_every_steps=None,
    sample_every_steps=2,
)
COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "black", "gray")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


def trained(store: Store, folder: Path, training: TrainingConfig) -> TrainedModel:
    stage = TrainModel(
        *given_rows(), given.small_models().decoder, training, LoaderSettings(shuffle_rows=256)
    )
    for dependency in stage.dependencies.values():
        make(store, dependency)
    return stage.run(context(store, stage, folder=Folder(str(folder)), kind=TrainingContext))


def drawn(folder: Path, *, columns: int = 6, rows: int = 2, steps: int = 3) -> TrainedModel:
    """A decoder whose real images are white, and whose samples have one colour for each step."""
    for number in range(steps):
        colours = ["white"] * columns + [COLOURS[number % 8]] * columns * (rows - 1)
        tiles = [Tile(Image.new("RGB", (8, 8), colour)) for colour in colours]
        grid = draw_grid(in_rows(tiles, columns))
        Folder(str(folder)).write_bytes(SAMPLE_FILE.format(100 * (number + 1)), encode_png(grid))
    return TrainedModel(Folder(str(folder)), 1, 100 * steps, 0.1)


def colours_in(content: bytes | None) -> list[list[tuple[int, ...]]]:
    """The colour in the middle of each tile, by row."""
    assert content is not None
    strip = Image.open(io.BytesIO(content)).convert("RGB")
    size = ((strip.height - 16) // 144, strip.width // 136)
    return [
        [strip.getpixel((72 + 136 * x, 88 + 144 * y)) for x in range(size[1])]  # type: ignore[misc]
        for y in range(size[0])
    ]


def test_samples_of_every_interval_and_of_the_last_step_are_stored(
    store: Store, tmp_path: Path
) -> None:
    model = trained(store, tmp_path, QUICK)
    assert list(model.sample_files) == [2, 4, 5]
    grids = [Image.open(io.BytesIO(read(model, file))) for file in model.sample_files.values()]
    assert {grid.size for grid in grids} == {(6 * 136 + 8, 2 * 144)}  # six rows of the batch
    shown = decoder_progress(model)
    assert shown is not None
    assert Image.open(io.BytesIO(shown)).size == (4 * 136 + 8, 16 + 4 * 144)


def test_a_training_without_samples_has_no_progress_to_show(store: Store, tmp_path: Path) -> None:
    model = trained(store, tmp_path, replace(QUICK, sample_every_steps=None))
    assert model.sample_files == {}
    assert decoder_progress(model) is None


def read(model: TrainedModel, file: str) -> bytes:
    with model.folder.open(file) as opened:
        return opened.read()


def test_columns_are_steps_in_order_and_real_images_come_last(tmp_path: Path) -> None:
    rows = colours_in(decoder_progress(drawn(tmp_path)))
    assert rows == [[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]] * 4


def test_a_long_training_is_shown_in_a_few_steps_with_the_first_and_the_last(
    tmp_path: Path,
) -> None:
    (row, *_) = colours_in(decoder_progress(drawn(tmp_path, steps=25)))
    assert len(row) == 8
    assert row[0] == row[-2] == (255, 0, 0)  # steps 1 and 25
    assert spread(range(10, 1001, 10), 3) == [10, 100, 1000]
    assert spread([5, 7], 3) == [5, 7]


def test_a_small_batch_gives_fewer_rows(tmp_path: Path) -> None:
    assert len(colours_in(decoder_progress(drawn(tmp_path, columns=2)))) == 2


def test_samples_of_another_layout_are_left_out(tmp_path: Path) -> None:
    assert decoder_progress(drawn(tmp_path, rows=3)) is None
