"""Generate the samples of one shard of captions."""

# B rows, P of them probes, V variations, E width of the CLIP embeddings, L context length

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipelines.artifacts.schema import predicted_by, samples
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Metadata
from pipelines.data.pixels import decode_pixels
from pipelines.evaluation.images import encode_png, encode_thumbnail
from pipelines.evaluation.judging import BLURRED, JUDGED, blurred
from pipelines.evaluation.model_worker import ModelWorker
from pipelines.evaluation.pipeline import scale_embeds, untrained_like
from pipelines.evaluation.pixel_statistics import STATISTICS
from pipelines.evaluation.rows import Values, input_file
from pipelines.evaluation.samples import DESCRIBED, EMBEDDED, PROBES, THUMBNAILS
from unclip.generation import Cascade, Generated
from unclip.output import to_images

log = logging.getLogger(__name__)

COPIED = ("key", "caption", "held_out", "image_embeds", "image_norm", "text_embeds")


@dataclass(frozen=True)
class GenerationWorker(ModelWorker):
    """Callable on the name of a shard: makes its table."""

    def __call__(self, name: str, out: ShardWriter) -> Metadata:
        """Writes one row for each input row (`schema.samples`)."""
        rows = self.folder.read_table(input_file(name)).to_pylist()
        log.debug("%s: generating for %d captions", name, len(rows))
        columns: dict[str, Any] = {column: [row[column] for row in rows] for column in COPIED}
        columns |= self.from_captions(rows)
        columns |= self.from_other_priors(rows)
        columns |= self.from_embeddings(rows)
        out.write(pa.table(columns, schema=self.schema))
        return {}

    @property
    def schema(self) -> pa.Schema:
        """The columns of a shard."""
        width, judges = self.weights.clip.width, tuple(self.config.judges)
        return samples(width, tuple(self.weights.other_priors), judges, JUDGED)

    def from_captions(self, rows: Sequence[Values]) -> dict[str, Any]:
        """The columns made by the whole cascade, trained and untrained, and the originals."""
        generated = self.generate(self.cascade, rows, "generated")
        untrained = self.generate(self.untrained, rows, "untrained")
        sizes = [to_images(pixels) for pixels in generated.pixels]  # smallest first
        middle = zip(*sizes[1:-1], strict=True) if sizes[1:-1] else [()] * len(rows)
        originals = [
            Image.fromarray(decode_pixels(row["image"], self.cascade.sizes[-1])) for row in rows
        ]
        reduced = {
            name: [blurred(image, times) for image in originals] for name, times in BLURRED.items()
        }
        columns = [self.judges.columns(name, images) for name, images in reduced.items()]
        return {
            **{name: values for each in columns for name, values in each.items()},
            **self.image_columns("original", originals),
            **self.image_columns("generated", sizes[-1]),
            **self.image_columns("generated_small", sizes[0]),
            "generated_middle": [[encode_png(image) for image in images] for images in middle],
            **self.image_columns("untrained", to_images(untrained.pixels[-1])),
            "predicted_image_embeds": unit_norm(generated.image_embeds),
        }

    def from_other_priors(self, rows: Sequence[Values]) -> dict[str, Any]:
        """What each prior but the first predicts, starting from the same noise as the first."""
        columns = {}
        tokens = self.tokens(rows)  # (B, L)
        for name in self.weights.other_priors:
            predicted = self.cascades[name].sample_image_embeds(
                tokens,
                self.tensor(rows, "text_embeds"),
                generator=self.generators(rows, "generated"),
            )  # (B, E)
            columns[predicted_by(name)] = unit_norm(predicted)
        return columns

    def from_embeddings(self, rows: Sequence[Values]) -> dict[str, Any]:
        """The columns of the probes, decoded from embeddings without a caption."""
        probes = [row for row in rows if row["probe"]]
        columns: dict[str, Any] = {}
        for name, source in PROBES.items():  # with the same noise: only the embeddings differ
            columns |= self.image_columns(name, self.decode(probes, source, "reconstruction"))
        varied = [
            self.decode(probes, "image_embeds", f"variation {number}")
            for number in range(self.config.variations)
        ]
        by_probe = [[images[i] for images in varied] for i in range(len(probes))]  # (P, V)
        columns["variations"] = [[encode_png(image) for image in images] for images in by_probe]
        columns["variation_embeds"] = [list(self.embed(images)) for images in by_probe]
        return {name: spread(values, rows) for name, values in columns.items()}

    def generate(self, cascade: Cascade, rows: Sequence[Values], purpose: str) -> Generated:
        """Images of captions by a whole cascade."""
        return cascade.generate(
            self.tokens(rows),
            self.tensor(rows, "text_embeds"),
            generator=self.generators(rows, purpose),
        )

    def decode(self, probes: Sequence[Values], source: str, purpose: str) -> list[Image.Image]:
        """Images of the embeddings in the column `source`, by the decoder and the upsamplers."""
        if not probes:
            return []
        generators = self.generators(probes, purpose)
        norms = self.tensor(probes, source.replace("embeds", "norm"))
        embeds = scale_embeds(self.tensor(probes, source), norms, self.cascade)  # (P, E)
        pixels = self.cascade.decode(embeds, None, generator=generators)
        sizes = (pixels, *self.cascade.upsample(pixels, generator=generators))
        return to_images(sizes[-1])

    def image_columns(self, name: str, images: Sequence[Image.Image]) -> dict[str, Any]:
        """The images as PNG, and with them the features and thumbnails that metrics read."""
        columns: dict[str, Any] = {name: [encode_png(image) for image in images]}
        if name in THUMBNAILS:
            columns[f"{name}_thumbnail"] = [encode_thumbnail(image) for image in images]
        if name in DESCRIBED:
            columns |= {
                f"{name}_{statistic}": [measure(image) for image in images]
                for statistic, measure in STATISTICS.items()
            }
        if name in EMBEDDED:
            columns[f"{name}_embeds"] = list(self.embed(images))
        if name in JUDGED:
            columns |= self.judges.columns(name, images)
        return columns

    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """CLIP embeddings, (B, E) unit-norm."""
        if not images:
            return np.empty((0, self.weights.clip.width), np.float32)
        return self.pipeline.image_tower.encode_images(images).cpu().numpy()

    @cached_property
    def untrained(self) -> Cascade:
        """The same architectures with random weights."""
        return untrained_like(self.cascade, seed=self.config.seed)


def unit_norm(embeds: Tensor) -> list[np.ndarray]:
    """The rows of (B, E) scaled to unit norm."""
    return list(F.normalize(embeds.float(), dim=-1).cpu().numpy())


def spread(values: Sequence[Any], rows: Sequence[Values]) -> list[Any]:
    """Expand P values, one per probe, to B values, one per row; other rows get None."""
    rest = iter(values)
    return [next(rest) if row["probe"] else None for row in rows]
