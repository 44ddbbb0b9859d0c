"""The latent of an image, and paths through the latent space (section 3 of the paper)."""

# B images, N points on a path, D vector width, E width of the CLIP embeddings
# S decoder's image size, z_i image embedding

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from unclip.config import ConfigError
from unclip.diffusion import schedule_of
from unclip.embeddings.pca import PcaBasis
from unclip.generation import Cascade
from unclip.images import to_rgb
from unclip.samplers import Generators, ddim_inversion
from unclip.validation import check_rows, check_shape

PARALLEL = 1e-4  # sine of the angle below which a straight line replaces the great circle
ONE = "take one row at a time, with x[:1]"


@dataclass(frozen=True)
class Latent:
    """The bipartite latent of an image: its CLIP embedding, and the noise that encodes the rest."""

    image_embeds: Tensor  # z_i, (B, E), with the norm that the decoder expects
    noise: Tensor  # x_T, (B, 3, S, S)


def to_pixels(cascade: Cascade, images: Sequence[Image.Image]) -> Tensor:
    """Centre-crop images to squares at the decoder's size; (B, 3, S, S) in [-1, 1]."""
    size = cascade.decoder.config.image_size
    pixels = torch.stack([_square(image, size) for image in images])
    return pixels.to(cascade.device)


def encode(cascade: Cascade, pixels: Tensor, image_embeds: Tensor) -> Latent:
    """Encode images: x_T is found by DDIM inversion of the decoder, conditioned on z_i alone.

    pixels: (B, 3, S, S) in [-1, 1], S the decoder's size; image_embeds: (B, E) of the same images.
    """
    size = cascade.decoder.config.image_size
    check_shape("pixels", pixels, ("B", 3, size, size), "resize them with `to_pixels`")
    check_rows(pixels=pixels, image_embeds=image_embeds)
    sampling = cascade.sampling
    with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16, sampling.bf16):
        noise = ddim_inversion(
            cascade.decoder_denoiser(image_embeds, None),
            pixels,
            schedule=schedule_of(cascade.decoder.config, pixels.device),
            num_inference_steps=sampling.decoder.num_inference_steps,
        )
    return Latent(image_embeds, noise)


def decode(
    cascade: Cascade,
    latent: Latent,
    *,
    eta: float = 0.0,
    generator: Generators | None = None,
) -> Tensor:
    """Decode a latent to images (B, 3, S, S) in [-1, 1]; eta = 0 reproduces the encoded images.

    Always samples with DDIM, which `encode` inverts. With eta above 0 the steps draw noise, so a
    generator is required.
    """
    if eta > 0 and generator is None:
        raise ConfigError(f"eta={eta} adds noise; give a generator to draw it from, or eta=0")
    settings = replace(cascade.sampling.decoder, sampler="ddim")
    by_ddim = replace(cascade, sampling=replace(cascade.sampling, decoder=settings, eta=eta))
    return by_ddim.decode(latent.image_embeds, None, generator=generator, noise=latent.noise)


def enlarge(cascade: Cascade, pixels: Tensor, *, seed: int = 0) -> Tensor:
    """Pass images (B, 3, S, S) through the upsamplers, if any, all with the noise of `seed`.

    Images are upsampled one at a time, because a batch at full size may not fit on a GPU.
    """
    large = []
    for image in pixels.split(1):  # type: ignore[no-untyped-call]
        generator = torch.Generator().manual_seed(seed)
        large.append((image, *cascade.upsample(image, generator=generator))[-1])
    return torch.cat(large)


def variations(
    cascade: Cascade, latent: Latent, *, count: int, eta: float, generator: Generators
) -> Tensor:
    """Variations of an image that share its CLIP embedding (section 3.1, figure 3).

    latent: of one image. The larger eta, the more the variations differ in everything that the
    embedding does not determine. Returns (count, 3, S, S).
    """
    return decode(cascade, _repeat(latent, count), eta=eta, generator=generator)


def interpolate(
    cascade: Cascade,
    start: Latent,
    end: Latent,
    *,
    weights: Tensor,
    noise: Tensor | None = None,
) -> Tensor:
    """Interpolate spherically between two images (section 3.2, figure 4); (N, 3, S, S).

    start, end: of one image each; weights: (N,) in [0, 1]. x_T is interpolated too, so weights 0
    and 1 reconstruct the images. noise: (1, 3, S, S), if given, is the x_T of all images instead.
    """
    weights = weights.to(start.noise.device)
    image_embeds = slerp(start.image_embeds, end.image_embeds, weights)  # (N, E)
    if noise is None:
        flat = slerp(start.noise.flatten(1), end.noise.flatten(1), weights)
        noise = flat.view(len(weights), *start.noise.shape[1:])
    return decode(cascade, Latent(image_embeds, noise.expand(len(weights), -1, -1, -1)))


def text_diff(
    cascade: Cascade,
    latent: Latent,
    text_embeds: Tensor,
    *,
    from_text_embeds: Tensor | None = None,
    thetas: Tensor,
) -> Tensor:
    """Rotate an image's embedding towards a caption (section 3.3, figure 5); (N, 3, S, S).

    latent: of one image; text_embeds: (1, E) of the new caption; from_text_embeds: (1, E) of a
    caption of the image itself, subtracted if given; thetas: (N,) in [0, 1], the interpolation
    weights, for which the paper uses at most 0.25 to 0.5. x_T does not change.
    """
    if from_text_embeds is not None:
        text_embeds = text_embeds - from_text_embeds
        if not text_embeds.any():
            raise ConfigError(
                "text_embeds and from_text_embeds are equal, so no direction leads from one to the "
                "other; give two different captions, or no from_text_embeds"
            )
    towards = as_long_as(latent.image_embeds, text_embeds)
    image_embeds = slerp(latent.image_embeds, towards, thetas.to(text_embeds.device))
    return decode(cascade, Latent(image_embeds, _repeat(latent, len(thetas)).noise))


def pca_reconstruct(
    cascade: Cascade, latent: Latent, basis: PcaBasis, *, components: Sequence[int]
) -> Tensor:
    """Reconstruct an image from the first components of z_i (section 4, figure 7); (N, 3, S, S).

    latent: of one image; components: N counts of components to keep; counts above E keep all.
    """
    width = latent.image_embeds.shape[-1]
    basis = basis.to(latent.image_embeds.device)
    unit = F.normalize(latent.image_embeds, dim=-1)
    known = [basis.truncate(unit, components=min(n, width)) for n in components]
    image_embeds = as_long_as(latent.image_embeds, torch.cat(known))  # (N, E)
    return decode(cascade, Latent(image_embeds, _repeat(latent, len(components)).noise))


def slerp(start: Tensor, end: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation between two vectors (1, D) at weights (N,); (N, D).

    The angle to `start` is proportional to the weight; weights 0 and 1 give the two vectors. If
    both vectors have the same norm, so do the results.
    """
    check_shape("the start", start, (1, "D"), ONE)
    check_shape("the end", end, tuple(start.shape), "take both from the same CLIP or decoder")
    weight = weights.to(start.dtype)[:, None]  # (N, 1)
    cosine = F.cosine_similarity(start, end, dim=-1).clamp(-1, 1)[:, None]  # (1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    straight = sine < PARALLEL
    safe = torch.where(straight, torch.ones_like(sine), sine)
    to_start = torch.where(straight, 1 - weight, ((1 - weight) * angle).sin() / safe)
    to_end = torch.where(straight, weight, (weight * angle).sin() / safe)
    return to_start * start + to_end * end


def as_long_as(lengths: Tensor, directions: Tensor) -> Tensor:
    """`directions` (N, E), rescaled to the norms of the rows of `lengths`, (N, E) or (1, E)."""
    norms: Tensor = lengths.norm(dim=-1, keepdim=True)
    return F.normalize(directions, dim=-1) * norms


def _repeat(latent: Latent, count: int) -> Latent:
    """The latent of one image, repeated `count` times."""
    check_shape("latent.image_embeds", latent.image_embeds, (1, "E"), ONE)
    check_rows(image_embeds=latent.image_embeds, noise=latent.noise)
    return Latent(latent.image_embeds.expand(count, -1), latent.noise.expand(count, -1, -1, -1))


def _square(image: Image.Image, size: int) -> Tensor:
    """The central square, resized as the training data; (3, size, size) in [-1, 1]."""
    smaller = min(image.size) > size
    method = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    return to_tensor(ImageOps.fit(to_rgb(image), (size, size), method=method))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) in [-1, 1]."""
    array = torch.from_numpy(np.array(image))  # (H, W, 3) uint8
    return rearrange(array, "h w c -> c h w").float() / 127.5 - 1
