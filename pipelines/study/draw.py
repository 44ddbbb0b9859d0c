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
from pipelines.evaluation.images import encode_png, encode_thumbnail
from pipelines.evaluation.model_worker import ModelWorker
from pipelines.evaluation.pipeline import load_trained, scale_embeds
from pipelines.evaluation.rows import Values, input_file
from pipelines.study.variants import (
    DECODER,
    NO_EMBEDDING,
    TEXT_EMBEDDING,
    TRUE_EMBEDDING,
    Settings,
    Variant,
)
from unclip.output import to_images

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
        """Writes the rows of one variant after another; equal settings are drawn once."""
        rows = self.folder.read_table(input_file(name)).to_pylist()
        known: dict[tuple[str, float], Tensor | None] = {}
        alike: dict[Settings, list[Variant]] = {}
        for variant in self.variants:
            alike.setdefault(variant.settings, []).append(variant)
        for settings, variants in alike.items():
            predicted_by = (settings.source, settings.prior_guidance)
            if predicted_by not in known:  # variants of the decoder share predictions
                known[predicted_by] = self.image_embeds(settings, rows)
            columns = self.columns(self.draw(settings, known[predicted_by], rows), rows)
            for variant in variants:
                names = [variant.name] * len(rows)
                out.write(pa.table({"variant": names, **columns}, schema=self.schema))
        return {}

    def image_embeds(self, settings: Settings, rows: Sequence[Values]) -> Tensor | None:
        """The image embeddings that the decoder gets, (B, E); None for the learned null."""
        if settings.source == NO_EMBEDDING:
            return None
        norms = self.tensor(rows, "image_norm")
        if settings.source == TRUE_EMBEDDING:
            return scale_embeds(self.tensor(rows, "image_embeds"), norms, self.cascade)
        text_embeds = self.tensor(rows, "text_embeds")
        if settings.source == TEXT_EMBEDDING:  # with the norm of an average image
            return scale_embeds(text_embeds, norms.mean().expand_as(norms), self.cascade)
        cascade = self.cascades[settings.source]
        prior = replace(cascade.sampling.prior, guidance_scale=settings.prior_guidance)
        guided = replace(cascade, sampling=replace(cascade.sampling, prior=prior))
        return guided.sample_image_embeds(
            self.tokens(rows), text_embeds, generator=self.generators(rows, "study prior")
        )

    def draw(
        self, settings: Settings, image_embeds: Tensor | None, rows: Sequence[Values]
    ) -> list[Image.Image]:
        """The images of some settings, at the final size."""
        sampling = self.cascade.sampling
        decoder = replace(sampling.decoder, guidance_scale=settings.decoder_guidance)
        cascade = replace(
            self.cascade,
            decoder=self.decoders[settings.decoder],
            sampling=replace(sampling, decoder=decoder),
        )
        noise = self.generators(rows, "study decoder")
        pixels = cascade.decode(image_embeds, self.tokens(rows), generator=noise)
        return to_images((pixels, *cascade.upsample(pixels, generator=noise))[-1])

    def columns(self, images: Sequence[Image.Image], rows: Sequence[Values]) -> dict[str, Any]:
        """The columns of images but the variant."""
        return {
            "key": [row["key"] for row in rows],
            IMAGE: [encode_png(image) for image in images],
            "thumbnail": [encode_thumbnail(image) for image in images],
            "image_embeds": unit_norm(self.pipeline.image_tower.encode_images(images)),
            **self.judges.columns(IMAGE, images),
        }

    @property
    def schema(self) -> pa.Schema:
        """The columns of a shard."""
        return images_schema(self.weights.clip.width, tuple(self.config.judges))

    @cached_property
    def decoders(self) -> dict[str, nn.Module]:
        """The decoder and the baselines, by name."""
        baselines = {n: load_trained(m, self.cascade.device) for n, m in self.baselines.items()}
        return {DECODER: self.cascade.decoder, **baselines}
