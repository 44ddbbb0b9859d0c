"""Transitions between pairs of held-out images, drawn by the evaluated cascade (section 3.2)."""

# N images of a transition, E width of the CLIP embeddings, S size of the decoder's images

import logging
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from pipelines.artifacts import INTERPOLATION_FILE
from pipelines.evaluation.grids import Tile, draw_grid, whole_enlargement
from pipelines.evaluation.images import decode_png, encode_png
from pipelines.evaluation.model_worker import ModelWorker
from pipelines.evaluation.pipeline import scale_embeds
from pipelines.evaluation.rows import Values
from pipelines.evaluation.samples import HELD_OUT, first_samples
from unclip import manipulate
from unclip.captions import beginning
from unclip.manipulate import Latent
from unclip.output import to_images

log = logging.getLogger(__name__)

PAIRS = 3  # rows at most
IMAGES = 6  # of each transition, with both ends
END = "reconstruction"


def write_interpolation(models: ModelWorker, names: Sequence[str]) -> str:
    """Write `INTERPOLATION_FILE` with a row for each pair of the first held-out samples.

    names: of the sample shards in the worker's folder. Returns the file's name. A row begins and
    ends with the originals; beside them are their reconstructions.
    """
    columns = ("caption", "original", "image_embeds", "image_norm")
    samples = first_samples(models.samples, names, columns, 2 * PAIRS)[HELD_OUT]
    pairs = zip(samples[::2], samples[1::2], strict=False)  # an odd sample is left over
    weights = torch.linspace(0, 1, IMAGES)  # (N,)
    shares = [f"{weight:.0%}" for weight in weights[1:-1].tolist()]
    strip = draw_grid(
        [list(_tiles(models, start, end, weights)) for start, end in pairs],
        side=whole_enlargement(models.cascade.sizes[-1]),
        enlarge=Image.Resampling.NEAREST,
        header=["original", END, *shares, END, "original"],
    )
    models.samples.write_bytes(INTERPOLATION_FILE, encode_png(strip))
    log.debug("Wrote %s", INTERPOLATION_FILE)
    return INTERPOLATION_FILE


def _tiles(models: ModelWorker, start: Values, end: Values, weights: Tensor) -> Iterator[Tile]:
    """The original of `start`, the transition at weights (N,), and the original of `end`."""
    latents = [_latent(models, row) for row in (start, end)]
    pixels = manipulate.interpolate(models.cascade, *latents, weights=weights)  # (N, 3, S, S)
    between = manipulate.enlarge(models.cascade, pixels, seed=models.config.seed)
    yield _original(start)
    yield from map(Tile, to_images(between))
    yield _original(end)


def _original(row: Values) -> Tile:
    return Tile(decode_png(row["original"]), beginning(" ".join(row["caption"].split())))


def _latent(models: ModelWorker, row: Values) -> Latent:
    """(z_i, x_T) of a sample's original, of one row each."""
    norms = models.tensor([row], "image_norm")  # (1,)
    image_embeds = scale_embeds(models.tensor([row], "image_embeds"), norms, models.cascade)
    pixels = manipulate.to_pixels(models.cascade, [decode_png(row["original"])])  # (1, 3, S, S)
    return manipulate.encode(models.cascade, pixels, image_embeds)
