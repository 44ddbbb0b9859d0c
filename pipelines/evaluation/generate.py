"""Draw pictures for one shard of captions."""

# B rows, P of them probes, V variations, E width of the CLIP embeddings, L context length

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from pipelines.artifacts import ClipWeights, TrainedModel
from pipelines.core.stage import Facts
from pipelines.core.store import Folder
from pipelines.data.shard_reader import decode_pixels
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.noise import RowNoise, row_generator
from pipelines.evaluation.pictures import png, thumbnail, to_images
from pipelines.evaluation.rows import Values, input_file, shard_name
from pipelines.schema import samples
from unclip.cascade import Cascade, Generated, SamplingConfig, with_prior_noise_norms
from unclip.checkpoint import load_model
from unclip.clip import FrozenClip
from unclip.models import DiffusionPrior, build

MODEL_FILE = "model.safetensors"
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
    upsampler_2: TrainedModel
    second_prior: TrainedModel | None = None


@dataclass(frozen=True)
class GenerationWorker:
    """Callable on the name of a shard; loads the models once a process."""

    weights: Weights
    config: EvaluateConfig
    folder: Folder  # of the stage, which holds the shards' inputs

    def __call__(self, name: str) -> tuple[pa.Table, Facts]:
        """Returns one row for each input row (`schema.samples`)."""
        rows = self.folder.read_table(input_file(name)).to_pylist()
        columns: dict[str, Any] = {
            column: [row[column] for row in rows]
            for column in ("key", "caption", "held_out", "image_embeds", "text_embeds")
        }
        columns |= self.from_captions(rows)
        columns |= self.from_second_prior(rows)
        columns |= self.from_embeddings(rows)
        return pa.table(columns, schema=samples(self.weights.clip.width)), {}

    def from_captions(self, rows: Sequence[Values]) -> dict[str, Any]:
        """The columns of the whole cascade, trained and untrained, beside the originals."""
        generated = self.generate(self.cascade, rows, "generated")
        untrained = self.generate(self.untrained, rows, "untrained")
        small, middle, large = (to_images(pixels) for pixels in generated.pixels)
        size = self.cascade.upsampler_2.config.image_size
        return {
            **self.columns("original", [decode(row["image"], size) for row in rows]),
            **self.columns("generated", large),
            **self.columns("generated_small", small),
            **self.columns("generated_middle", middle),
            **self.columns("untrained", to_images(untrained.pixels[-1])),
            "predicted_image_embeds": list(generated.image_embeds.float().cpu().numpy()),
        }

    def from_second_prior(self, rows: Sequence[Values]) -> dict[str, Any]:
        """What the other prior predicts, from captions alone; null where there is none."""
        if self.second_prior is None:
            return {"second_predicted_image_embeds": [None] * len(rows)}
        cascade = self.second_cascade
        tokens = self.tokenizer([row["caption"] for row in rows]).to(self.device)  # (B, L)
        with self.noise(rows, "generated"):
            predicted = cascade.sample_image_embeds(
                tokens, self.tensor(rows, "text_embeds"), generator=torch.Generator()
            )  # (B, E)
        return {"second_predicted_image_embeds": list(predicted.float().cpu().numpy())}

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
        tokens = self.tokenizer([row["caption"] for row in rows]).to(self.device)  # (B, L)
        with self.noise(rows, purpose):
            text_embeds = self.tensor(rows, "text_embeds")  # (B, E)
            return cascade.generate(tokens, text_embeds, generator=torch.Generator())

    def decode(self, probes: Sequence[Values], source: str, purpose: str) -> list[Image.Image]:
        """Embeddings, with noise for this purpose, through the decoder and the upsamplers."""
        if not probes:
            return []
        with self.noise(probes, purpose):
            unused = torch.Generator()
            embeds = self.tensor(probes, source)  # (P, E)
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

    def tensor(self, rows: Sequence[Values], column: str) -> Tensor:
        """A column of embeddings, (B, E)."""
        return torch.tensor([row[column] for row in rows], device=self.device)

    def noise(self, rows: Sequence[Values], purpose: str) -> RowNoise:
        """Noise that is the rows' own."""
        return RowNoise([row_generator(self.config.seed, row["key"], purpose) for row in rows])

    @cached_property
    def device(self) -> torch.device:
        """The GPU where the worker has one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def clip(self) -> FrozenClip:
        """The CLIP that the models were trained with."""
        return FrozenClip.load(self.weights.clip.folder.local(), device=self.device)

    @cached_property
    def tokenizer(self) -> open_clip.SimpleTokenizer:
        """Of the models' own text encoders, as in training; the CLIP may have another."""
        return tokenizer_of(self.cascade)

    @cached_property
    def cascade(self) -> Cascade:
        """The trained models."""
        weights, sampling = self.weights, self.config.sampling
        parts = (weights.prior, weights.decoder, weights.upsampler_1, weights.upsampler_2)
        files = [part.folder.local(MODEL_FILE) for part in parts]
        models = [load_model(file, device=self.device) for file in files]
        return self.with_noise_norms(cascade_of(models, sampling))

    def with_noise_norms(self, cascade: Cascade) -> Cascade:
        """Every worker estimates on the first shard, so that all sample alike; where any do."""
        diffuses = isinstance(cascade.prior, DiffusionPrior)
        if cascade.sampling.prior_sampler != "analytic_dpm" or not diffuses:
            return cascade
        columns = ["caption", "text_embeds", "image_embeds"]
        rows = self.folder.read_table(input_file(shard_name(0)), columns).to_pylist()
        batch = {
            "tokens": tokenizer_of(cascade)([row["caption"] for row in rows]),
            "text_embeds": self.tensor(rows, "text_embeds"),
            "image_embeds": self.tensor(rows, "image_embeds"),
        }
        generator = torch.Generator().manual_seed(self.config.seed)
        return with_prior_noise_norms(cascade, batch, generator=generator)

    @cached_property
    def second_prior(self) -> Any:
        """The prior that the cascade's own is compared with."""
        weights = self.weights.second_prior
        return weights and load_model(weights.folder.local(MODEL_FILE), device=self.device)

    @cached_property
    def second_cascade(self) -> Cascade:
        """The cascade around that prior."""
        return self.with_noise_norms(replace(self.cascade, prior=self.second_prior))

    @cached_property
    def untrained(self) -> Cascade:
        """The same architectures with random weights."""
        trained = self.cascade
        parts = (trained.prior, trained.decoder, trained.upsampler_1, trained.upsampler_2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            models = [build(part.config).to(self.device).eval() for part in parts]
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
    """Prior, decoder and two upsamplers as one object."""
    prior, decoder, upsampler_1, upsampler_2 = models
    return Cascade(prior, decoder, upsampler_1, upsampler_2, sampling)


def tokenizer_of(cascade: Cascade) -> open_clip.SimpleTokenizer:
    """What makes tokens of captions for both text encoders."""
    return open_clip.SimpleTokenizer(
        context_length=cascade.decoder.config.text_encoder.context_length
    )


def decode(content: bytes, size: int) -> Image.Image:
    """A stored picture's middle square, as the models were trained on it."""
    return Image.fromarray(decode_pixels(content, size))


def spread(values: Sequence[Any], rows: Sequence[Values]) -> list[Any]:
    """One value for each probe (P) to one for each row (B): None where a row is no probe."""
    rest = iter(values)
    return [next(rest) if row["probe"] else None for row in rows]
