"""The work of the image commands: models and latents in, rows of labelled images out."""

# B images, S image size, E width of the CLIP embeddings

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipelines.cli.models import ModelSource
from pipelines.cli.options import ImageRequest
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from unclip import manipulate
from unclip.generation import Cascade
from unclip.manipulate import Latent
from unclip.output import to_images
from unclip.pipeline import UnclipPipeline
from unclip.samplers import generator_for, randn

log = logging.getLogger(__name__)

Rows = Sequence[Sequence[Tile]]

LABEL_CLASSES = 3  # classes below an image
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
        """The models with their CLIP, and with the sampling settings of the request."""
        return self.models.load().with_settings(**self.request.sampling)

    @property
    def cascade(self) -> Cascade:
        """The prior, the decoder and the upsamplers."""
        return self.pipeline.cascade

    @property
    def size(self) -> int:
        """Side of the images that the cascade makes."""
        return self.cascade.sizes[-1]

    def generators(self, count: int) -> list[torch.Generator]:
        """The noise of each image, which does not depend on the others."""
        return [generator_for(self.request.seed, number) for number in range(count)]

    def variations(self, image: Image.Image, *, count: int, eta: float) -> Rows:
        """The original, its reconstruction and its variations."""
        latent = self.pipeline.encode(image)
        varied = manipulate.variations(
            self.cascade, latent, count=count, eta=eta, generator=self.generators(count)
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
        ends = (self.pipeline.encode(start), self.pipeline.encode(end))
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
        edited = self.pipeline.edit(
            image,
            to,
            from_text=from_text,
            strength=strength,
            num_images=count,
            seed=self.request.seed,
        )
        thetas = torch.linspace(0, strength, count).tolist()
        tiles = [
            Tile(each, f"{t:.2f} to {to!r}") for t, each in zip(thetas, edited.images, strict=True)
        ]
        return in_rows([self._original(image), *tiles], 9)

    def reconstructions(self, image: Image.Image, components: Sequence[int]) -> Rows:
        """The image from some components of z_i, with its own x_T and with a random one."""
        from pipelines.artifacts import PcaBasisFile
        from pipelines.embeddings.components import load_basis

        project = self.models.project
        assert project is not None
        stored = project.find([*project.model_stages, "pca"]).load(project.graph["pca"])
        assert isinstance(stored, PcaBasisFile)
        counts = sorted({min(count, stored.width) for count in components})
        latent, basis = self.pipeline.encode(image), load_basis(stored)
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
        kept = manipulate.without(image, mask)
        painted = self.pipeline.inpaint(
            image, mask, caption, num_images=count, seed=self.request.seed
        )
        label = caption or "painted"
        tiles = [Tile(each, f"{label}, no. {n + 1}") for n, each in enumerate(painted.images)]
        return in_rows([self._original(image), self._original(kept, "kept"), *tiles])

    def importance(self, caption: str, image: Image.Image | None, *, count: int) -> Rows:
        """A row for each condition of the decoder; images in a column share their noise."""
        self.pipeline.warn_if_cut([caption])
        captions = [caption] * count
        true_embeds = self.pipeline.image_embeds([image]).expand(count, -1) if image else None
        made = manipulate.importance_of_the_prior(
            self.cascade,
            self.pipeline.tokenize(captions),
            self.pipeline.text_embeds(captions),
            true_embeds,
            generator=self.generators(count),
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
        self.pipeline.warn_if_cut(classes)
        clip, class_embeds = self.pipeline.image_tower, self.pipeline.text_embeds(classes)
        probabilities, pixels = manipulate.typographic_attack(
            self.cascade,
            self.pipeline.encode(image),
            class_embeds,
            logit_scale=clip.logit_scale,
            count=count,
            eta=eta,
            generator=self.generators(count),
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
        out = self.request.out
        draw_grid(rows).save(out)
        print(f"Wrote {out}.")
        self.track([out])

    def track(self, files: Sequence[Path]) -> None:
        """Log images to the project's tracking server, if there is a project."""
        project = self.models.project
        if project is None:
            log.info("not tracked, because a folder of models has no tracking server")
            return
        from pipelines.tracking.image import log_images

        log_images(
            files,
            project.store,
            project.config.run.tracking,
            name=self.request.command,
            params=self.request.params,
            warn=lambda message: print(message, file=sys.stderr),
        )

    def _noise_like(self, latent: Latent) -> Tensor:
        """A random x_T."""
        shape = tuple(latent.noise.shape)
        return randn(shape, generator=self.generators(1), device=self.cascade.device)

    def _original(self, image: Image.Image, label: str = "original") -> Tile:
        """The image at the size of the cascade's images."""
        return Tile(manipulate.fit_image(image, self.size), label)

    def _enlarge(self, pixels: Tensor) -> list[Image.Image]:
        """Images of the decoder's size (B, 3, S, S) after the upsamplers."""
        return to_images(manipulate.enlarge(self.cascade, pixels, seed=self.request.seed))

    def _tiles(self, pixels: Tensor, labels: Sequence[str]) -> list[Tile]:
        """Images of the decoder's size (B, 3, S, S), enlarged and each with a label."""
        return [Tile(*pair) for pair in zip(self._enlarge(pixels), labels, strict=True)]


def _likely(classes: Sequence[str], probabilities: Tensor) -> str:
    """The most probable classes, one per line."""
    most = probabilities.topk(min(LABEL_CLASSES, len(classes)))
    pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
    return "\n".join(f"{share:.0%} {classes[index]}" for index, share in pairs)
