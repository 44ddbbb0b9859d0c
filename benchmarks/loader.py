"""The training loader against the way it read before, and its memory against its bound.

`python -m benchmarks.loader` prints the rows of two tables. Both loaders read an epoch of the same
shards on one thread and take turns. The earlier one reads whole shards, decodes with Pillow, and
converts batches to float32; it is implemented here.
"""

# B rows of a batch, S image size

import argparse
import io
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.timing import machine, median, race, ratio
from pipelines.artifacts.schema import SELECTION
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.tables import read_table
from pipelines.data.loader import TrainingLoader
from pipelines.data.loader_memory import LoaderConfig, LoaderMemory
from pipelines.data.order import OrderConfig
from pipelines.data.prefetch import prefetch
from pipelines.data.shard_reader import RowReader, ShardFiles
from pipelines.embeddings.selection import verdict
from unclip.training import to_device

MIB = 2**20
PAIRS = pa.schema([("key", pa.string()), ("image", pa.large_binary())])
PICTURES = 8  # different ones; their bytes are repeated
SHARDS = 4
WINDOW_SHARDS = 2  # of the earlier loader
CPU = torch.device("cpu")
ORDER = OrderConfig(seed=0, logical_ranks=1, batch_size=1, shuffle_rows=1)


@dataclass(frozen=True)
class Case:
    """A data set and its batches."""

    size: int  # of the images, in pixels
    rows: int
    batch_size: int
    format: str = "JPEG"
    quality: int = 85
    decoded: bool = False  # whether images are kept decoded, so that later epochs decode none

    def __str__(self) -> str:
        stored = "kept decoded" if self.decoded else f"{self.format} of quality {self.quality}"
        return f"{self.size} px, {stored}"


CASES = [
    Case(16, 2048, 32, format="PNG", decoded=True),  # as in the demo
    Case(32, 2048, 16, format="PNG", decoded=True),
    Case(64, 2048, 16, format="PNG", decoded=True),
    Case(64, 8192, 64),
    Case(256, 2048, 32),
    Case(1024, 512, 16),
    Case(1024, 512, 16, quality=95),
]
TINY = [Case(16, 64, 8, format="PNG", decoded=True), Case(24, 64, 8)]
LARGE = Case(1024, 4096, 16)  # for the memory


def photo(case: Case, seed: int) -> bytes:
    """An image of noise with the spectrum of photos: amplitude 1 / frequency."""
    generator, size = np.random.default_rng(seed), case.size
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf

    def noise(power: float) -> np.ndarray:
        wave = generator.normal(size=(2, *frequency.shape))
        image = np.fft.irfft2((wave[0] + 1j * wave[1]) / frequency**power, s=(size, size))
        return np.asarray(image / image.std())

    grey = noise(1.2)  # the channels of photos are alike
    channels = np.stack([45 * grey + 20 * noise(1.5) + 120 for _ in range(3)], axis=-1)
    encoded = io.BytesIO()
    pixels = Image.fromarray(channels.clip(0, 255).astype(np.uint8))
    pixels.save(encoded, case.format, quality=case.quality)
    return encoded.getvalue()


def write_shards(folder: Path, case: Case) -> tuple[ShardFiles, ...]:
    """Shards as `download` and `select` write them, with only the columns that are read."""
    images = [photo(case, seed) for seed in range(PICTURES)]
    files = []
    for shard in range(SHARDS):
        keys = [f"{shard}-{row:036d}" for row in range(case.rows // SHARDS)]
        stored = list(islice(cycle(images), len(keys)))
        table = pa.table({"key": keys, "image": stored}, schema=PAIRS)
        chosen = [verdict(key, row, row, False) for row, key in enumerate(keys)]
        for name, content in (
            ("pairs", table),
            ("select", pa.Table.from_pylist(chosen, schema=SELECTION)),
        ):
            with ShardWriter(Folder(str(folder)), f"{name}-{shard}", content.schema) as out:
                for part in content.to_batches(max_chunksize=32):  # as downloads do
                    out.write(pa.Table.from_batches([part]))
                out.finish({})
        pairs, select = (str(folder / f"{name}-{shard}.parquet") for name in ("pairs", "select"))
        files.append(ShardFiles(str(shard), pairs, None, select, len(keys)))
    return tuple(files)


def decode_with_pillow(image: bytes) -> np.ndarray:
    """(S, S, 3) uint8."""
    with Image.open(io.BytesIO(image)) as stored:
        return np.asarray(stored.convert("RGB"))


class Earlier:
    """The earlier loader: windows of whole shards, decoded in one thread."""

    def __init__(self, shards: Sequence[ShardFiles], case: Case) -> None:
        self.shards, self.case = shards, case
        self.kept: dict[tuple[int, int], np.ndarray] = {}
        self.load = lru_cache(maxsize=SHARDS if case.decoded else WINDOW_SHARDS)(self._load)

    def read(self) -> None:
        """Read an epoch."""
        for batch in prefetch(self.batches, 4):
            assert batch.dtype == torch.float32

    def batches(self) -> Iterator[torch.Tensor]:
        """(B, 3, S, S) float32 in [-1, 1]."""
        for first in range(0, SHARDS, WINDOW_SHARDS):
            window = range(first, first + WINDOW_SHARDS)
            places = [(i, row) for i in window for row in range(self.load(i).num_rows)]
            order = np.random.default_rng(first).permutation(len(places))
            for begin in range(0, len(order), self.case.batch_size):
                chosen = [places[i] for i in order[begin : begin + self.case.batch_size]]
                stacked = torch.from_numpy(np.stack([self.decode(*place) for place in chosen]))
                moved = stacked.permute(0, 3, 1, 2).contiguous()
                yield moved.float().div_(127.5).sub_(1.0)

    def decode(self, shard: int, row: int) -> np.ndarray:
        """(S, S, 3) uint8."""
        if (shard, row) in self.kept:
            return self.kept[shard, row]
        pixels = decode_with_pillow(self.load(shard)["image"][row].as_py())
        if self.case.decoded:
            self.kept[shard, row] = pixels
        return pixels

    def _load(self, shard: int) -> pa.Table:
        return read_table(self.shards[shard].pairs).combine_chunks()


class Current:
    """The current loader: one thread, one logical rank, a window of half of the rows."""

    def __init__(self, shards: Sequence[ShardFiles], case: Case, *, convert: bool) -> None:
        """convert: to float32 in the consumer's thread, as a training on a CPU does."""
        self.case, self.convert = case, convert
        order = OrderConfig(
            seed=0, logical_ranks=1, batch_size=case.batch_size, shuffle_rows=case.rows // 2
        )
        config = LoaderConfig(order=order, fields=("pixels",), image_size=case.size)
        needed = LoaderMemory.of(shards, config, logical_ranks=1).needed
        bounded = config if case.decoded else replace(config, max_bytes=needed)
        self.loader = TrainingLoader(shards, bounded, own_logical_ranks=(0,))
        assert self.loader.memory.keeps_pixels == case.decoded
        self.source = self.loader.batches(0)

    def read(self) -> None:
        """Read an epoch: the next one if images are kept decoded, else the first."""
        if not self.case.decoded:
            self.source = self.loader.batches(0)
        for (batch,) in islice(self.source, self.case.rows // self.case.batch_size):
            given = to_device(batch, CPU) if self.convert else batch
            assert given["pixels"].dtype == (torch.float32 if self.convert else torch.uint8)
        if not self.case.decoded:
            self.source.close()


def race_loaders(case: Case, rounds: int) -> str:
    """A row of the table: rows in a second of CPU time, and ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        shards = write_shards(Path(scratch), case)
        image_bytes = LoaderMemory.of(
            shards,
            LoaderConfig(order=ORDER, fields=("pixels",), image_size=case.size),
            logical_ranks=1,
        ).stored_bytes
        loaders = (
            Earlier(shards, case),
            Current(shards, case, convert=False),
            Current(shards, case, convert=True),
        )
        times = race([loader.read for loader in loaders], rounds=rounds)
    speeds = [f"{case.rows / median(own).cpu:,.0f}" for own in times]
    ratios = [f"**{r.cpu:.2f}** ({r.wall:.2f})" for r in (ratio(times[0], t) for t in times[1:])]
    cells = [str(case), f"{image_bytes / 1000:.0f} kB", *speeds, *ratios]
    return f"| {' | '.join(cells)} |"


def status_mib(name: str) -> float:
    """A value of /proc/self/status: VmRSS, or VmHWM, its peak. Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def measure_memory(
    shards: Sequence[ShardFiles], case: Case, results: "multiprocessing.Queue[tuple[float, ...]]"
) -> None:
    """Read more than an epoch; puts the bound, the part for batches and the largest growth, MiB.

    Windows have a quarter of the rows, so the data set does not fit into the bound.
    """
    torch.set_num_threads(1)
    order = OrderConfig(
        seed=0, logical_ranks=1, batch_size=case.batch_size, shuffle_rows=case.rows // 4
    )
    config = LoaderConfig(order=order, fields=("pixels", "keys"), image_size=case.size)
    memory = LoaderMemory.of(shards, config, logical_ranks=1)
    bounded = replace(config, max_bytes=memory.needed)
    loader = TrainingLoader(shards, bounded, own_logical_ranks=(0,))
    RowReader(config.fields, case.size).read(shards[0], np.arange(1))  # imports what is left
    before = status_mib("VmRSS")
    with closing(loader.batches(0)) as batches:
        for _ in islice(batches, case.rows * 5 // 4 // case.batch_size):
            pass
    growth = status_mib("VmHWM") - before
    results.put((memory.needed / MIB, memory.batches_bytes / MIB, growth))


def memory_row(case: Case) -> str:
    """A row of the table: measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, ...]] = context.Queue()
    with tempfile.TemporaryDirectory() as scratch:
        shards = write_shards(Path(scratch), case)
        process = context.Process(target=measure_memory, args=(shards, case, results))
        process.start()
        bound, batches, growth = results.get()
        process.join()
    cells = [str(case), f"{case.rows:,}", *(f"{x:.0f} MiB" for x in (bound, batches, growth))]
    return f"| {' | '.join(cells)} | **{growth / bound:.2f}** |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows of both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes that measure nothing")
    parser.add_argument("--sizes", type=int, nargs="*", default=[16, 32, 64, 256, 1024])
    parser.add_argument("--only", choices=["speed", "memory"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sys.stdout.write(f"{machine(CPU)}\n")
    cases = TINY if options.tiny else [case for case in CASES if case.size in options.sizes]
    for case in cases if options.only != "memory" else ():
        sys.stdout.write(f"{race_loaders(case, options.rounds)}\n")
    if options.only != "speed":
        sys.stdout.write(f"{memory_row(TINY[-1] if options.tiny else LARGE)}\n")


if __name__ == "__main__":
    main()
