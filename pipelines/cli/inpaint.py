"""`unclip inpaint`: paint the white part of a mask anew, and keep the rest."""

import argparse
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from pipelines.cli.images import read_mask, read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import Studio, check_words, open_studio
from pipelines.evaluation.grids import Tile, in_rows

if TYPE_CHECKING:
    from torch import Tensor


def run(arguments: argparse.Namespace) -> None:
    """Write the original, what is kept of it, and what was painted."""
    check_words("--caption", arguments.caption)
    project = find_project(arguments)
    picture = read_picture(arguments.image, project)
    mask = read_mask(arguments.mask, picture, project)
    studio = open_studio(arguments, project)
    blank = without(picture, mask)
    painted = _paint(studio, picture, mask, blank)
    tiles = [studio.original(picture), studio.original(blank, "kept"), *painted]
    studio.finish(in_rows(tiles))


def without(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with what the mask covers in the mean colour of the rest, or in grey."""
    pixels, covered = np.array(picture), np.asarray(mask) > 0
    kept = pixels[~covered]
    pixels[covered] = kept.mean(0) if len(kept) else 128
    return Image.fromarray(pixels)


def _paint(
    studio: Studio, picture: Image.Image, mask: Image.Image, blank: Image.Image
) -> list[Tile]:
    from pipelines.evaluation.images import to_images
    from unclip.manipulate import inpaint

    count, caption = studio.arguments.count, studio.arguments.caption
    generator = studio.generator()
    tokens: Tensor | None = None
    image_embeds = studio.image_embeds(blank).expand(count, -1)
    if caption is not None:
        tokens, text_embeds = (
            studio.pipeline.tokenize([caption] * count),
            studio.pipeline.text_embeds([caption]),
        )
        image_embeds = studio.cascade.sample_image_embeds(
            tokens, text_embeds.expand(count, -1), generator=generator
        )
    pixels = _tensor(studio.original(picture).image) / 127.5 - 1
    fitted = ImageOps.fit(mask, (studio.size, studio.size), method=Image.Resampling.BOX)
    covered = _tensor(fitted) > 0  # any part of a pixel that is covered is painted
    made = inpaint(
        studio.cascade,
        pixels.expand(count, -1, -1, -1).to(studio.cascade.device),
        covered.expand(count, -1, -1, -1).to(studio.cascade.device),
        image_embeds,
        tokens,
        generator=generator,
    )
    label = caption or "painted"
    return [Tile(image, f"{label}, no. {n + 1}") for n, image in enumerate(to_images(made))]


def _tensor(image: Image.Image) -> "Tensor":
    """(1, C, S, S) in [0, 255]."""
    import torch
    from einops import rearrange

    array = np.asarray(image, np.float32)
    return rearrange(torch.from_numpy(array.reshape(*array.shape[:2], -1)), "h w c -> 1 c h w")
