"""What the commands that manipulate pictures share: models, latents, and the picture they write."""

# B pictures, S image size, E width of the CLIP embeddings, L context length

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from pipelines.cli.common import Project, target_of
from pipelines.cli.models import check_models, open_models
from pipelines.core.errors import PipelineError
from pipelines.evaluation.grids import Tile, draw_grid

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unclip.clip.frozen import FrozenClip
    from unclip.generation import Cascade
    from unclip.manipulate import Latent
    from unclip.pipeline import UnclipPipeline

MOST_PICTURES = 256  # of one row or grid
NOT_PARAMS = ("module", "debug", "overrides", "out", "store", "config")


@dataclass(frozen=True)
class Studio:
    """Models at work on one command; whatever is heavy is loaded on first use."""

    arguments: argparse.Namespace
    project: Project | None  # None: the models are those of `--models`
    target: Path

    @cached_property
    def pipeline(self) -> "UnclipPipeline":
        """The models with their CLIP."""
        return open_models(self.arguments, self.project)

    @property
    def cascade(self) -> "Cascade":
        """The trained cascade."""
        return self.pipeline.cascade

    @property
    def clip(self) -> "FrozenClip":
        """The CLIP that it was trained with."""
        return self.pipeline.image_tower

    @property
    def size(self) -> int:
        """Side of the pictures that the cascade makes."""
        return self.cascade.sizes[-1]

    def generator(self) -> "torch.Generator":
        """Fresh from `--seed`."""
        import torch

        return torch.Generator(self.cascade.device).manual_seed(self.arguments.seed)

    def image_embeds(self, picture: Image.Image) -> "Tensor":
        """z_i, (1, E)."""
        return self.pipeline.image_embeds([picture])

    def latent(self, picture: Image.Image) -> "Latent":
        """(z_i, x_T) of a picture."""
        from unclip.manipulate import encode, to_pixels

        pixels = to_pixels(self.cascade, [picture])
        return encode(self.cascade, pixels, self.image_embeds(picture))

    def original(self, picture: Image.Image, label: str = "original") -> Tile:
        """The picture as the cascade could at best make it."""
        method = Image.Resampling.LANCZOS
        return Tile(ImageOps.fit(picture, (self.size, self.size), method=method), label)

    def enlarged(self, pixels: "Tensor") -> list[Image.Image]:
        """Pictures of the decoder's size (B, 3, S, S) at the cascade's."""
        from pipelines.evaluation.images import to_images
        from unclip.manipulate import enlarge

        return to_images(enlarge(self.cascade, pixels, seed=self.arguments.seed))

    def tiles(self, pixels: "Tensor", labels: Sequence[str]) -> list[Tile]:
        """The same with a label each."""
        return [Tile(*pair) for pair in zip(self.enlarged(pixels), labels, strict=True)]

    def finish(self, rows: Sequence[Sequence[Tile]]) -> None:
        """Write the grid, track it, and say where it is."""
        from pipelines.tracking.image import log_image

        draw_grid(rows).save(self.target)
        print(f"Wrote {self.target}.")
        if self.project is None:  # nor a tracking server
            return
        log_image(
            self.target,
            self.project.store,
            self.project.config.run.tracking,
            name=self.arguments.module,
            params=params_of(self.arguments),
            warn=lambda message: print(message, file=sys.stderr),
        )


def open_studio(arguments: argparse.Namespace, project: Project | None, *also: str) -> Studio:
    """Check what is asked against what is there. Raises `PipelineError`; loads nothing."""
    target = target_of(arguments)
    count = getattr(arguments, "count", 1)
    if not 1 <= count <= MOST_PICTURES:
        raise PipelineError(f"--count {count} must lie between 1 and {MOST_PICTURES}.")
    if not 0 <= getattr(arguments, "eta", 0) <= 1:
        raise PipelineError(f"--eta {arguments.eta} must lie between 0 and 1.")
    check_models(arguments, project, *also)
    return Studio(arguments, project, target)


def check_words(flag: str, text: str | None) -> None:
    """Raise `PipelineError` for a caption without a word; None is one that was not given."""
    if text is not None and not text.strip():
        raise PipelineError(f"{flag} is empty; give a caption, such as a green apple.")


def params_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the picture follows from, as it was typed."""
    given = {name: v for name, v in vars(arguments).items() if name not in NOT_PARAMS}
    return {"config": arguments.config, **{n: v for n, v in given.items() if v is not None}}
