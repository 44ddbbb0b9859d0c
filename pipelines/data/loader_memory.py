"""The settings of a training loader, and the memory that it needs."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.core.resources import GIB
from pipelines.core.shard_writer import ROW_GROUP_BYTES
from pipelines.data.batches import CHANNELS, FIELDS
from pipelines.data.order import BLOCK_ROWS, OrderConfig
from pipelines.data.outcomes import BUFFER_ROWS
from pipelines.data.shard_reader import RowReader, ShardFiles
from unclip.config import Config, ConfigError

READ_COPIES = 5  # of a row group, measured: bytes of the file, pages, rows, and room to grow
READ_THREADS = 4  # that read blocks: the requests of an object store take most of their time
PREFETCH_STEPS = 4  # steps that are decoded ahead, at least
SAMPLED_SHARDS = 8  # evenly spaced; the sizes of their columns stand for all


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Config):
    """The fields of a batch, its order, and the loader's memory and threads."""

    order: OrderConfig
    fields: tuple[str, ...]  # some of batches.FIELDS
    image_size: int | None = None  # pixels; required with the field "pixels"
    max_bytes: int = GIB  # of rows and batches in memory
    threads: int = 1  # that decode images
    pin_memory: bool = False  # of batches that are copied to a GPU

    def __post_init__(self) -> None:
        unknown = [field for field in self.fields if field not in FIELDS]
        if unknown or not self.fields:
            raise ConfigError(f"fields={self.fields} must be some of {FIELDS}")
        if "pixels" in self.fields and not self.image_size:
            raise ConfigError('the field "pixels" needs an image_size')
        if min(self.threads, self.max_bytes) < 1:
            raise ConfigError(
                f"threads={self.threads} and max_bytes={self.max_bytes} must be at least 1"
            )

    def steps_ahead(self, logical_ranks: int) -> int:
        """Steps that are made ahead, so that each thread has two microbatches to make."""
        return max(PREFETCH_STEPS, math.ceil(2 * self.threads / logical_ranks))

    def rows_ahead(self, steps: int) -> int:
        """Rows of a logical rank that are used or read ahead, while `steps` steps are made.

        The next window is read while the last quarter of the current one is used.
        """
        return (steps + 1) * self.order.microbatch_size + self.order.shuffle_rows // 4


@dataclass(frozen=True, kw_only=True)
class LoaderMemory:
    """The bytes that the loader of a worker needs, from the mean size of a row."""

    config: LoaderConfig
    logical_ranks: int  # of the worker
    total_rows: int  # of the data set
    stored_bytes: float  # of the pair of a row, with its encoded image
    embeds_bytes: float  # of the embeddings of a row

    @classmethod
    def of(
        cls, shards: Sequence[ShardFiles], config: LoaderConfig, *, logical_ranks: int
    ) -> "LoaderMemory":
        """Reads the metadata of some shards. Raises `TrainingDataError` if one cannot be read."""
        reader = RowReader(config.fields, config.image_size)
        sampled = shards[:: math.ceil(len(shards) / SAMPLED_SHARDS)]
        return cls(
            config=config,
            logical_ranks=logical_ranks,
            total_rows=sum(files.rows for files in shards),
            stored_bytes=sum(map(reader.stored_bytes, sampled)) / len(sampled),
            embeds_bytes=reader.embeds_bytes(sampled[0]),
        )

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows of {self.row_bytes / 1000:,.1f} kB for {self.logical_ranks} "
            f"logical ranks, and {self.batches_bytes / GIB:.2f} GiB for batches"
        )

    @property
    def row_bytes(self) -> float:
        """Of a row in a window."""
        return self.stored_bytes + self.embeds_bytes

    @property
    def pixels_bytes(self) -> int:
        """Of a decoded image."""
        return CHANNELS * (self.config.image_size or 0) ** 2 if self._has_pixels else 0

    @property
    def rows(self) -> int:
        """The most rows in the windows that are in use."""
        steps = self.config.steps_ahead(self.logical_ranks)
        of_one = self.config.order.max_rows_in_use(self.config.rows_ahead(steps))
        return min(self.total_rows, self.logical_ranks * of_one)

    @property
    def batches_bytes(self) -> int:
        """Batches: made ahead, in use, and on the way to the device. Row groups that are read."""
        steps = self.config.steps_ahead(self.logical_ranks) + 2
        rows = steps * self.logical_ranks * self.config.order.microbatch_size
        pixels_and_embeds = rows * (self.pixels_bytes + self.embeds_bytes)
        return int(pixels_and_embeds + READ_THREADS * READ_COPIES * self._row_group_bytes)

    @property
    def _row_group_bytes(self) -> float:
        """The largest row group that `ShardWriter` writes, of the columns that are read."""
        several = max(ROW_GROUP_BYTES, BUFFER_ROWS * self.stored_bytes)
        return min(several, BLOCK_ROWS * self.stored_bytes)

    @property
    def needed(self) -> int:
        """All together."""
        return int(self.rows * self.row_bytes) + self.batches_bytes

    @property
    def keeps_pixels(self) -> bool:
        """Whether all images fit decoded. Fewer are not kept: an epoch reads each only once."""
        decoded = self.total_rows * (self.row_bytes + self.pixels_bytes)
        return self._has_pixels and decoded + self.batches_bytes <= self.config.max_bytes

    @property
    def _has_pixels(self) -> bool:
        return "pixels" in self.config.fields

    def check(self, stage: str) -> None:
        """Raise `ConfigError`, with the smallest changes that fit, if the bound is too small."""
        if self.needed <= self.config.max_bytes:
            return
        enough = math.ceil(self.needed / GIB * 10) / 10
        fitting = self._fitting_shuffle_rows()
        fewer = f", or loader.shuffle_rows to {fitting}" if fitting else ""
        raise ConfigError(
            f"The loader of {stage} needs {self.needed / GIB:.2f} GiB in each worker ({self}), "
            f"more than run.resources.{stage}.loader_gib={self.config.max_bytes / GIB:g}. Set "
            f"run.resources.{stage}.loader_gib to {enough:g}{fewer}."
        )

    def _fitting_shuffle_rows(self) -> int:
        """The largest number of rows to shuffle that fits; 0 if none does."""
        largest = self.config.order.shuffle_rows
        sizes = range(1, largest)
        return bisect.bisect_left(sizes, True, key=lambda rows: not self._fits(rows))

    def _fits(self, shuffle_rows: int) -> bool:
        order = replace(self.config.order, shuffle_rows=shuffle_rows)
        other = replace(self, config=replace(self.config, order=order))
        return other.needed <= self.config.max_bytes
