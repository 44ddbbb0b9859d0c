"""Encode images and captions with the frozen CLIP, shard by shard.

A thread reads and decodes batches ahead of the model, alone or with processes of its own.
"""

# N pairs of a shard, B pairs of a batch, S image side, L text tokens, W width of the embeddings

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.artifacts import ClipWeights
from pipelines.artifacts.schema import embeddings
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.core.tables import Precision, to_column
from pipelines.data.prefetch import prefetch
from pipelines.embeddings.decode_ahead import Decoder, EncodedPairs, Place
from pipelines.embeddings.rows import PairRows, batched, rows
from unclip.clip.frozen import FrozenClip

log = logging.getLogger(__name__)

PIXEL_BYTES = 2**26  # of the decoded images of a batch: 445 of 224 pixels, 21 of 1,024
READY = 2  # decoded batches that wait for the model, at most

Prepared = tuple[
    list[Place], Tensor, Tensor
]  # places, pixels (B, 3, S, S) uint8, tokens (B, L) int64
Embeds = tuple[
    Tensor, Tensor, Tensor
]  # of images (B, W), their original norms (B,), of texts (B, W)


@dataclass(frozen=True)
class EmbedWorker:
    """Callable on the rows of a pairs shard; loads the CLIP once per process."""

    clip: ClipWeights
    batch_size: int  # pairs that go through the CLIP at once; fewer if images exceed PIXEL_BYTES
    decode_workers: int = 0  # processes that decode images; 0: a thread
    precision: Precision = "float32"  # of the stored embeddings

    def __call__(self, pairs: PairRows, out: ShardWriter) -> Metadata:
        """Writes one row of embeddings for each kept pair, in the pairs' order.

        Raises `UndecodableImageError`, and `WorkLostError` if a process that decodes dies.
        """
        log.info("encoding pairs of %s with %s", pairs.url, self.clip.name)
        width, device = self.clip.width, self.model.device
        places: list[Place] = []
        parts = [tuple(torch.empty(shape, device=device) for shape in ((0, width), 0, (0, width)))]
        with closing(prefetch(lambda: self.prepared(pairs), READY)) as batches:
            for batch_places, pixels, tokens in batches:
                places += batch_places
                parts.append(self.encode(pixels, tokens))
        # A GPU is waited for only here, so it never waits for the next batch.
        images, norms, texts = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        table = self.table(places, images, norms, texts)
        out.write(table)
        return {"similarity_sum": float(np.sum(table["similarity"].to_numpy()))}

    def prepared(self, pairs: PairRows) -> Iterator[Prepared]:
        """What the model takes, batch by batch; on a machine with a GPU, in pinned memory."""
        tables = batched(rows(pairs, self.clip.image_size), self.rows_at_once)
        batches = (EncodedPairs.of(table, where=pairs.url) for table in tables)
        pinned = self.model.device.type == "cuda"
        for batch in self.decoder(batches):
            pixels = torch.from_numpy(batch.pixels)
            tokens = torch.from_numpy(batch.tokens)
            yield batch.places, pixels.pin_memory() if pinned else pixels, tokens

    def encode(self, pixels: Tensor, tokens: Tensor) -> Embeds:
        """Encode one batch; both kinds of embeddings are unit-norm."""
        images, norms = self.model.encode_images_and_norms(pixels)
        return images, norms, self.model.encode_texts(tokens)

    def table(
        self, places: list[Place], image_embeds: Tensor, image_norm: Tensor, text_embeds: Tensor
    ) -> pa.Table:
        """The shard of embeddings."""
        similarity = (image_embeds * text_embeds).sum(dim=1).numpy()  # (N,)
        columns = {
            "key": pa.array([key for key, _ in places], pa.string()),
            "row": pa.array([row for _, row in places], pa.int32()),
            "image_embeds": to_column(image_embeds.numpy(), self.precision),
            "text_embeds": to_column(text_embeds.numpy(), self.precision),
            "image_norm": pa.array(image_norm.numpy()),
            "similarity": pa.array(similarity),
        }
        schema = embeddings(self.clip.width, self.precision).with_metadata(
            {"clip_name": self.clip.name, "clip_digest": self.clip.digest}
        )
        return pa.table(columns, schema=schema)

    @property
    def rows_at_once(self) -> int:
        """`batch_size`, or fewer rows if their decoded images would exceed `PIXEL_BYTES`."""
        return max(min(self.batch_size, PIXEL_BYTES // (3 * self.clip.image_size**2)), 1)

    @cached_property
    def decoder(self) -> Decoder:
        """Prepares images and captions for this CLIP."""
        return Decoder(self.model.inputs, self.decode_workers)

    @cached_property
    def model(self) -> FrozenClip:
        """The frozen CLIP, on the GPU if the worker has one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return FrozenClip.load(self.clip.folder.local(), device=torch.device(device))
