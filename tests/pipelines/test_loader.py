import io
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards
from pipelines.artifacts.schema import SELECTION, embeddings, pairs
from pipelines.core.folder import Folder
from pipelines.core.stage import ShardEntry
from pipelines.data import batches
from pipelines.data.batches import TrainingDataError
from pipelines.data.loader import TrainingLoader
from pipelines.data.loader_memory import LoaderConfig
from pipelines.data.order import OrderConfig
from pipelines.data.pixels import decode_into, decode_pixels
from pipelines.data.shard_reader import RowReader, ShardFiles, training_files
from pipelines.embeddings.selection import verdict
from unclip.config import ConfigError

WIDTH = 4
PAIRS = pairs({}, ())
SIZES = (5, 3, 0, 7)  # rows of each pairs shard
CONFIG = LoaderConfig(
    order=OrderConfig(seed=3, logical_ranks=4, batch_size=8, shuffle_rows=4),
    fields=("keys", "pixels", "image_embeds", "image_norm", "text_embeds", "tokens"),
    image_size=8,
)


def png(colour: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, colour, colour)).save(encoded, "PNG")
    return encoded.getvalue()


def pair(shard: int, row: int) -> dict[str, Any]:
    colour = 10 * shard + row
    return {
        "key": f"{shard}-{row}",
        "url": "http://x/",
        "caption": f"caption {colour}",
        "image": png(colour),
        "width": 16,
        "height": 16,
        "original_width": 16,
        "original_height": 16,
        "sha256": "",
        "phash": 0,
        "held_out": None,
    }


def write(folder: Path, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Shards whose colours, embeddings and captions all say which row they are of."""
    for shard, size in enumerate(SIZES):
        name = f"{shard:05d}.parquet"
        rows = [pair(shard, row) for row in range(size)]
        write(tmp_path / "pairs", name, rows, PAIRS)
        vectors = [
            {
                "key": p["key"],
                "row": row,
                "image_embeds": [10.0 * shard + row] * WIDTH,
                "text_embeds": [-10.0 * shard - row] * WIDTH,
                "image_norm": 100.0 * shard + row,
                "similarity": 0.5,
            }
            for row, p in enumerate(rows)
        ]
        write(tmp_path / "embed", name, vectors, embeddings(WIDTH))
        # The first row was not selected and the second is held out.
        chosen = [
            verdict(p["key"], row, row, row == 1, None if row else "similarity")
            for row, p in enumerate(rows)
        ]
        write(tmp_path / "select", name, chosen, SELECTION)
    return tmp_path


def shards_of(store: Path) -> tuple[ShardFiles, ...]:
    shards = {f"{shard:05d}": ShardEntry(size) for shard, size in enumerate(SIZES)}
    paired, embed, select = (Folder(str(store / name)) for name in ("pairs", "embed", "select"))
    training = {f"{shard:05d}": max(0, size - 2) for shard, size in enumerate(SIZES)}
    return training_files(
        PairShards(paired, shards, {}),
        EmbeddingShards(embed, shards, {}, WIDTH, "clip", "digest"),
        SelectionShards(select, shards, {}, training, {}),
    )


def tokenize(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[int(caption.split()[1])] for caption in captions])


def make(
    store: Path, logical_ranks: tuple[int, ...], config: LoaderConfig = CONFIG
) -> TrainingLoader:
    return TrainingLoader(
        shards_of(store), config, own_logical_ranks=logical_ranks, tokenize=tokenize
    )


def steps(loader: TrainingLoader, start: int, count: int) -> list[list[dict[str, Any]]]:
    batches = loader.batches(start)
    taken = list(islice(batches, count))
    batches.close()
    return taken


def same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else bool(x == y)

    return all(
        x.keys() == y.keys() and all(equal(x[k], y[k]) for k in x)
        for x, y in zip(a, b, strict=True)
    )


def test_every_field_of_a_row_is_of_the_same_row(store):
    for logical_rank in steps(make(store, (0, 1, 2, 3)), 0, 1)[0]:
        ids = torch.tensor([10 * int(k[0]) + int(k[2:]) for k in logical_rank["keys"]])
        assert torch.equal(logical_rank["tokens"][:, 0], ids)
        assert torch.equal(logical_rank["image_embeds"], ids[:, None].float().expand(-1, WIDTH))
        assert torch.equal(logical_rank["text_embeds"], -logical_rank["image_embeds"])
        assert torch.equal(logical_rank["image_norm"], (ids // 10 * 100 + ids % 10).float())
        assert logical_rank["pixels"].shape == (2, 3, 8, 8)
        assert torch.equal(logical_rank["pixels"][:, 0, 0, 0], ids)


def test_an_epoch_holds_every_selected_row_but_the_held_out_ones(store):
    config = replace(CONFIG, order=replace(CONFIG.order, logical_ranks=1, batch_size=9))
    keys = steps(make(store, (0,), config), 0, 1)[0][0]["keys"]
    expected = [f"{s}-{r}" for s, size in enumerate(SIZES) for r in range(2, size)]
    assert sorted(keys) == expected


def test_the_loader_from_a_step_is_the_tail_of_the_loader_from_the_start(store):
    whole = steps(make(store, (1, 2)), 0, 12)
    tail = steps(make(store, (1, 2)), 7, 5)
    assert all(same(a, b) for a, b in zip(whole[7:], tail, strict=True))


def test_the_rows_of_a_logical_rank_do_not_depend_on_the_worker(store):
    together = steps(make(store, (0, 1, 2, 3)), 0, 6)
    for worker in ((0, 1), (2, 3), (3,)):
        apart = steps(make(store, worker), 0, 6)
        assert all(same(a, [b[i] for i in worker]) for a, b in zip(apart, together, strict=True))


def test_a_small_cache_changes_nothing_but_the_work(store):
    small = replace(CONFIG, max_bytes=1, threads=3)
    one, other = (steps(make(store, (0, 3), config), 0, 10) for config in (CONFIG, small))
    assert all(same(a, b) for a, b in zip(one, other, strict=True))


def test_only_the_configured_fields_are_read(store):
    for file in (store / "pairs").iterdir():
        rows = pq.read_table(file)
        broken = pa.array([b"no image"] * len(rows), rows.schema.field("image").type)
        place = rows.schema.get_field_index("image")
        pq.write_table(rows.set_column(place, rows.schema.field("image"), broken), file)
    config = LoaderConfig(order=CONFIG.order, fields=("image_embeds",))
    loader = TrainingLoader(shards_of(store), config, own_logical_ranks=(0,))
    assert list(steps(loader, 0, 1)[0][0]) == ["image_embeds"]
    with pytest.raises(TrainingDataError, match=r"pair \d-\d in .*/pairs/.* cannot be decoded"):
        steps(make(store, (0,)), 0, 1)


def test_held_out_rows_can_be_read_too(store):
    files = replace(shards_of(store)[0], rows=1)
    rows = RowReader(("tokens",), held_out=True).read(files, np.arange(1))
    assert rows.keys == ["0-1"]


def test_the_batches_of_a_step_can_be_read_alone(store):
    loader = make(store, (0, 2))
    alone, in_turn = loader.read(3), steps(loader, 3, 1)[0]
    assert same(alone, in_turn)


def test_a_replaced_selection_is_an_error_that_names_it(store):
    files = replace(shards_of(store)[0], rows=4)
    message = r"select/00000.parquet selects 3 rows, but selected 4 .*Start the training again"
    with pytest.raises(TrainingDataError, match=message):
        RowReader(("tokens",)).read(files, np.arange(3))


def test_embeddings_of_other_pairs_are_an_error_that_names_both_sides(store):
    path = store / "embed" / "00003.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)
    message = r"embed/00003\.parquet .*pairs/00003\.parquet .*row 0 on"
    with pytest.raises(TrainingDataError, match=message):
        steps(make(store, (0, 1, 2, 3)), 0, 6)
    pq.write_table(table.slice(0, 2), path)
    with pytest.raises(TrainingDataError, match=r"Row 6 of .*embed/00003.* only 2"):
        steps(make(store, (0, 1, 2, 3)), 0, 6)


def test_a_selection_of_other_pairs_is_an_error_that_names_both_sides(store):
    path = store / "pairs" / "00003.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(0, 1)]), path)
    with pytest.raises(TrainingDataError, match=r"pairs/00003\.parquet .*select/00003\.parquet"):
        steps(make(store, (0, 1, 2, 3)), 0, 6)
    pq.write_table(table.slice(0, 2), path)
    with pytest.raises(TrainingDataError, match=r"Row 6 of .*pairs/00003.* only 2"):
        steps(make(store, (0, 1, 2, 3)), 0, 6)


def test_a_lost_shard_is_an_error_that_names_it(store):
    loader = make(store, (0, 1, 2, 3))
    (store / "pairs" / "00000.parquet").unlink()
    with pytest.raises(TrainingDataError, match=r"pairs/00000\.parquet cannot be read"):
        steps(loader, 0, 6)


def test_an_empty_selection_is_an_error(tmp_path):
    folder, shards = Folder(str(tmp_path)), {"00000": ShardEntry(3)}
    with pytest.raises(TrainingDataError, match="no rows to train on"):
        training_files(
            PairShards(folder, shards, {}),
            EmbeddingShards(folder, shards, {}, WIDTH, "clip", "digest"),
            SelectionShards(folder, shards, {}, {"00000": 0}, {}),
        )


def test_the_smallest_rendition_that_is_large_enough_is_read(tmp_path):
    row = {**pair(0, 1), "image_4": png(4), "image_8": png(8)}
    write(tmp_path, "pairs.parquet", [row], pairs({}, (4, 8)))
    write(tmp_path, "select.parquet", [verdict("0-1", 0, 0, False)], SELECTION)
    files = ShardFiles("0", f"{tmp_path}/pairs.parquet", None, f"{tmp_path}/select.parquet", 1)
    for size, colour in ((3, 4), (4, 4), (5, 8), (8, 8), (9, 1)):
        pixels = np.empty((size, size, 3), np.uint8)
        RowReader(("pixels",), size).read(files, np.arange(1)).decode(0, pixels)
        assert (pixels == colour).all()


def test_decoded_images_are_kept_only_if_all_fit(store, monkeypatch):
    calls: list[int] = []

    def count(pixels: np.ndarray, image: bytes) -> None:
        calls.append(1)
        decode_into(pixels, image)

    monkeypatch.setattr(batches, "decode_into", count)
    loader = make(store, (0, 1, 2, 3))
    assert loader.memory.keeps_pixels
    steps(loader, 0, 12)
    assert len(calls) == 9  # each row once, in ten epochs
    calls.clear()
    small = replace(CONFIG, max_bytes=loader.memory.needed)
    steps(make(store, (0, 1, 2, 3), small), 0, 12)
    assert len(calls) >= 12 * 8


def test_the_memory_of_a_batch_is_used_again_only_after_its_last_view_is_gone():
    empty, shape = batches.ReusedPixels(), (2, 4, 4, 3)
    first = empty(shape)
    view, place = first.permute(0, 3, 1, 2)[1:], first.data_ptr()
    del first
    assert empty(shape).data_ptr() != place
    view.fill_(7)
    second = empty(shape)
    assert second.data_ptr() != place
    assert (view == 7).all()
    del view
    assert empty(shape).data_ptr() == place
    assert second.data_ptr() not in (place, empty(shape).data_ptr())


def test_batches_that_a_consumer_keeps_do_not_change(store):
    kept = steps(make(store, (0, 1)), 0, 30)
    again = steps(make(store, (0, 1)), 0, 30)
    assert all(same(a, b) for a, b in zip(kept, again, strict=True))


def test_closing_the_batches_ends_their_threads(store):
    def threads() -> int:
        return sum(thread.name.startswith("loader-") for thread in threading.enumerate())

    taken = make(store, (0, 1)).batches(0)
    next(taken)
    assert threads() >= 2
    taken.close()
    assert threads() == 0


@pytest.mark.parametrize("size", [(16, 16), (40, 20), (5, 9)])
def test_pixels_are_the_centre_square_at_the_configured_size(size):
    encoded = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(encoded, "PNG")
    pixels = decode_pixels(encoded.getvalue(), 8)
    assert pixels.shape == (8, 8, 3)
    assert (pixels == (9, 99, 199)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("side", [16, 24, 40])
def test_jpegs_have_the_pixels_that_pillow_decodes(mode, subsampling, side):
    noise = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    image = Image.fromarray(noise).convert(mode)
    image.save(encoded, "JPEG", quality=80, subsampling=subsampling, progressive=side == 40)
    with Image.open(encoded) as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert np.array_equal(decode_pixels(encoded.getvalue(), side), expected)


def test_halving_an_image_averages_its_pixels():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert (
        np.abs(decode_pixels(encoded.getvalue(), 4) - means).max() <= 1
    )  # rounded along each axis


def test_impossible_loaders_are_refused_with_a_fix(store):
    with pytest.raises(ConfigError, match=r"fields=\('images',\)"):
        replace(CONFIG, fields=("images",))
    with pytest.raises(ConfigError, match="image_size"):
        replace(CONFIG, image_size=None)
    with pytest.raises(ConfigError, match="tokenize"):
        TrainingLoader(shards_of(store), CONFIG, own_logical_ranks=(0,))
