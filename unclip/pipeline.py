"""A cascade and its CLIP as one object, and as a folder on disk.

The folder has a `<model name>.safetensors` per model, written by `save_model`; `clip/`, written by
`FrozenClip.save`; and `sampling.json` with the sampling settings, whose "upsamplers" give the
upsamplers' names and order.
"""

# B batch, L tokens of the captions, E width of the CLIP embeddings

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.checkpoint import (
    CheckpointError,
    check_file,
    config_from_json,
    load_model,
    save_model,
)
from unclip.clip.frozen import FrozenClip, Images
from unclip.clip.inputs import shortened
from unclip.config import ConfigError
from unclip.generation import Cascade, Generated, SamplingConfig
from unclip.models import KarloDecoder, KarloPrior
from unclip.samplers import Generators

log = logging.getLogger(__name__)

CLIP, SAMPLING = "clip", "sampling.json"


def file_of(model: str) -> str:
    """The file name of the model with this name."""
    return f"{model}.safetensors"


@dataclass(frozen=True)
class UnclipPipeline:
    """A cascade and the CLIP that it was trained with."""

    cascade: Cascade
    clip: FrozenClip | None  # None: images cannot be encoded; only Karlo can encode captions

    def __post_init__(self) -> None:
        """Refuse a CLIP whose width differs from the decoder's."""
        width = self.cascade.decoder.config.embed_dim
        if self.clip is not None and self.clip.width != width:
            raise ConfigError(
                f"clip {self.clip.name} makes embeddings of width {self.clip.width}, but the "
                f"decoder expects {width}; take both from the same training"
            )

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "UnclipPipeline":
        """Load a folder that `save` wrote; raises like `check_folder`, before it loads weights."""
        folder, device = Path(folder), torch.device(device)
        sampling = check_folder(folder)
        models: dict[str, Any] = {
            name: load_model(folder / file_of(name), device=device)
            for name in models_in(folder, sampling)
        }
        share_text_tower(models.get("prior"), models["decoder"])
        cascade = Cascade(
            prior=models.get("prior"),
            decoder=models["decoder"],
            upsamplers={name: models[name] for name in sampling.upsamplers},
            sampling=sampling,
        )
        log.info("loaded %s from %s", ", ".join(models), folder)
        has_clip = (folder / CLIP).is_dir()
        return cls(cascade, FrozenClip.load(folder / CLIP, device=device) if has_clip else None)

    def save(self, folder: Path | str) -> None:
        """Write the folder.

        The write is not atomic: where that matters, write to a temporary name and rename.
        """
        folder, sampling = Path(folder), self.cascade.sampling
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in self.cascade.models.items():
            save_model(folder / file_of(name), model)
        if self.clip is not None:
            self.clip.save(folder / CLIP)
        content = asdict(sampling)
        content["upsamplers"] = {
            name: content["upsamplers"][name] for name in self.cascade.upsamplers
        }
        (folder / SAMPLING).write_text(json.dumps(content, indent=2) + "\n")

    @cached_property
    def _tokenizer(self) -> open_clip.SimpleTokenizer:
        length = self.cascade.decoder.config.text_encoder.context_length
        return open_clip.SimpleTokenizer(context_length=length)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Tokenize captions for the models' own text encoders; (B, L) int64 padded with 0."""
        tokens: Tensor = self._tokenizer([shortened(caption) for caption in captions])
        return tokens.to(self.cascade.device)

    @torch.no_grad()
    def text_embeds(self, captions: Sequence[str]) -> Tensor:
        """CLIP embeddings of captions; (B, E) unit-norm.

        Without a CLIP, Karlo's text tower is used; other models raise `ConfigError`.
        """
        if self.clip is not None:
            return self.clip.encode_texts(captions)
        if not isinstance(self.cascade.decoder, KarloDecoder):
            raise ConfigError(
                f"these models came without {CLIP}/, which encodes captions; add that folder"
            )
        encoded = self.cascade.decoder.text_encoder(self.tokenize(captions))
        return F.normalize(encoded.text_embeds, dim=-1)

    def image_embeds(self, images: Images) -> Tensor:
        """CLIP embeddings of images, with the norm that the decoder expects; (B, E)."""
        image_embeds, norms = self.image_tower.encode_images_and_norms(images)
        if self.cascade.decoder.config.unit_norm:
            return image_embeds
        return image_embeds * norms[:, None]

    @property
    def image_tower(self) -> FrozenClip:
        """The CLIP, to encode images; raises `ConfigError` if there is none."""
        if self.clip is None:
            raise ConfigError(
                "these models came without CLIP's image tower, so they cannot encode images; "
                "import the folder of the image variation pipeline too"
            )
        return self.clip

    def generate(self, captions: Sequence[str], *, generator: Generators) -> Generated:
        """Generate an image for each caption, at each size; see `Generated` for the shapes."""
        return self.cascade.generate(
            self.tokenize(captions), self.text_embeds(captions), generator=generator
        )

    def vary(self, images: Images, *, generator: Generators) -> Generated:
        """Generate a variation of each image, decoded from its embedding alone; as `generate`."""
        image_embeds = self.image_embeds(images)
        small = self.cascade.decode(image_embeds, None, generator=generator)
        larger = self.cascade.upsample(small, generator=generator)
        return Generated(image_embeds, (small, *larger))


def check_folder(folder: Path) -> SamplingConfig:
    """Check that `UnclipPipeline.load` can load the folder; returns its sampling settings.

    Reads no weights. Raises `ConfigError` if a file is missing or the sampling settings are wrong,
    and `CheckpointError` if a file is incomplete or its tensors do not fit its config.
    """
    if not (folder / SAMPLING).is_file():
        raise _not_a_pipeline(folder, [SAMPLING])
    sampling = read_sampling(folder / SAMPLING)
    wanted = map(file_of, ("decoder", *sampling.upsamplers))
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise _not_a_pipeline(folder, missing)
    for name in models_in(folder, sampling):
        with (folder / file_of(name)).open("rb") as file:
            check_file(file, where=str(folder / file_of(name)))
    return sampling


def _not_a_pipeline(folder: Path, missing: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{folder} is not a folder of models: {', '.join(missing)} missing; give one that `unclip "
        "import` or `UnclipPipeline.save` wrote"
    )


def read_sampling(file: Path) -> SamplingConfig:
    """Read the sampling settings, which users may edit; raises `ConfigError` if they are wrong."""
    try:
        content = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is not a JSON object: {error}; correct it") from error
    flat = sorted(name for name in content if name.endswith(("_sampler", "_steps")))
    if flat:
        raise ConfigError(
            f"{file} has the flat form of earlier versions ({', '.join(flat)}); write sections "
            'instead, such as "decoder": {"sampler": "ddim", "num_inference_steps": 25, '
            '"guidance_scale": 2.0, "dynamic_threshold": null}, or save or import the models again'
        )
    try:
        return config_from_json(SamplingConfig, content, where=str(file))
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def models_in(folder: Path, sampling: SamplingConfig) -> list[str]:
    """The names of the models: the prior if its file exists, the decoder, the upsamplers."""
    prior = ["prior"] if (folder / file_of("prior")).is_file() else []
    return [*prior, "decoder", *sampling.upsamplers]


def share_text_tower(prior: nn.Module | None, decoder: nn.Module) -> None:
    """Let Karlo's prior share the decoder's text tower if the two are equal, to save memory."""
    if not isinstance(prior, KarloPrior) or not isinstance(decoder, KarloDecoder):
        return
    if first_difference(prior.text_encoder, decoder.text_encoder) is None:
        prior.text_encoder = decoder.text_encoder


def first_difference(one: nn.Module, other: nn.Module) -> str | None:
    """The name of the first tensor in which two models differ; None if they are equal."""
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
