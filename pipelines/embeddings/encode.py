"""Encode images and captions with the frozen CLIP, shard by shard."""

# N pairs of a shard, B pairs of a batch, W width of the embeddings

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from pipelines.artifacts import ClipWeights
from pipelines.artifacts.schema import embeddings
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import read_table, to_column
from unclip.clip.frozen import FrozenClip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedItem:
    """One shard of pairs, and the filter's verdicts on them."""

    pairs: str  # URL
    verdicts: str  # URL


@dataclass(frozen=True)
class EmbedWorker:
    """Callable on the URL of a pairs shard; loads the CLIP once per process."""

    clip: ClipWeights
    batch_size: int  # pairs that go through the CLIP at once

    def __call__(self, item: EmbedItem, out: ShardWriter) -> Metadata:
        """Writes one row of embeddings for each kept pair, in the pairs' order."""
        url = item.pairs
        reasons = read_table(item.verdicts, ["reason"])["reason"]
        pairs = read_table(url, ["key", "caption", "image"])
        pairs = pairs.append_column("row", pa.array(range(pairs.num_rows), pa.int32())).filter(
            pc.is_null(reasons)
        )
        log.info("encoding %d pairs of %s with %s", pairs.num_rows, url, self.clip.name)
        image_embeds, image_norm, text_embeds = self.encode(pairs)
        similarity = (image_embeds * text_embeds).sum(axis=1)  # (N,)
        columns = {
            "key": pairs["key"].combine_chunks(),
            "row": pairs["row"].combine_chunks(),
            "image_embeds": to_column(image_embeds),
            "text_embeds": to_column(text_embeds),
            "image_norm": pa.array(image_norm, pa.float32()),
            "similarity": pa.array(similarity, pa.float32()),
        }
        schema = embeddings(self.clip.width).with_metadata(
            {"clip_name": self.clip.name, "clip_digest": self.clip.digest}
        )
        out.write(pa.table(columns, schema=schema))
        return {"similarity_sum": float(similarity.sum())}

    def encode(self, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image embeddings (N, W), their original norms (N,), text embeddings (N, W); all float32.

        Both kinds of embeddings are unit-norm; the norms are those before normalization.
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
        for start in range(0, pairs.num_rows, self.batch_size):
            yield pairs.slice(start, self.batch_size)

    def encode_batch(self, pairs: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Like `encode`, for one batch."""
        images = [Image.open(io.BytesIO(image)) for image in pairs["image"].to_pylist()]
        embeds, norms = self.model.encode_images_and_norms([i.convert("RGB") for i in images])
        texts = self.model.encode_texts(pairs["caption"].to_pylist())
        return embeds.cpu().numpy(), norms.cpu().numpy(), texts.cpu().numpy()

    @cached_property
    def model(self) -> FrozenClip:
        """The frozen CLIP, on the GPU if the worker has one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return FrozenClip.load(self.clip.folder.local(), device=torch.device(device))
