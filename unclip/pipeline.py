"""The generator whole: words and pictures in, pictures out. On disk it is a folder.

`prior.safetensors`, `decoder.safetensors`, `upsampler_1.safetensors` and `upsampler_2.safetensors`
are written by `save_model`, `clip/` by `FrozenClip.save`, and `sampling.json` says how to sample.
"""

# B batch, L tokens of the captions, E width of the CLIP embeddings

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.checkpoint import check_file, config_from_json, load_model, save_model
from unclip.clip.frozen import FrozenClip, Images
from unclip.config import ConfigError
from unclip.generation import Cascade, Generated, SamplingConfig
from unclip.models import KarloDecoder, KarloPrior

REQUIRED, OPTIONAL = ("decoder", "upsampler_1"), ("prior", "upsampler_2")
CLIP, SAMPLING = "clip", "sampling.json"


def file_of(model: str) -> str:
    """The name of a model's file."""
    return f"{model}.safetensors"


@dataclass(frozen=True)
class UnclipPipeline:
    """A cascade, and the CLIP that it was trained with."""

    cascade: Cascade
    clip: FrozenClip | None  # None: captions are read, but no pictures

    def __post_init__(self) -> None:
        """Refuse the CLIP of other models."""
        width = self.cascade.decoder.config.embed_dim
        if self.clip is not None and self.clip.width != width:
            raise ConfigError(
                f"clip {self.clip.name} makes embeddings of width {self.clip.width}, but the "
                f"decoder reads {width}; take both from one training"
            )

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "UnclipPipeline":
        """Read what `save` wrote; what `check_folder` finds is told before anything is loaded."""
        folder, device = Path(folder), torch.device(device)
        check_folder(folder)
        models: dict[str, Any] = {
            name: load_model(folder / file_of(name), device=device) for name in models_in(folder)
        }
        share_text_tower(models.get("prior"), models["decoder"])
        cascade = Cascade(
            prior=models.get("prior"),
            decoder=models["decoder"],
            upsampler_1=models["upsampler_1"],
            upsampler_2=models.get("upsampler_2"),
            sampling=read_sampling(folder / SAMPLING),
        )
        has_clip = (folder / CLIP).is_dir()
        return cls(cascade, FrozenClip.load(folder / CLIP, device=device) if has_clip else None)

    def save(self, folder: Path | str) -> None:
        """Write the models; whoever needs the folder to appear whole renames it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in self.cascade.models.items():
            save_model(folder / file_of(name), model)
        if self.clip is not None:
            self.clip.save(folder / CLIP)
        content = asdict(self.cascade.sampling)
        (folder / SAMPLING).write_text(json.dumps(content, indent=2) + "\n")

    @cached_property
    def _tokenizer(self) -> open_clip.SimpleTokenizer:
        length = self.cascade.decoder.config.text_encoder.context_length
        return open_clip.SimpleTokenizer(context_length=length)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to tokens (B, L) int64 of the models' own text encoders, padded with 0."""
        tokens: Tensor = self._tokenizer(list(captions))
        return tokens.to(self.cascade.device)

    @torch.no_grad()
    def text_embeds(self, captions: Sequence[str]) -> Tensor:
        """CLIP's embeddings of captions; (B, E) unit-norm."""
        if self.clip is not None:
            return self.clip.encode_texts(captions)
        if not isinstance(self.cascade.decoder, KarloDecoder):
            raise ConfigError(f"without {CLIP}/ these models have no text embeddings; add it")
        encoded = self.cascade.decoder.text_encoder(self.tokenize(captions))
        return F.normalize(encoded.text_embeds, dim=-1)

    def image_embeds(self, images: Images) -> Tensor:
        """CLIP's embeddings of pictures, as long as the decoder reads them; (B, E)."""
        image_embeds, norms = self.image_tower.encode_images_and_norms(images)
        if self.cascade.decoder.config.unit_norm:
            return image_embeds
        return image_embeds * norms[:, None]

    @property
    def image_tower(self) -> FrozenClip:
        """The CLIP; raises `ConfigError` where it did not come along."""
        if self.clip is None:
            raise ConfigError(
                "these models came without CLIP's image tower, so they cannot read pictures; "
                "import the folder of the image variation pipeline too"
            )
        return self.clip

    def generate(self, captions: Sequence[str], *, generator: torch.Generator) -> Generated:
        """Pictures of captions."""
        return self.cascade.generate(
            self.tokenize(captions), self.text_embeds(captions), generator=generator
        )

    def vary(self, images: Images, *, generator: torch.Generator) -> Generated:
        """Other pictures of what each shows, from fresh noise and without a caption."""
        image_embeds = self.image_embeds(images)
        small = self.cascade.decode(image_embeds, None, generator=generator)
        larger = self.cascade.upsample(small, generator=generator)
        return Generated(image_embeds, (small, *larger))


def check_folder(folder: Path) -> None:
    """Raise `ConfigError` unless the folder has what `UnclipPipeline.load` needs; reads no weights.

    Files that are cut off, or have other tensors than their config, are a `CheckpointError`.
    """
    wanted = [*map(file_of, REQUIRED), SAMPLING]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} is no folder of models: it has no {', '.join(missing)}; give one that "
            "`unclip import` wrote"
        )
    read_sampling(folder / SAMPLING)
    for name in models_in(folder):
        with (folder / file_of(name)).open("rb") as file:
            check_file(file, where=str(folder / file_of(name)))


def read_sampling(file: Path) -> SamplingConfig:
    """How to sample, as people may have edited it; raises `UnclipError` for what cannot work."""
    try:
        content = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} holds no settings in JSON: {error}; mend it") from error
    for name, kind in get_type_hints(SamplingConfig).items():
        value = content.get(name)
        kinds = get_args(kind) or (kind,)
        if name in content and type(value) not in (kinds if float not in kinds else (*kinds, int)):
            wanted = " or ".join(one.__name__ for one in kinds)
            raise ConfigError(f"{file}: {name}={value!r} is not of the type {wanted}")
    return config_from_json(SamplingConfig, content, where=str(file))


def models_in(folder: Path) -> list[str]:
    """The models whose files are there, by name."""
    return [name for name in (*REQUIRED, *OPTIONAL) if (folder / file_of(name)).is_file()]


def share_text_tower(prior: nn.Module | None, decoder: nn.Module) -> None:
    """Let Karlo's prior read by the decoder's text tower, where theirs are the same."""
    if not isinstance(prior, KarloPrior) or not isinstance(decoder, KarloDecoder):
        return
    if first_difference(prior.text_encoder, decoder.text_encoder) is None:
        prior.text_encoder = decoder.text_encoder  # in memory once


def first_difference(one: nn.Module, other: nn.Module) -> str | None:
    """The first weight that two models do not share, by name; None where they are equal."""
    ours, theirs = one.state_dict(), other.state_dict()
    names = ours.keys() | theirs.keys()
    differing = (
        name
        for name in sorted(names)
        if name not in ours
        or name not in theirs
        or ours[name].shape != theirs[name].shape
        or not torch.equal(ours[name], theirs[name])
    )
    return next(differing, None)
