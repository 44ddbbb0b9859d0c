"""`UnclipPipeline`: from captions and images to images, with the interface of diffusers."""

# B images, E width of the CLIP embeddings, S image size

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unclip import manipulate
from unclip.captions import check_caption, check_captions, check_count
from unclip.cascade_with_clip import CascadeWithClip
from unclip.clip.stored import StoredClip
from unclip.config import ConfigError
from unclip.generation import with_overrides
from unclip.output import Images, to_images
from unclip.pretrained import find_folder
from unclip.pretrained.folder import CLIP, load_cascade, save_cascade, seal
from unclip.samplers import Generators, generator_for

BATCH = 8  # images that are drawn together, which bounds the memory


@dataclass(frozen=True)
class UnclipPipeline(CascadeWithClip):
    """A cascade and the CLIP that it was trained with, from images and captions to images.

    All methods that return `Images` take a seed, by default a random one, and sampling settings by
    name (`unclip.generation.overrides`). Image n of a call draws its noise from (seed, n), so it is
    the same, up to rounding, whatever the number of images and the batch. Of a caption with more
    tokens than the models read, the beginning counts, and a warning is logged.
    """

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: torch.device | str = "cpu"
    ) -> "UnclipPipeline":
        """Load packaged models by name, a folder that `save` wrote, or the URL of such a folder.

        Weights are float32, however they are stored. Raises `UnclipError` before it loads weights,
        if there are no such models, or if they are damaged or of another version.
        """
        folder, device = find_folder(name), torch.device(device)
        cascade = load_cascade(folder, device=device)
        has_clip = (folder / CLIP).is_dir()
        return cls(cascade, StoredClip(folder / CLIP, device=device) if has_clip else None)

    def to(self, device: torch.device | str) -> "UnclipPipeline":
        """Move all models to a device, and return this pipeline.

        The models move in place, so pipelines made by `with_settings` move with this one.
        """
        device = torch.device(device)
        for model in self.cascade.models.values():
            model.to(device)
        if self.clip is not None:
            self.clip.to(device)
        return self

    def save(self, folder: Path | str, *, half: bool = False) -> None:
        """Write a folder for `from_pretrained`; half: store the weights as float16.

        The write is not atomic: where that matters, write to a temporary name and rename.
        """
        folder = Path(folder)
        save_cascade(self.cascade, folder, half=half)
        if self.clip is not None:
            self.image_tower.save(folder / CLIP, half=half)
        seal(folder)

    def __call__(
        self,
        captions: str | Sequence[str],
        *,
        num_images: int = 1,
        seed: int | None = None,
        generator: Generators | None = None,
        batch_size: int = BATCH,
        **settings: Any,
    ) -> Images:
        """Draw `num_images` of each caption, in order; all of the first caption come first.

        generator: instead of a seed; one for all images, or one for each. The same number of
        different captions has the same noise, so an image does not depend on the other captions.
        """
        wanted = check_captions(captions)
        check_count(num_images)
        self.warn_if_cut(wanted)
        rows = [(caption, n) for caption in wanted for n in range(num_images)]
        if generator is None:
            seed = _seed(seed)
            generator = [generator_for(seed, n) for _, n in rows]
        pipeline, images = self.with_settings(**settings), []
        for start in range(0, len(rows), batch_size):
            some = slice(start, start + batch_size)
            noise = generator if isinstance(generator, torch.Generator) else generator[some]
            made = pipeline.generate([caption for caption, _ in rows[some]], generator=noise)
            images += to_images(made.pixels[-1])
        return Images(images, seed)

    def vary(
        self,
        image: Image.Image,
        *,
        num_images: int = 1,
        eta: float = 1.0,
        seed: int | None = None,
        **settings: Any,
    ) -> Images:
        """Variations of an image, which share its CLIP embedding (figure 3 of the paper).

        eta: noise of the steps, in [0, 1]; 0 reconstructs the image.
        """
        check_count(num_images)
        pipeline, seed = self.with_settings(**settings), _seed(seed)
        noise = [generator_for(seed, n) for n in range(num_images)]
        pixels = manipulate.variations(
            pipeline.cascade, pipeline.encode(image), count=num_images, eta=eta, generator=noise
        )
        return pipeline.enlarge(pixels, seed)

    def interpolate(
        self,
        start: Image.Image,
        end: Image.Image,
        *,
        num_images: int = 7,
        seed: int | None = None,
        **settings: Any,
    ) -> Images:
        """A transition from one image to another (figure 4); its ends are reconstructions."""
        check_count(num_images)
        pipeline, weights = self.with_settings(**settings), torch.linspace(0, 1, num_images)
        ends = (pipeline.encode(start), pipeline.encode(end))
        pixels = manipulate.interpolate(pipeline.cascade, *ends, weights=weights)
        return pipeline.enlarge(pixels, _seed(seed))

    def edit(
        self,
        image: Image.Image,
        to: str,
        *,
        from_text: str | None = None,
        strength: float = 0.5,
        num_images: int = 1,
        seed: int | None = None,
        **settings: Any,
    ) -> Images:
        """Turn an image towards a caption (figure 5), by a fraction `strength` of the way.

        from_text: a caption of the image as it is. Several images go from 0 to `strength`.
        """
        check_count(num_images)
        captions = [check_caption(each) for each in (to, from_text) if each is not None]
        self.warn_if_cut(captions)
        pipeline = self.with_settings(**settings)
        embeds = [pipeline.text_embeds([caption]) for caption in captions]  # each (1, E)
        pixels = manipulate.text_diff(
            pipeline.cascade,
            pipeline.encode(image),
            embeds[0],
            from_text_embeds=embeds[1] if from_text is not None else None,
            thetas=torch.linspace(strength, 0, num_images).flip(0),
        )
        return pipeline.enlarge(pixels, _seed(seed))

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image,
        caption: str | None = None,
        *,
        num_images: int = 1,
        seed: int | None = None,
        **settings: Any,
    ) -> Images:
        """Paint where the mask is not black; the caption is of the whole image.

        Without a caption, the embedding of the rest of the image takes its place.
        """
        check_count(num_images)
        if caption is not None:
            self.warn_if_cut([check_caption(caption)])
        pipeline, seed = self.with_settings(**settings), _seed(seed)
        noise = [generator_for(seed, n) for n in range(num_images)]
        return Images(to_images(pipeline.paint(image, mask, caption, generators=noise)), seed)

    def with_settings(self, **settings: Any) -> "UnclipPipeline":
        """The same models with other sampling settings, such as `prior_guidance_scale=4.0`."""
        sampling = with_overrides(self.cascade.sampling, **settings)
        return replace(self, cascade=replace(self.cascade, sampling=sampling))

    def enlarge(self, pixels: Tensor, seed: int | None) -> Images:
        """Images of the decoder's size (B, 3, S, S), passed through the upsamplers."""
        seed = _seed(seed)
        return Images(to_images(manipulate.enlarge(self.cascade, pixels, seed=seed)), seed)


def _seed(seed: int | None) -> int:
    """The seed, or a random one; raises `ConfigError` unless it can seed a generator."""
    if seed is None:
        return secrets.randbits(32)
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed!r} is not a whole number from 0 to 2**63 - 1")
    return seed
