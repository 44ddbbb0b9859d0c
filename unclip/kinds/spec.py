"""`ModelSpec`: everything that the project needs to know about a model kind."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size
# s low-resolution size, N preview images

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.objectives.batch import Batch

Role = Literal["prior", "decoder", "upsampler"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec:
    """A model kind: how to build it, train it, sample from it and preview it.

    Every network keeps its config as `.config`. Each role also requires:

    - prior: config.embed_dim and unit_norm. A diffusion prior also has config.schedule and
      train_timesteps, and `standardise` and `to_image_space`, which convert image embeddings to x_0
      and back.
    - decoder: config.image_size, embed_dim, unit_norm, schedule, train_timesteps and
      learned_variance.
    - upsampler: config.image_size, low_res_size, schedule and train_timesteps; `condition`
      enlarges (B, 3, s, s) to (B, 3, S, S), and `to_diffused` and `to_pixels` convert pixels to x_0
      and back, given the enlarged image.

    `unit_norm` says whether image embeddings have norm 1 or keep CLIP's own norm.
    """

    role: Role
    kind: str  # the name in a configuration; unique within the role
    config: type[Config]
    network: Callable[[Any], nn.Module]  # from the config to the untrained model
    loss: Callable[[Any, Batch, torch.Generator], Tensor]  # (model, batch, generator) -> scalar
    batch_fields: tuple[str, ...]  # the fields of a `Batch` that loss and preview use
    preview: Callable[[Any, Batch, torch.Generator], Tensor]  # images (N, 3, S, S) in [-1, 1]
    # Makes the function that a sampler calls; see `unclip.denoising.denoisers`:
    # - prior: (model, tokens, text_embeds, *, guidance_scale) -> Denoise
    # - decoder: (model, image_embeds, tokens, *, guidance_scale, dynamic_threshold)
    #   -> DenoiseWithVariance
    # - upsampler: (model, enlarged) -> Denoise
    denoiser: Callable[..., Any] | None = None
    # Instead of a denoiser, for priors only: (model, tokens, text_embeds, *, guidance_scale,
    # temperature, generator) -> image embeddings (B, E).
    sample: Callable[..., Tensor] | None = None
    presets: Mapping[str, Callable[[], Config]] = field(default_factory=dict)  # by preset name

    def __post_init__(self) -> None:
        """Refuse a spec that a cascade could not sample from."""
        name = f"model kind {self.kind!r}"
        if self.role not in get_args(Role):
            raise ConfigError(
                f"{name}: role={self.role!r} is not one of {', '.join(get_args(Role))}"
            )
        if (self.denoiser is None) == (self.sample is None):
            raise ConfigError(f"{name}: give either denoiser or sample")
        if self.sample is not None and self.role != "prior":
            raise ConfigError(f"{name}: a {self.role} is sampled by its denoiser; give that")

    @property
    def file_name(self) -> str:
        """The name of this kind in saved files: the config's class name, or "module:NAME"."""
        return getattr(self.config, "model_kind", self.config.__name__)
