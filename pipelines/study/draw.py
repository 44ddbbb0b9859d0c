"""Draw the images of a study: every variant for every caption, from the same noise."""

# B captions of a shard, E width of the CLIP embeddings

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from pipelines.artifacts import TrainedModel
from pipelines.artifacts.schema import features_of
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.generate import row_generator, unit_norm
from pipelines.evaluation.images import encode_png, encode_thumbnail, to_images
from pipelines.evaluation.inputs import Weights
from pipelines.evaluation.judging import Judges
from pipelines.evaluation.pipeline import (
    load_pipeline,
    load_trained,
    scale_embeds,
    with_noise_norms,
    with_prior,
)
from pipelines.evaluation.rows import Values, input_file
from pipelines.study.variants import (
    DECODER,
    NO_EMBEDDING,
    TEXT_EMBEDDING,
    TRUE_EMBEDDING,
    Variant,
)
from unclip.generation import Cascade
from unclip.pipeline import UnclipPipeline

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
class DrawWorker:
    """Callable on the name of a shard of captions. Loads the models once per process."""

    weights: Weights
    baselines: Mapping[str, TrainedModel]
    variants: Sequence[Variant]
    config: EvaluateConfig
    folder: Folder  # of the stage, which holds the inputs of the shards
    evaluation: Folder  # its samples, from which analytic_dpm is fitted

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

    def tokens(self, rows: Sequence[Values]) -> Tensor:
        """The captions, (B, L) int64."""
        return self.pipeline.tokenize([row["caption"] for row in rows])

    def tensor(self, rows: Sequence[Values], column: str) -> Tensor:
        """A column of embeddings (B, E), or of numbers (B,)."""
        return torch.tensor([row[column] for row in rows], device=self.cascade.device)

    def generators(self, rows: Sequence[Values], purpose: str) -> list[torch.Generator]:
        """The noise of each row: the same for all variants."""
        return [row_generator(self.config.seed, row["key"], purpose) for row in rows]

    @cached_property
    def pipeline(self) -> UnclipPipeline:
        """The trained models with the first prior, and their CLIP."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return self.fitted(load_pipeline(self.weights, self.config.sampling, device))

    def fitted(self, pipeline: UnclipPipeline) -> UnclipPipeline:
        """The pipeline with what its prior's sampler needs."""
        return with_noise_norms(pipeline, self.evaluation, seed=self.config.seed)

    @property
    def cascade(self) -> Cascade:
        """The trained models with the first prior."""
        return self.pipeline.cascade

    @cached_property
    def cascades(self) -> dict[str, Cascade]:
        """The cascade around each prior, by the prior's name."""
        first, *_ = self.weights.priors
        others = {
            name: self.fitted(with_prior(self.pipeline, load_trained(prior, self.cascade.device)))
            for name, prior in self.weights.other_priors.items()
        }
        return {first: self.cascade, **{name: made.cascade for name, made in others.items()}}

    @cached_property
    def decoders(self) -> dict[str, nn.Module]:
        """The decoder and the baselines, by name."""
        baselines = {n: load_trained(m, self.cascade.device) for n, m in self.baselines.items()}
        return {DECODER: self.cascade.decoder, **baselines}

    @cached_property
    def judges(self) -> Judges:
        """What judges the images."""
        return Judges(self.config.judges)
