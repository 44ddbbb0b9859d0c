"""Encode pictures and captions with the frozen CLIP."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts import ClipWeights, EmbeddingShards, PairShards
from pipelines.artifacts.schema import embeddings
from pipelines.core.stage import Artifact, Context, Metadata, Stage
from unclip.config import Config, ConfigError, not_in_key


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """How many pairs go through the CLIP at once."""

    tag: ClassVar[str] = "embed"

    batch_size: int = not_in_key()  # pairs that go through the CLIP at once

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")


@dataclass(frozen=True)
class EmbedWorker:
    """Callable on the URL of a pairs shard; loads the CLIP once a process."""

    clip: ClipWeights
    config: EmbedConfig

    def __call__(self, url: str) -> tuple[pa.Table, Metadata]:
        """Returns one row of embeddings for each pair, in the pairs' order."""
        with fsspec.open(url, "rb") as source:
            pairs = pq.read_table(source, columns=["key", "caption", "image"])
        image_embeds, image_norm, text_embeds = self.encode(pairs)
        similarity = (image_embeds * text_embeds).sum(axis=1)  # (N,)
        columns = {
            "key": pairs["key"].combine_chunks(),
            "image_embeds": to_lists(image_embeds),
            "text_embeds": to_lists(text_embeds),
            "image_norm": pa.array(image_norm, pa.float32()),
            "similarity": pa.array(similarity, pa.float32()),
        }
        schema = embeddings(self.clip.width).with_metadata(
            {"clip_name": self.clip.name, "clip_digest": self.clip.digest}
        )
        return pa.table(columns, schema=schema), {"similarity_sum": float(similarity.sum())}

    def encode(self, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit-norm image embeddings, their norms before, and text embeddings; float32.

        (N, W), (N,) and (N, W), the last unit-norm too.
        """
        width = self.clip.width
        empty = (np.empty((0, width)), np.empty(0), np.empty((0, width)))
        parts = [empty, *(self.encode_batch(batch) for batch in self.batches(pairs))]
        images, norms, texts = (
            np.concatenate(p).astype(np.float32) for p in zip(*parts, strict=True)
        )
        return images, norms, texts

    def batches(self, pairs: pa.Table) -> Iterator[pa.Table]:
        """The shard in pieces of the batch size."""
        for start in range(0, pairs.num_rows, self.config.batch_size):
            yield pairs.slice(start, self.config.batch_size)

    def encode_batch(self, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of one batch."""
        from PIL import Image

        pictures = [Image.open(io.BytesIO(image)) for image in pairs["image"].to_pylist()]
        images, norms = self.model.encode_images_and_norms([p.convert("RGB") for p in pictures])
        texts = self.model.encode_texts(pairs["caption"].to_pylist())
        return images.cpu().numpy(), norms.cpu().numpy(), texts.cpu().numpy()

    @cached_property
    def model(self) -> Any:
        """The frozen CLIP, on the GPU where the worker has one."""
        import torch

        from unclip.clip.frozen import FrozenClip

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return FrozenClip.load(self.clip.folder.local(), device=torch.device(device))


def to_lists(vectors: np.ndarray) -> pa.Array:
    """(N, W) float32 as a column of fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def to_array(column: Any) -> np.ndarray:
    """A column of fixed-size lists as (N, W) float32."""
    whole = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(whole.flatten()).reshape(len(whole), -1)


@dataclass(frozen=True)
class Embed(Stage[EmbeddingShards]):
    """CLIP embeddings of every pair, in shards of the pairs' names and order."""

    kind: ClassVar[str] = "embed"
    version: ClassVar[int] = 2  # 2: with image_norm
    artifact: ClassVar[type[Artifact]] = EmbeddingShards

    pairs: Stage[PairShards]
    clip: Stage[ClipWeights]
    config: EmbedConfig

    def run(self, ctx: Context) -> EmbeddingShards:
        """Encode shard by shard."""
        pairs, clip = ctx.load(self.pairs), ctx.load(self.clip)
        items = {name: pairs.folder.file(f"{name}.parquet") for name in pairs.rows}
        metadata = ctx.map_shards(
            EmbedWorker(clip, self.config), items, schema=embeddings(clip.width), unit="shards"
        )
        total = sum(f["rows"] for f in metadata.values())
        mean = sum(f["similarity_sum"] for f in metadata.values()) / max(total, 1)
        return EmbeddingShards(
            ctx.folder,
            rows={n: f["rows"] for n, f in metadata.items()},
            counts={"embedded": total, "mean_similarity": mean},
            width=clip.width,
            clip_name=clip.name,
            clip_digest=clip.digest,
        )
