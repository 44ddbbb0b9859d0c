"""The scenes, their captions and drawings, and the list that serves them."""

import hashlib
import io
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from pipelines.core.store import Store
from pipelines.data.sources import SceneList, SourceConfig, find_source
from pipelines.scenes.checker import check
from pipelines.scenes.dataset import (
    SIDE,
    digest,
    drawing,
    find_page,
    rows,
    serve,
    split_of,
    url_list,
)
from pipelines.scenes.drawing import MARGIN, draw
from pipelines.scenes.scene import COLOURS, KINDS, NUMBERS, SHAPES, Scene, all_scenes, parse
from pipelines.stages.download import Download
from pipelines.stages.url_list import UrlList
from tests.pipelines.local import make
from tests.pipelines.test_download import CONFIG

SOURCE = SourceConfig(
    urls="scenes",
    url_column="url",
    caption_column="caption",
    rows_per_shard=8,
    split_column="split",
    held_out_splits=("held_out",),
)
COARSE = [
    [255, 255, 251, 218],
    [255, 246, 243, 220],
    [255, 229, 222, 219],
    [255, 255, 255, 255],
]  # a drawing at 4 x 4 pixels
DIGEST = "aca329c52805d7563b7fec09895ec01043ac59eacab5e0774927c20b770f24b2"


def scenes_of(split: str) -> list[Scene]:
    return [scene for scene in all_scenes() if split_of(scene) == split]


def combinations(scene: Scene) -> Iterator[tuple[object, ...]]:
    """What a model has to combine: the colour of each shape or word, and its number."""
    if scene.lettering is not None:
        yield (scene.lettering.word, scene.lettering.colour)
    for item in scene.items:
        yield (item.shape, item.colour)
    if scene.kind == "counting":
        yield (len(scene.items), scene.items[0].shape, scene.items[0].colour)


def test_every_scene_is_parsed_from_its_caption() -> None:
    assert [parse(scene.caption) for scene in all_scenes()] == list(all_scenes())
    assert len({scene.caption for scene in all_scenes()}) == len(all_scenes()) == 984


@pytest.mark.parametrize(
    "caption", ["", "a red circle ", "a red hexagon", "six red stars", 'the word "GONE" in red']
)
def test_other_captions_are_no_scenes(caption: str) -> None:
    assert parse(caption) is None


def test_captions_read_like_english() -> None:
    expected = {
        "a red circle",
        "a red circle left of a blue square",
        "a green star above a red triangle",
        "three green triangles",
        'the word "GO" in blue',
    }
    assert expected <= {scene.caption for scene in all_scenes()}


def test_a_drawing_follows_from_its_scene_and_its_number() -> None:
    for scene in all_scenes()[::97]:
        assert drawing(scene, 0) == drawing(scene, 0)
        assert drawing(scene, 0) != drawing(scene, 1)


def test_the_drawings_of_this_version_stay_the_same() -> None:
    """A change of this test needs a new VERSION of the list."""
    scene = parse("three green triangles")
    assert scene is not None
    with Image.open(io.BytesIO(drawing(scene, 0))) as image:
        coarse = np.asarray(image.convert("L").resize((4, 4), Image.Resampling.BOX))
    assert np.abs(coarse.astype(int) - COARSE).max() <= 3
    assert digest() == DIGEST


def test_nothing_is_drawn_in_the_margin() -> None:
    for scene in all_scenes()[::13]:
        image = draw(scene, generator=random.Random(scene.caption), side=128)
        ink = ImageChops.invert(image).getbbox()
        low, high = round(128 * MARGIN) - 1, 128 - round(128 * MARGIN) + 1
        assert ink is not None
        assert low <= min(ink)
        assert max(ink) <= high


def test_held_out_scenes_have_a_combination_that_no_training_scene_has() -> None:
    known = {each for scene in scenes_of("train") for each in combinations(scene)}
    for scene in scenes_of("held_out"):
        assert set(combinations(scene)) - known
    assert {scene.kind for scene in scenes_of("held_out")} == set(KINDS)


def test_each_part_of_the_held_out_scenes_occurs_in_training() -> None:
    train = scenes_of("train")
    for kind in ("single", "binding", "counting"):
        items = [item for scene in train if scene.kind == kind for item in scene.items]
        assert {item.shape for item in items} == set(SHAPES)
        assert {item.colour for item in items} == set(COLOURS)
    counted = {(len(s.items), s.items[0].shape) for s in train if s.kind == "counting"}
    assert counted == {(number, shape) for number in NUMBERS for shape in SHAPES}
    letterings = [scene.lettering for scene in all_scenes() if scene.lettering]
    trained = [scene.lettering for scene in train if scene.lettering]
    assert {each.word for each in trained} == {each.word for each in letterings}
    assert {each.colour for each in trained} == set(COLOURS)
    assert {scene.relation for scene in train} == {scene.relation for scene in all_scenes()}


def test_the_list_has_every_scene_in_its_split_and_no_row_twice() -> None:
    assert {caption for _, caption, _ in rows()} == {scene.caption for scene in all_scenes()}
    assert len({path for path, _, _ in rows()}) == len(rows()) == 2920
    for path, caption, split in rows():
        scene = parse(caption)
        assert scene is not None
        assert split_of(scene) == split, path


def test_the_server_has_the_drawings_of_the_list_only() -> None:
    path, caption, _ = rows()[0]
    with serve(0) as port:
        base = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            image = Image.open(io.BytesIO(answer.read()))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/scenes/a-red-circle/999.png", timeout=10)
    scene = parse(caption)
    assert scene is not None
    assert image.size == (SIDE, SIDE)
    assert check(image, scene).is_right


def test_each_path_has_a_page_of_its_own() -> None:
    pages = [find_page(path) for path, _, _ in rows()[:50]]
    assert len({hashlib.sha256(page[1]).digest() for page in pages if page}) == 50


def test_the_list_says_what_is_held_out() -> None:
    source = find_source(SOURCE)
    assert isinstance(source, SceneList)
    held_out = [h for batch in source.all_batches() for h in batch["held_out"].to_pylist()]
    assert held_out == [split == "held_out" for _, _, split in rows()]


def test_the_scenes_are_downloaded_and_are_right_at_the_size_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = url_list().slice(0, 16)
    monkeypatch.setattr("pipelines.scenes.dataset.url_list", lambda: few)
    config = replace(CONFIG, image_size=64, encode_format="png", encode_quality=6)
    pairs = make(Store(str(tmp_path)), Download(UrlList(SOURCE), config, SOURCE))
    made = [row for name in pairs.shards for row in pairs.read(name).to_pylist()]
    assert sorted(row["caption"] for row in made) == sorted(few["caption"].to_pylist())
    for row in made:
        scene = parse(row["caption"])
        assert scene is not None
        assert row["held_out"] == (split_of(scene) == "held_out")
        assert check(Image.open(io.BytesIO(row["image"])), scene).is_right
