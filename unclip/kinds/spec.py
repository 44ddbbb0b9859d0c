"""What the project knows of one kind of model, in one object."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, S image size

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
    """One kind of model: how it is built, trained, sampled from and shown.

    Every network keeps its config as `.config`. By role, the network and its config also have:

    - prior: config.embed_dim and unit_norm. A diffusion prior also has config.schedule and
      train_timesteps, and `standardise` and `to_image_space` between image embeddings and x_0.
    - decoder: config.image_size, embed_dim, unit_norm, schedule, train_timesteps and
      learned_variance.
    - upsampler: config.image_size, low_res_size, schedule and train_timesteps; `condition`
      enlarges (B, 3, s, s) to (B, 3, S, S), and `to_diffused` and `to_pixels` go between pixels
      and x_0, given the enlarged image.

    `unit_norm` says whether the image embeddings have norm 1, or the norm that CLIP gave them.
    """

    role: Role
    kind: str  # the name in a configuration; unique within the role
    config: type[Config]
    network: Callable[[Any], nn.Module]  # from the config to the untrained model
    loss: Callable[[Any, Batch, torch.Generator], Tensor]  # (model, batch, generator) -> scalar
    batch_fields: tuple[str, ...]  # of a `Batch`, all that loss and preview read
    preview: Callable[[Any, Batch, torch.Generator], Tensor]  # images (N, 3, S, S) in [-1, 1]
    # The function that a sampler calls, as those in `unclip.denoising.denoisers` make it:
    # - prior: (model, tokens, text_embeds, *, guidance_scale) -> Denoise
    # - decoder: (model, image_embeds, tokens, *, guidance_scale, dynamic_threshold)
    #   -> DenoiseWithVariance
    # - upsampler: (model, enlarged) -> Denoise
    denoiser: Callable[..., Any] | None = None
    # For a prior without denoiser: (model, tokens, text_embeds, *, guidance_scale, temperature,
    # generator) -> image embeddings (B, E).
    sample: Callable[..., Tensor] | None = None
    presets: Mapping[str, Callable[[], Config]] = field(default_factory=dict)  # by preset's name

    def __post_init__(self) -> None:
        """Refuse a description that the cascade could not sample from."""
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
        """The name of this kind in saved files: of the config's type, or "module:NAME"."""
        return getattr(self.config, "model_kind", self.config.__name__)
