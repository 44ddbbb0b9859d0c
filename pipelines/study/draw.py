"""Draw the images of a study: every variant for every caption, from the same noise."""

# B captions of a shard, E width of the CLIP embeddings

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
from PIL import Image
from torch import Tensor, nn

from pipelines.artifacts import TrainedModel
from pipelines.artifacts.schema import features_of
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.evaluation.generate import unit_norm
from pipelines.evaluation.images import encode_png, encode_thumbnail, to_images
from pipelines.evaluation.model_worker import ModelWorker
from pipelines.evaluation.pipeline import load_trained, scale_embeds
from pipelines.evaluation.rows import Values, input_file
from pipelines.study.variants import (
    DECODER,
    NO_EMBEDDING,
    TEXT_EMBEDDING,
    TRUE_EMBEDDING,
    Variant,
)

log = logging.getLogger(__name__)

IMAGE = "image"


def images_schema(width: int, judges: Sequence[str]) -> pa.Schema:
    """What a study writes: one row for each variant and caption. width: of the CLIP embeddings."""
    return pa.schema(
        [
            pa.field("variant", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field(IMAGE, pa.binary(), nullable=False),  # PNG, at the cascade's final size
            pa.field("thumbnail", pa.binary(), nullable=False),  # raw RGB bytes
            pa.field("image_embeds", pa.list_(pa.float32(), width), nullable=False),
            *(pa.field(features_of(IMAGE, judge), pa.list_(pa.float32())) for judge in judges),
        ]
    )


@dataclass(frozen=True)
class DrawWorker(ModelWorker):
    """Callable on the name of a shard of captions."""

    baselines: Mapping[str, TrainedModel]
    variants: Sequence[Variant]
    evaluation: Folder  # of the stage evaluate

    @property
    def samples(self) -> Folder:
        """The folder of the stage evaluate."""
        return self.evaluation

    def __call__(self, name: str, out: ShardWriter) -> Metadata:
        """Writes the rows of one variant after another."""
        rows = self.folder.read_table(input_file(name)).to_pylist()
        known: dict[tuple[str, float], Tensor | None] = {}
        for variant in self.variants:
            predicted_by = (variant.source, variant.prior_guidance)
            if predicted_by not in known:  # variants of the decoder share predictions
                known[predicted_by] = self.image_embeds(variant, rows)
            images = self.draw(variant, known[predicted_by], rows)
            out.write(self.table(variant, images, rows))
        return {}

    def image_embeds(self, variant: Variant, rows: Sequence[Values]) -> Tensor | None:
        """The image embeddings that the decoder gets, (B, E); None for the learned null."""
        if variant.source == NO_EMBEDDING:
            return None
        norms = self.tensor(rows, "image_norm")
        if variant.source == TRUE_EMBEDDING:
            return scale_embeds(self.tensor(rows, "image_embeds"), norms, self.cascade)
        text_embeds = self.tensor(rows, "text_embeds")
        if variant.source == TEXT_EMBEDDING:  # with the norm of an average image
            return scale_embeds(text_embeds, norms.mean().expand_as(norms), self.cascade)
        cascade = self.cascades[variant.source]
        settings = replace(cascade.sampling.prior, guidance_scale=variant.prior_guidance)
        guided = replace(cascade, sampling=replace(cascade.sampling, prior=settings))
        return guided.sample_image_embeds(
            self.tokens(rows), text_embeds, generator=self.generators(rows, "study prior")
        )

    def draw(
        self, variant: Variant, image_embeds: Tensor | None, rows: Sequence[Values]
    ) -> list[Image.Image]:
        """The images of one variant, at the final size."""
        sampling = self.cascade.sampling
        settings = replace(sampling.decoder, guidance_scale=variant.decoder_guidance)
        cascade = replace(
            self.cascade,
            decoder=self.decoders[variant.decoder],
            sampling=replace(sampling, decoder=settings),
        )
        noise = self.generators(rows, "study decoder")
        pixels = cascade.decode(image_embeds, self.tokens(rows), generator=noise)
        return to_images((pixels, *cascade.upsample(pixels, generator=noise))[-1])

    def table(
        self, variant: Variant, images: Sequence[Image.Image], rows: Sequence[Values]
    ) -> pa.Table:
        """The rows of one variant."""
        embeds = self.pipeline.image_tower.encode_images(images)
        columns: dict[str, Any] = {
            "variant": [variant.name] * len(rows),
            "key": [row["key"] for row in rows],
            IMAGE: [encode_png(image) for image in images],
            "thumbnail": [encode_thumbnail(image) for image in images],
            "image_embeds": unit_norm(embeds),
            **self.judges.columns(IMAGE, images),
        }
        return pa.table(columns, schema=self.schema)

    @property
    def schema(self) -> pa.Schema:
        """The columns of a shard."""
        return images_schema(self.weights.clip.width, tuple(self.config.judges))

    @cached_property
    def decoders(self) -> dict[str, nn.Module]:
        """The decoder and the baselines, by name."""
        baselines = {n: load_trained(m, self.cascade.device) for n, m in self.baselines.items()}
        return {DECODER: self.cascade.decoder, **baselines}
