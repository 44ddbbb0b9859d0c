"""Grids of images, and the images of a grid."""

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.grids import GAP, LINE_HEIGHT, Tile, cut_grid, draw_grid, in_rows
from pipelines.evaluation.grids import whole_enlargement as enlargement


def noise(side: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("count", "columns"), [(16, 8), (6, 3), (2, 1)])
def test_a_grid_is_cut_into_the_tiles_that_it_was_drawn_from(count: int, columns: int) -> None:
    images = [noise(16, seed) for seed in range(count)]
    grid = draw_grid(in_rows([*map(Tile, images)], columns), enlarge=Image.Resampling.NEAREST)
    rows = cut_grid(grid, 2)
    assert rows is not None
    tiles = [tile for row in rows for tile in row]
    assert len(rows) == 2
    for tile, image in zip(tiles, images, strict=True):
        assert tile.tobytes() == image.resize((128, 128), Image.Resampling.NEAREST).tobytes()


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_grid_of_another_layout_is_not_cut(rows: int) -> None:
    grid = draw_grid(in_rows([Tile(noise(16, seed)) for seed in range(8 * rows)], 8))
    assert cut_grid(grid, 2) is None


def test_a_header_moves_the_tiles_down_and_changes_nothing_else() -> None:
    rows = [[Tile(noise(64, 0), "a label"), Tile(noise(64, 1))]]
    plain, titled = draw_grid(rows), draw_grid(rows, header=["one", "two"])
    below = titled.crop((0, GAP + LINE_HEIGHT, *titled.size))
    assert below.tobytes() == plain.crop((0, GAP, *plain.size)).tobytes()
    assert np.asarray(titled.crop((0, 0, titled.width, LINE_HEIGHT))).min() < 128


@pytest.mark.parametrize(
    ("size", "side"), [(8, 128), (48, 96), (64, 128), (100, 100), (128, 128), (1024, 128)]
)
def test_small_images_are_enlarged_by_a_whole_number(size: int, side: int) -> None:
    assert enlargement(size) == side
