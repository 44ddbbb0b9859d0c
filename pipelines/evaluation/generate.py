"""Draw pictures for one shard of captions."""

# B rows, P of them probes, V variations, E width of the CLIP embeddings, L context length

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipelines.artifacts import MODEL_FILE, ClipWeights, TrainedModel
from pipelines.artifacts.schema import samples
from pipelines.core.errors import PipelineError
from pipelines.core.stage import Metadata
from pipelines.core.store import Folder
from pipelines.data.shard_reader import decode_pixels
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.images import png, thumbnail, to_images
from pipelines.evaluation.noise import RowNoise, row_generator
from pipelines.evaluation.rows import Values, input_file, shard_name
from unclip.checkpoint import load_model
from unclip.clip.frozen import FrozenClip
from unclip.generation import Cascade, Generated, SamplingConfig, with_prior_noise_norms
from unclip.models import ARPrior, build
from unclip.pipeline import UnclipPipeline, share_text_tower

NORMED = ["caption", "text_embeds", "image_embeds", "image_norm"]  # what noise norms need
UNTRAINED_STEPS = 4  # random weights make the same noise in 4 steps as in 40
PROBES = {  # column of pictures → the embedding that they are decoded from
    "from_true_embedding": "image_embeds",
    "from_shuffled_embedding": "other_image_embeds",
}
EMBEDDED = ("generated", "untrained", *PROBES)  # columns that have `<column>_embeds`
THUMBNAILS = ("original", "generated", *PROBES)  # and that have `<column>_thumbnail`


@dataclass(frozen=True)
class Weights:
    """The models that take part."""

    clip: ClipWeights
    prior: TrainedModel
    decoder: TrainedModel
    upsampler_1: TrainedModel
    upsampler_2: TrainedModel | None = None
    second_prior: TrainedModel | None = None


@dataclass(frozen=True)
class GenerationWorker:
    """Callable on the name of a shard; loads the models once a process."""

    weights: Weights
    config: EvaluateConfig
    folder: Folder  # of the stage, which holds the shards' inputs

    def __call__(self, name: str) -> tuple[pa.Table, Metadata]:
        """Returns one row for each input row (`schema.samples`)."""
        rows = self.folder.read_table(input_file(name)).to_pylist()
        columns: dict[str, Any] = {
            column: [row[column] for row in rows] for column in ("key", "held_out", *NORMED)
        }
        columns |= self.from_captions(rows)
        columns |= self.from_second_prior(rows)
        columns |= self.from_embeddings(rows)
        return pa.table(columns, schema=samples(self.weights.clip.width)), {}

    def from_captions(self, rows: Sequence[Values]) -> dict[str, Any]:
        """The columns of the whole cascade, trained and untrained, beside the originals."""
        generated = self.generate(self.cascade, rows, "generated")
        untrained = self.generate(self.untrained, rows, "untrained")
        small, *middle, large = (to_images(pixels) for pixels in generated.pixels)
        size = self.cascade.sizes[-1]
        columns = {
            **self.columns("original", [decode(row["image"], size) for row in rows]),
            **self.columns("generated", large),
            **self.columns("generated_small", small),
            "generated_middle": [None] * len(rows),
            **self.columns("untrained", to_images(untrained.pixels[-1])),
            "predicted_image_embeds": unit_norm(generated.image_embeds),
        }
        return columns | (self.columns("generated_middle", middle[0]) if middle else {})

    def from_second_prior(self, rows: Sequence[Values]) -> dict[str, Any]:
        """What the other prior predicts, from captions alone; null where there is none."""
        if self.second_prior is None:
            return {"second_predicted_image_embeds": [None] * len(rows)}
        cascade = self.second_cascade
        tokens = self.pipeline.tokenize([row["caption"] for row in rows])  # (B, L)
        with self.noise(rows, "generated"):
            predicted = cascade.sample_image_embeds(
                tokens, self.tensor(rows, "text_embeds"), generator=torch.Generator()
            )  # (B, E)
        return {"second_predicted_image_embeds": unit_norm(predicted)}

    def from_embeddings(self, rows: Sequence[Values]) -> dict[str, Any]:
        """The columns of the probes: decoded from embeddings, without a caption."""
        probes = [row for row in rows if row["probe"]]
        columns: dict[str, Any] = {}
        for name, source in PROBES.items():  # equal noise, so that they differ by embedding alone
            columns |= self.columns(name, self.decode(probes, source, "reconstruction"))
        varied = [
            self.decode(probes, "image_embeds", f"variation {number}")
            for number in range(self.config.variations)
        ]
        by_row = [[pictures[place] for pictures in varied] for place in range(len(probes))]
        columns["variations"] = [[png(picture) for picture in pictures] for pictures in by_row]
        columns["variation_embeds"] = [list(self.embed(pictures)) for pictures in by_row]
        return {name: spread(values, rows) for name, values in columns.items()}

    def generate(self, cascade: Cascade, rows: Sequence[Values], purpose: str) -> Generated:
        """Captions through a whole cascade."""
        tokens = self.pipeline.tokenize([row["caption"] for row in rows])  # (B, L)
        with self.noise(rows, purpose):
            text_embeds = self.tensor(rows, "text_embeds")  # (B, E)
            return cascade.generate(tokens, text_embeds, generator=torch.Generator())

    def decode(self, probes: Sequence[Values], source: str, purpose: str) -> list[Image.Image]:
        """Embeddings, with noise for this purpose, through the decoder and the upsamplers."""
        if not probes:
            return []
        with self.noise(probes, purpose):
            unused = torch.Generator()
            embeds = self.image_embeds(probes, source)  # (P, E)
            pixels = self.cascade.decode(embeds, None, generator=unused)
            return to_images(self.cascade.upsample(pixels, generator=unused)[-1])

    def columns(self, name: str, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """PNG bytes, and what is measured of pictures of this name."""
        columns: dict[str, Any] = {name: [png(picture) for picture in pictures]}
        if name in THUMBNAILS:
            columns[f"{name}_thumbnail"] = [thumbnail(picture) for picture in pictures]
        if name in EMBEDDED:
            columns[f"{name}_embeds"] = list(self.embed(pictures))
        return columns

    def embed(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """CLIP embeddings, (B, E)."""
        if not pictures:
            return np.empty((0, self.weights.clip.width), np.float32)
        return self.clip.encode_images(pictures).cpu().numpy()

    def image_embeds(
        self, rows: Sequence[Values], column: str, *, of: Cascade | None = None
    ) -> Tensor:
        """A column of image embeddings as long as the decoder reads them, (B, E)."""
        embeds = self.tensor(rows, column)
        if (of or self.cascade).decoder.config.unit_norm:
            return embeds
        return embeds * self.tensor(rows, column.replace("embeds", "norm"))[:, None]

    def tensor(self, rows: Sequence[Values], column: str) -> Tensor:
        """A column of embeddings (B, E), or of numbers (B,)."""
        return torch.tensor([row[column] for row in rows], device=self.device)

    def noise(self, rows: Sequence[Values], purpose: str) -> RowNoise:
        """Noise that is the rows' own."""
        return RowNoise([row_generator(self.config.seed, row["key"], purpose) for row in rows])

    @cached_property
    def device(self) -> torch.device:
        """The GPU where the worker has one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def pipeline(self) -> UnclipPipeline:
        """The trained models and the CLIP that they were trained with."""
        weights, sampling = self.weights, self.config.sampling
        clip = FrozenClip.load(weights.clip.folder.local(), device=self.device)
        stages = (weights.prior, weights.decoder, weights.upsampler_1, weights.upsampler_2)
        files = [stage and stage.folder.local(MODEL_FILE) for stage in stages]
        models = [file and load_model(file, device=self.device) for file in files]
        pipeline = UnclipPipeline(cascade_of(models, sampling), clip)
        return self.with_noise_norms(pipeline)

    @property
    def clip(self) -> FrozenClip:
        """The CLIP that the models were trained with."""
        return self.pipeline.image_tower

    @property
    def cascade(self) -> Cascade:
        """The trained models."""
        return self.pipeline.cascade

    def with_noise_norms(self, pipeline: UnclipPipeline) -> UnclipPipeline:
        """Every worker estimates on the first shard, so that all sample alike; where any do.

        Raises `PipelineError` where the stage has not begun, so that there is none.
        """
        sampler = pipeline.cascade.sampling.prior_sampler
        if sampler != "analytic_dpm" or isinstance(pipeline.cascade.prior, ARPrior):
            return pipeline
        rows = self.folder.read_table(self.first_shard(), NORMED).to_pylist()
        batch = {
            "tokens": pipeline.tokenize([row["caption"] for row in rows]),
            "text_embeds": self.tensor(rows, "text_embeds"),
            "image_embeds": self.image_embeds(rows, "image_embeds", of=pipeline.cascade),
        }
        generator = torch.Generator().manual_seed(self.config.seed)
        cascade = with_prior_noise_norms(pipeline.cascade, batch, generator=generator)
        return replace(pipeline, cascade=cascade)

    def first_shard(self) -> str:
        """What the first shard is made from, which is gone when the stage is done, or the shard."""
        name = shard_name(0)
        for file in (input_file(name), f"{name}.parquet"):
            if self.folder.exists(file):
                return file
        raise PipelineError(
            "evaluate.sampling.prior_sampler='analytic_dpm' is estimated from the captions of the "
            f"stage evaluate, and {self.folder.url} has none. Run `unclip run --only evaluate` "
            "first, or choose another sampler, such as --set "
            "evaluate.sampling.prior_sampler=ddim."
        )

    @cached_property
    def second_prior(self) -> Any:
        """The prior that the cascade's own is compared with."""
        weights = self.weights.second_prior
        return weights and load_model(weights.folder.local(MODEL_FILE), device=self.device)

    @cached_property
    def second_cascade(self) -> Cascade:
        """The cascade around that prior."""
        cascade = replace(self.cascade, prior=self.second_prior)
        return self.with_noise_norms(replace(self.pipeline, cascade=cascade)).cascade

    @cached_property
    def untrained(self) -> Cascade:
        """The same architectures with random weights."""
        trained = self.cascade
        parts = (trained.prior, trained.decoder, trained.upsampler_1, trained.upsampler_2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            models = [part and build(part.config).to(self.device).eval() for part in parts]
        sampling = replace(
            self.config.sampling,
            prior_sampler="ddim",
            prior_steps=UNTRAINED_STEPS,
            prior_guidance_scale=1.0,
            decoder_steps=UNTRAINED_STEPS,
            decoder_guidance_scale=1.0,
            upsampler_1_steps=1,
            upsampler_2_steps=1,
        )
        return cascade_of(models, sampling)


def cascade_of(models: Sequence[Any], sampling: SamplingConfig) -> Cascade:
    """Prior, decoder, upsampler and a second one or None as one object."""
    prior, decoder, upsampler_1, upsampler_2 = models
    share_text_tower(prior, decoder)
    return Cascade(prior, decoder, upsampler_1, upsampler_2, sampling)


def unit_norm(embeds: Tensor) -> list[np.ndarray]:
    """Embeddings of any length (B, E), one a row and unit-norm."""
    return list(F.normalize(embeds.float(), dim=-1).cpu().numpy())


def decode(content: bytes, size: int) -> Image.Image:
    """A stored picture's middle square, as the models were trained on it."""
    return Image.fromarray(decode_pixels(content, size))


def spread(values: Sequence[Any], rows: Sequence[Values]) -> list[Any]:
    """One value for each probe (P) to one for each row (B): None where a row is no probe."""
    rest = iter(values)
    return [next(rest) if row["probe"] else None for row in rows]
