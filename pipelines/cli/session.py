"""The work of the image commands: models and latents in, rows of labelled images out."""

# B images, S image size, E width of the CLIP embeddings

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from pipelines.artifacts import PcaBasisFile
from pipelines.cli.models import ModelSource
from pipelines.cli.options import ImageRequest
from pipelines.embeddings.components import load_basis
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from pipelines.tracking.image import log_image
from unclip import manipulate
from unclip.generation import Cascade
from unclip.manipulate import Latent
from unclip.output import to_images
from unclip.pipeline import UnclipPipeline
from unclip.samplers import randn

log = logging.getLogger(__name__)

Rows = Sequence[Sequence[Tile]]

LABEL_CLASSES = 3  # classes below an image
GRID_COLUMNS = 4
CONDITIONS = {  # condition -> the label below its images
    "caption": "caption alone",
    "text embedding": "caption, z_t for z_i",
    "prior": "caption, z_i of the prior",
    "true embedding": "caption, true z_i",
}


@dataclass(frozen=True)
class Session:
    """The models of one command, loaded on first use."""

    request: ImageRequest
    models: ModelSource

    @cached_property
    def pipeline(self) -> UnclipPipeline:
        """The models with their CLIP."""
        return self.models.load()

    @property
    def cascade(self) -> Cascade:
        """The prior, the decoder and the upsamplers."""
        return self.pipeline.cascade

    @property
    def size(self) -> int:
        """Side of the images that the cascade makes."""
        return self.cascade.sizes[-1]

    def generator(self) -> torch.Generator:
        """A new generator, seeded with `--seed`."""
        return torch.Generator(self.cascade.device).manual_seed(self.request.seed)

    def generate(self, caption: str, count: int) -> Rows:
        """Images of a caption, without labels."""
        made = self.pipeline.generate([caption] * count, generator=self.generator())
        return in_rows([Tile(image) for image in to_images(made.pixels[-1])], GRID_COLUMNS)

    def variations(self, image: Image.Image, *, count: int, eta: float) -> Rows:
        """The original, its reconstruction and its variations."""
        latent = self._latent(image)
        varied = manipulate.variations(
            self.cascade, latent, count=count, eta=eta, generator=self.generator()
        )
        reconstruction = manipulate.decode(self.cascade, latent)
        labels = [f"eta {eta:g}, no. {n + 1}" for n in range(count)]
        tiles = [
            self._original(image),
            *self._tiles(reconstruction, ["reconstruction, eta 0"]),
            *self._tiles(varied, labels),
        ]
        return in_rows(tiles)

    def interpolations(self, start: Image.Image, end: Image.Image, *, count: int) -> Rows:
        """A row in which x_T is interpolated with z_i, and a row with one random x_T."""
        ends = (self._latent(start), self._latent(end))
        weights = torch.linspace(0, 1, count)
        rows: list[list[Tile]] = []
        for name, noise in (("x_T between", None), ("one random x_T", self._noise_like(ends[0]))):
            pixels = manipulate.interpolate(self.cascade, *ends, weights=weights, noise=noise)
            labels = [f"{weight:.2f}, {name}" for weight in weights.tolist()]
            between = self._tiles(pixels, labels)
            rows.append([self._original(start), *between, self._original(end)])
        return rows

    def edits(
        self, image: Image.Image, to: str, from_text: str | None, *, count: int, strength: float
    ) -> Rows:
        """The original, and steps from no change to `strength` in the direction of a caption."""
        thetas = torch.linspace(0, strength, count)
        edited = manipulate.text_diff(
            self.cascade,
            self._latent(image),
            self.pipeline.text_embeds([to]),
            from_text_embeds=self.pipeline.text_embeds([from_text]) if from_text else None,
            thetas=thetas,
        )
        labels = [f"{theta:.2f} to {to!r}" for theta in thetas.tolist()]
        return in_rows([self._original(image), *self._tiles(edited, labels)], 9)

    def reconstructions(self, image: Image.Image, components: Sequence[int]) -> Rows:
        """The image from some components of z_i, with its own x_T and with a random one."""
        project = self.models.project
        assert project is not None
        stored = project.find([*project.model_stages, "pca"]).load(project.graph["pca"])
        assert isinstance(stored, PcaBasisFile)
        counts = sorted({min(count, stored.width) for count in components})
        latent, basis = self._latent(image), load_basis(stored)
        rows: list[Sequence[Tile]] = []
        for name, noise in (("its x_T", latent.noise), ("random x_T", self._noise_like(latent))):
            changed = Latent(latent.image_embeds, noise)
            pixels = manipulate.pca_reconstruct(self.cascade, changed, basis, components=counts)
            labels = [f"{count} of {stored.width}, {name}" for count in counts]
            rows += in_rows([self._original(image), *self._tiles(pixels, labels)], 9)
        return rows

    def inpaintings(
        self, image: Image.Image, mask: Image.Image, caption: str | None, *, count: int
    ) -> Rows:
        """The original, the part that is kept, and the painted images."""
        kept = without(image, mask)
        generator = self.generator()
        tokens: Tensor | None = None
        image_embeds = self.pipeline.image_embeds([kept]).expand(count, -1)
        if caption is not None:
            tokens = self.pipeline.tokenize([caption] * count)
            text_embeds = self.pipeline.text_embeds([caption]).expand(count, -1)
            image_embeds = self.cascade.sample_image_embeds(
                tokens, text_embeds, generator=generator
            )
        pixels = _to_tensor(self._original(image).image) / 127.5 - 1
        fitted = ImageOps.fit(mask, (self.size, self.size), method=Image.Resampling.BOX)
        covered = _to_tensor(fitted) > 0  # partly covered pixels are painted, too
        painted = manipulate.inpaint(
            self.cascade,
            pixels.expand(count, -1, -1, -1).to(self.cascade.device),
            covered.expand(count, -1, -1, -1).to(self.cascade.device),
            image_embeds,
            tokens,
            generator=generator,
        )
        label = caption or "painted"
        tiles = [Tile(each, f"{label}, no. {n + 1}") for n, each in enumerate(to_images(painted))]
        return in_rows([self._original(image), self._original(kept, "kept"), *tiles])

    def importance(self, caption: str, image: Image.Image | None, *, count: int) -> Rows:
        """A row for each condition of the decoder; images in a column share their noise."""
        captions = [caption] * count
        true_embeds = self.pipeline.image_embeds([image]).expand(count, -1) if image else None
        made = manipulate.importance_of_the_prior(
            self.cascade,
            self.pipeline.tokenize(captions),
            self.pipeline.text_embeds(captions),
            true_embeds,
            generator=self.generator(),
        )
        rows = [self._tiles(pixels, [CONDITIONS[name]] * count) for name, pixels in made.items()]
        if image:
            rows[list(made).index("true embedding")].append(self._original(image, "true image"))
        return rows

    def attack(
        self, image: Image.Image, classes: Sequence[str], *, count: int, eta: float
    ) -> tuple[Rows, list[float]]:
        """The original and its variations, labelled with their likely classes.

        Also returns the probability of each class for the original.
        """
        clip, class_embeds = self.pipeline.image_tower, self.pipeline.text_embeds(classes)
        probabilities, pixels = manipulate.typographic_attack(
            self.cascade,
            self._latent(image),
            class_embeds,
            logit_scale=clip.logit_scale,
            count=count,
            eta=eta,
            generator=self.generator(),
        )
        varied = self._enlarge(pixels)
        classified = manipulate.class_probabilities(
            clip.encode_images(varied), class_embeds, logit_scale=clip.logit_scale
        )
        tiles = [self._original(image, f"original\n{_likely(classes, probabilities)}")]
        for n, (each, own) in enumerate(zip(varied, classified, strict=True)):
            tiles.append(Tile(each, f"no. {n + 1}\n{_likely(classes, own)}"))
        return in_rows(tiles), probabilities.tolist()

    def write(self, rows: Rows) -> None:
        """Write images as one grid, and log it to the project's tracking server."""
        out, project = self.request.out, self.models.project
        draw_grid(rows).save(out)
        print(f"Wrote {out}.")
        if project is None:
            log.info("%s is not tracked, because a folder of models has no tracking server", out)
            return
        log_image(
            out,
            project.store,
            project.config.run.tracking,
            name=self.request.command,
            params=self.request.params,
            warn=lambda message: print(message, file=sys.stderr),
        )

    def _latent(self, image: Image.Image) -> Latent:
        """(z_i, x_T) of an image."""
        pixels = manipulate.to_pixels(self.cascade, [image])
        return manipulate.encode(self.cascade, pixels, self.pipeline.image_embeds([image]))

    def _noise_like(self, latent: Latent) -> Tensor:
        """A random x_T."""
        shape = tuple(latent.noise.shape)
        return randn(shape, generator=self.generator(), device=self.cascade.device)

    def _original(self, image: Image.Image, label: str = "original") -> Tile:
        """The image at the size of the cascade's images."""
        method = Image.Resampling.LANCZOS
        return Tile(ImageOps.fit(image, (self.size, self.size), method=method), label)

    def _enlarge(self, pixels: Tensor) -> list[Image.Image]:
        """Images of the decoder's size (B, 3, S, S) after the upsamplers."""
        return to_images(manipulate.enlarge(self.cascade, pixels, seed=self.request.seed))

    def _tiles(self, pixels: Tensor, labels: Sequence[str]) -> list[Tile]:
        """Images of the decoder's size (B, 3, S, S), enlarged and each with a label."""
        return [Tile(*pair) for pair in zip(self._enlarge(pixels), labels, strict=True)]


def without(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with the masked part in the mean colour of the rest; in grey if all is masked."""
    pixels, covered = np.array(image), np.asarray(mask) > 0
    kept = pixels[~covered]
    pixels[covered] = kept.mean(0) if len(kept) else 128
    return Image.fromarray(pixels)


def _likely(classes: Sequence[str], probabilities: Tensor) -> str:
    """The most probable classes, one per line."""
    most = probabilities.topk(min(LABEL_CLASSES, len(classes)))
    pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
    return "\n".join(f"{share:.0%} {classes[index]}" for index, share in pairs)


def _to_tensor(image: Image.Image) -> Tensor:
    """The image as (1, C, S, S) float32 in [0, 255]."""
    array = np.asarray(image, np.float32)
    return rearrange(torch.from_numpy(array.reshape(*array.shape[:2], -1)), "h w c -> 1 c h w")
