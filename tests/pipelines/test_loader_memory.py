"""What the training loader reads, and what it holds in memory."""

import re
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from pipelines.artifacts.schema import SELECTION
from pipelines.core.resources import GIB
from pipelines.data.loader import TrainingLoader
from pipelines.data.loader_memory import LoaderConfig, LoaderMemory
from pipelines.data.order import BLOCK_ROWS, OrderConfig
from pipelines.data.shard_reader import RowReader, ShardFiles
from pipelines.embeddings.selection import verdict
from unclip.config import ConfigError

SHARDS, ROWS, GROUP, IMAGE_BYTES = 6, 1024, 64, 1000
ORDER = OrderConfig(seed=1, logical_ranks=2, batch_size=16, shuffle_rows=512)
PAIRS = pa.schema([("key", pa.string()), ("caption", pa.string()), ("image", pa.large_binary())])


class CountingFile(AbstractBufferedFile):
    """A local file that is read by ranges, as from an object store."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        CountingFileSystem.read[Path(self.path).parent.name] += end - start
        with Path(self.path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)


class CountingFileSystem(LocalFileSystem):
    """Counts the bytes that are read from each folder."""

    protocol = "counting"
    read: ClassVar[Counter[str]] = Counter()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> CountingFile:
        return CountingFile(self, path, mode, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("counting://"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardFiles, ...]:
    """Shards of captions and incompressible bytes, all rows of which are selected."""
    folder, noise = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    for name in ("pairs", "select"):
        (folder / name).mkdir()
    files = []
    for shard in range(SHARDS):
        keys = [f"{shard}-{row}" for row in range(ROWS)]
        images = [noise.bytes(IMAGE_BYTES) for _ in keys]
        table = pa.table({"key": keys, "caption": keys, "image": images}, schema=PAIRS)
        pairs, select = (folder / name / f"{shard}.parquet" for name in ("pairs", "select"))
        pq.write_table(table, pairs, row_group_size=GROUP, use_dictionary=False)
        chosen = [verdict(key, row, row, False) for row, key in enumerate(keys)]
        pq.write_table(pa.Table.from_pylist(chosen, schema=SELECTION), select)
        files.append(ShardFiles(str(shard), str(pairs), None, str(select), ROWS))
    return tuple(files)


def config(**changes: Any) -> LoaderConfig:
    settings: dict[str, Any] = {"order": ORDER, "fields": ("keys", "pixels"), "image_size": 8}
    return LoaderConfig(**settings | changes)


def counting(shards: tuple[ShardFiles, ...]) -> tuple[ShardFiles, ...]:
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    return tuple(
        replace(s, pairs=f"counting://{s.pairs}", selection=f"counting://{s.selection}")
        for s in shards
    )


def test_only_the_row_groups_of_the_rows_are_read(shards):
    reader, size = RowReader(("pixels",)), Path(shards[0].pairs).stat().st_size
    for rows in (np.arange(5), np.arange(60, 70), np.array([0, ROWS - 1])):
        CountingFileSystem.read.clear()
        reader.read(counting(shards)[0], rows)
        groups = len({row // GROUP for row in rows.tolist()})
        data = groups * GROUP * IMAGE_BYTES
        assert data < CountingFileSystem.read["pairs"] < 1.05 * data + (64 << 10)  # the footer
        assert CountingFileSystem.read["pairs"] < size / 2


def test_captions_are_read_without_images(shards):
    CountingFileSystem.read.clear()
    RowReader(("tokens",)).read(counting(shards)[0], np.arange(ROWS))
    assert CountingFileSystem.read["pairs"] < ROWS * IMAGE_BYTES / 4


def images_are_never_decoded(loader: TrainingLoader) -> TrainingLoader:
    """The bytes of these images are noise."""
    loader.make_batch = lambda rows: {"keys": [block.keys[row] for block, row in rows]}
    return loader


def test_the_blocks_in_memory_stay_within_the_bound(shards):
    needed = LoaderMemory.of(shards, config(), logical_ranks=1).needed
    tight = config(max_bytes=needed)
    loader = images_are_never_decoded(TrainingLoader(shards, tight, own_logical_ranks=(0,)))
    most = 0
    with closing(loader.batches(0)) as batches:
        for _ in islice(batches, 3 * loader.logical_ranks[0].epoch_rows // 8):
            cached = loader.cache.blocks.values()
            most = max(most, sum(block.result().nbytes for block in cached))
    limit = needed - loader.memory.batches_bytes
    assert 2 * ORDER.shuffle_rows * IMAGE_BYTES < most <= limit
    assert loader.nbytes <= limit


def test_what_fits_is_read_once_and_what_does_not_fit_again(shards):
    def read(max_bytes: int) -> int:
        loader = TrainingLoader(
            counting(shards), config(max_bytes=max_bytes), own_logical_ranks=(0, 1)
        )
        CountingFileSystem.read.clear()
        with closing(images_are_never_decoded(loader).batches(0)) as batches:
            for _ in islice(batches, 2 * SHARDS * ROWS // ORDER.batch_size):
                pass
        return CountingFileSystem.read["pairs"]

    whole = SHARDS * ROWS * IMAGE_BYTES
    assert read(GIB) < 2 * whole  # each block once: its rows, some of its neighbours', the footer
    assert read(whole // 2) > 2 * whole


def test_the_size_of_a_row_comes_from_the_metadata(shards):
    memory = LoaderMemory.of(shards, config(), logical_ranks=1)
    assert memory.row_bytes == pytest.approx(IMAGE_BYTES + len("0-1000"), rel=0.05)
    assert memory.pixels_bytes == 3 * 8 * 8
    captions = LoaderMemory.of(shards, config(fields=("tokens",)), logical_ranks=1)
    assert captions.row_bytes < 30


def test_windows_that_are_too_large_are_refused_with_changes_that_fit(shards):
    order = replace(ORDER, shuffle_rows=2048)
    large = config(order=order, max_bytes=8_000_000)
    memory = LoaderMemory.of(shards, large, logical_ranks=1)
    with pytest.raises(ConfigError, match=r"run\.resources\.decoder\.loader_gib to 0\.1") as error:
        memory.check("decoder")
    rows = int(re.search(r"loader\.shuffle_rows to (\d+)", str(error.value))[1])
    for shuffled, fits in ((rows, True), (rows + 1, False)):
        changed = replace(large, order=replace(order, shuffle_rows=shuffled))
        needed = LoaderMemory.of(shards, changed, logical_ranks=1).needed
        assert (needed <= large.max_bytes) == fits
    LoaderMemory.of(shards, replace(large, max_bytes=GIB // 10), logical_ranks=1).check("decoder")


def test_batches_that_are_too_large_are_refused_without_a_smaller_window(shards):
    memory = LoaderMemory.of(shards, config(image_size=512, max_bytes=10**6), logical_ranks=2)
    with pytest.raises(ConfigError, match=r"loader_gib to \d\.\d\.$"):
        memory.check("decoder")


def test_a_block_is_the_largest_row_group():
    from pipelines.core.shard_writer import ROW_GROUP_ROWS

    assert BLOCK_ROWS == ROW_GROUP_ROWS
