"""From a pairs shard to a shard of embeddings: real files, real processes, a small CLIP."""

import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines.artifacts import ClipWeights
from pipelines.artifacts.schema import VERDICTS, embeddings, pairs
from pipelines.core.errors import WorkLostError
from pipelines.core.process import is_running
from pipelines.core.store import Store
from pipelines.core.tables import SchemaError, check_schema, to_numpy
from pipelines.embeddings.decode_ahead import Decoder, EncodedPairs, UndecodableImageError
from pipelines.embeddings.encode import PIXEL_BYTES, EmbedWorker
from pipelines.embeddings.rows import PairRows, batched, rows
from pipelines.stages.embed import EmbedConfig
from tests.pipelines.given import GivenClip
from tests.pipelines.given_pairs import pair
from tests.pipelines.local import make, work
from unclip.clip.frozen import FrozenClip
from unclip.config import ConfigError

ROOT = Path(__file__).parents[2]
PAIRS = pairs({}, ())
ROWS = 23
CAPTIONS = ["a", "two red hearts and one more", "", "word " * 60, "🙂 smile"]


def run(worker: EmbedWorker, shard: PairRows) -> tuple[pa.Table, dict[str, Any]]:
    """The embeddings of a shard, and the metadata."""
    return work(worker, shard, embeddings(worker.clip.width, worker.precision))


def keeping(shard: str, kept: list[int], folder: Path) -> PairRows:
    """The shard with verdicts that keep these rows."""
    keys = pq.read_table(shard)["key"].to_pylist()
    verdicts = [
        {"key": key, "reason": None if row in kept else "language"} for row, key in enumerate(keys)
    ]
    pq.write_table(pa.Table.from_pylist(verdicts, VERDICTS), folder / "verdicts.parquet")
    return PairRows(shard, str(folder / "verdicts.parquet"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipWeights:
    return make(Store(str(tmp_path_factory.mktemp("store"))), GivenClip())


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Captions of all lengths, in row groups that batches do not divide."""
    pairs = [pair(n) | {"caption": CAPTIONS[n % len(CAPTIONS)]} for n in range(ROWS)]
    path = tmp_path_factory.mktemp("pairs") / "00000.parquet"
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIRS), path, row_group_size=7)
    return str(path)


@pytest.fixture(scope="module")
def parallel(clip: ClipWeights) -> EmbedWorker:
    """A worker with a decoding process, which takes seconds to start."""
    return EmbedWorker(clip, batch_size=4, decode_workers=1)


def embeds(table: pa.Table) -> dict[str, np.ndarray]:
    names = ("image_embeds", "text_embeds", "image_norm", "similarity")
    return {name: to_numpy(table[name]) for name in names}


def test_rows_are_the_kept_ones_in_order_whatever_the_row_groups(
    shard: str, tmp_path: Path
) -> None:
    keys = pq.read_table(shard)["key"].to_pylist()
    for keep in (None, [0, 6, 7, 22], [13], [], [14, 15, 20]):
        given = PairRows(shard) if keep is None else keeping(shard, keep, tmp_path)
        found = [row for batch in rows(given, 32) for row in batch.to_pylist()]
        expected = list(range(ROWS) if keep is None else keep)
        assert [row["row"] for row in found] == expected
        assert [row["key"] for row in found] == [keys[row] for row in expected]


@pytest.mark.parametrize("size", [1, 5, 7, 23, 100])
def test_batches_hold_the_same_rows_in_equal_sizes(shard: str, size: int) -> None:
    tables = list(batched(rows(PairRows(shard), 32), size))
    assert pa.concat_tables(tables)["key"] == pq.read_table(shard)["key"]
    assert {table.num_rows for table in tables[:-1]} <= {size}
    assert 0 < tables[-1].num_rows <= size


def test_embeddings_are_those_of_the_frozen_clip(clip: ClipWeights, shard: str) -> None:
    table, metadata = run(EmbedWorker(clip, batch_size=4), PairRows(shard))
    check_schema(table, embeddings(clip.width), where="embeddings")
    pairs = pq.read_table(shard)
    assert table["key"] == pairs["key"]
    model = FrozenClip.load(clip.folder.local())
    images = [Image.open(io.BytesIO(i)).convert("RGB") for i in pairs["image"].to_pylist()]
    image_embeds, norms = (t.numpy() for t in model.encode_images_and_norms(images))
    text_embeds = model.encode_texts(pairs["caption"].to_pylist()).numpy()
    found = embeds(table)
    np.testing.assert_allclose(found["image_embeds"], image_embeds, atol=1e-6)
    np.testing.assert_allclose(found["image_norm"], norms, rtol=1e-5)
    np.testing.assert_allclose(found["text_embeds"], text_embeds, atol=1e-6)
    similarity = (image_embeds * text_embeds).sum(1)
    np.testing.assert_allclose(found["similarity"], similarity, atol=1e-6)
    assert metadata["similarity_sum"] == pytest.approx(similarity.sum(), abs=1e-4)


def test_the_number_of_decoding_processes_changes_no_bit(
    clip: ClipWeights, parallel: EmbedWorker, shard: str
) -> None:
    expected, _ = run(EmbedWorker(clip, batch_size=4), PairRows(shard))
    for worker in (parallel, EmbedWorker(clip, batch_size=4, decode_workers=2)):
        for _ in range(2):  # the processes serve many shards
            assert run(worker, PairRows(shard))[0] == expected


def test_the_batch_size_changes_no_more_than_the_order_of_summation(
    clip: ClipWeights, shard: str
) -> None:
    expected = embeds(run(EmbedWorker(clip, batch_size=ROWS), PairRows(shard))[0])
    for size in (1, 5):
        found = embeds(run(EmbedWorker(clip, batch_size=size), PairRows(shard))[0])
        for name, column in expected.items():
            np.testing.assert_allclose(found[name], column, atol=2e-6, err_msg=name)


def test_kept_rows_have_the_embeddings_that_they_have_among_all(
    clip: ClipWeights, shard: str, tmp_path: Path
) -> None:
    keep = [1, 8, 9, 20]
    worker = EmbedWorker(clip, batch_size=3)
    every, some = run(worker, PairRows(shard))[0], run(worker, keeping(shard, keep, tmp_path))[0]
    assert some["key"].to_pylist() == [every["key"][row].as_py() for row in keep]
    assert some["row"].to_pylist() == keep
    for name, column in embeds(every).items():
        np.testing.assert_allclose(embeds(some)[name], column[keep], atol=2e-6, err_msg=name)


def test_no_rows_give_an_empty_shard(clip: ClipWeights, shard: str, tmp_path: Path) -> None:
    table, metadata = run(EmbedWorker(clip, batch_size=4), keeping(shard, [], tmp_path))
    check_schema(table, embeddings(clip.width), where="embeddings")
    assert (table.num_rows, metadata) == (0, {"similarity_sum": 0.0})


def test_float16_halves_the_columns_and_changes_cosines_by_less_than_a_thousandth(
    clip: ClipWeights, shard: str
) -> None:
    full, _ = run(EmbedWorker(clip, batch_size=4), PairRows(shard))
    half, _ = run(EmbedWorker(clip, batch_size=4, precision="float16"), PairRows(shard))
    check_schema(half, embeddings(clip.width, "float16"), where="embeddings")
    with pytest.raises(SchemaError, match="image_embeds"):
        check_schema(half, embeddings(clip.width), where="embeddings")
    for name in ("image_embeds", "text_embeds"):
        widths = [table[name].type.value_type.byte_width for table in (half, full)]
        assert widths == [2, 4]
        exact, rounded = to_numpy(full[name]), to_numpy(half[name])
        assert rounded.dtype == np.float32
        assert not np.array_equal(rounded, exact)
        np.testing.assert_allclose(rounded @ rounded.T, exact @ exact.T, atol=1e-3)
    for name in ("image_norm", "similarity"):
        assert half[name] == full[name]


def test_float16_survives_a_file(clip: ClipWeights, shard: str, tmp_path: Path) -> None:
    table, _ = run(EmbedWorker(clip, batch_size=4, precision="float16"), PairRows(shard))
    pq.write_table(table, tmp_path / "00000.parquet")
    again = pq.read_table(tmp_path / "00000.parquet")
    check_schema(again, embeddings(clip.width, "float16"), where="embeddings")
    assert np.array_equal(to_numpy(again["image_embeds"]), to_numpy(table["image_embeds"]))


def test_huge_inputs_go_through_the_clip_a_few_at_a_time(clip: ClipWeights) -> None:
    assert EmbedWorker(clip, batch_size=300).rows_at_once == 300
    for side in (224, 1024, 8192):
        rows_at_once = EmbedWorker(replace(clip, image_size=side), 10**6).rows_at_once
        assert rows_at_once == max(PIXEL_BYTES // (3 * side**2), 1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", [lambda image: image[:100], lambda image: b"no image"])
def test_a_damaged_image_is_named_with_its_file(
    clip: ClipWeights,
    parallel: EmbedWorker,
    shard: str,
    tmp_path: Path,
    workers: int,
    damage: object,
) -> None:
    pairs = pq.read_table(shard).to_pylist()
    pairs[9]["image"] = damage(pairs[9]["image"])  # type: ignore[operator]
    path = str(tmp_path / "damaged.parquet")
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIRS), path)
    worker = parallel if workers else EmbedWorker(clip, batch_size=4)
    message = f"^The image of pair {pairs[9]['key']} in {path} cannot be decoded: .*run again"
    with pytest.raises(UndecodableImageError, match=message) as caught:
        run(worker, PairRows(path))
    assert "\n" not in str(caught.value)
    assert run(worker, PairRows(shard))[0].num_rows == ROWS  # the worker is still good


def test_a_killed_decoding_process_ends_the_shard_and_the_next_one_has_another(
    clip: ClipWeights, shard: str
) -> None:
    def batches() -> Iterator[EncodedPairs]:
        table = next(batched(rows(PairRows(shard), 32), ROWS))
        pairs = EncodedPairs.of(table, where=shard)
        for _ in range(10):
            yield pairs

    others = set(multiprocessing.active_children())
    decoder = Decoder(FrozenClip.load(clip.folder.local()).inputs, workers=1)
    found = decoder(batches())
    next(found)
    (process,) = set(multiprocessing.active_children()) - others
    process.kill()
    with pytest.raises(WorkLostError, match=r"processes that decode images died.*decode_workers"):
        list(found)
    assert len(list(decoder(batches()))) == 10


ORPHANS = """
import multiprocessing, signal, sys
from pathlib import Path
from pipelines.embeddings.decode_ahead import Decoder, EncodedPairs
from unclip.clip.frozen import FrozenClip

if __name__ == "__main__":
    inputs = FrozenClip.load(sys.argv[1]).inputs
    image = Path(sys.argv[2]).read_bytes()
    batch = EncodedPairs("file", [("key", 0)], ["caption"], [image])
    next(Decoder(inputs, workers=2)(iter([batch])))
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    signal.pause()
"""


def test_decoding_processes_end_with_a_killed_worker(clip: ClipWeights, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    script = tmp_path / "embed_alone.py"
    script.write_text(ORPHANS)
    worker = subprocess.Popen(
        [sys.executable, str(script), str(clip.folder.local()), str(tmp_path / "image.png")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    processes = [int(pid) for pid in worker.stdout.readline().split()]
    assert processes
    assert all(map(is_running, processes))
    worker.kill()
    worker.communicate()
    while any(map(is_running, processes)):  # the test's time limit ends this
        time.sleep(0.05)


def test_an_error_of_the_model_ends_the_thread_that_decodes(clip: ClipWeights, shard: str) -> None:
    worker = EmbedWorker(clip, batch_size=2)
    worker.model.model.visual.conv1 = torch.nn.Conv2d(4, 64, 8)  # it gets three channels
    with pytest.raises(RuntimeError):
        run(worker, PairRows(shard))
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


MEMORY = """
import resource, sys
from pipelines.artifacts import ClipWeights
from pipelines.core.folder import Folder
from pipelines.embeddings.encode import EmbedWorker
from pipelines.embeddings.rows import PairRows
from tests.pipelines.test_embed import run

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder, small, large = sys.argv[1:]
worker = EmbedWorker(ClipWeights(Folder(folder), "given", "", 64, 32, 24), batch_size=16)
run(worker, PairRows(small))
before = peak()
rows = run(worker, PairRows(large))[0].num_rows
print(rows, peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shard(clip: ClipWeights, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "BMP")  # 480 kB
    image = pair(1) | {"image": buffer.getvalue()}

    def write(name: str, groups: int) -> str:
        path = tmp_path / name
        table = pa.Table.from_pylist([image] * 16, schema=PAIRS)
        with pq.ParquetWriter(path, PAIRS, compression="none", use_dictionary=False) as writer:
            for _ in range(groups):
                writer.write_table(table)
        return str(path)

    small, large = write("small.parquet", 8), write("large.parquet", 50)
    assert Path(large).stat().st_size > 380e6
    command = [sys.executable, "-c", MEMORY, str(clip.folder.local()), small, large]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 800
    assert grown < 60e6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 1, "decode_workers": -1}, "decode_workers=-1 must be at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbedConfig(**fields)
