"""The diffusion prior: from a caption and its CLIP text embedding to a CLIP image embedding."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, D transformer width
# N tokens of a sequence, z_t text embedding, z_i image embedding

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.diffusion import check_schedule
from unclip.models.frozen_text import FrozenTextConfig, make_text_encoder
from unclip.models.layers import TimestepEmbedding
from unclip.models.text_encoder import TextEncoderConfig
from unclip.models.transformer import KeyValueCache, Transformer
from unclip.validation import check_divisible, check_embeds, check_rate, check_rows

OWN_TOKENS = 3  # timestep, noised z_i and query, which are computed anew in each step


@dataclass(frozen=True, kw_only=True)
class DiffusionPriorConfig(Config):
    """A causal transformer that predicts the image embedding x_0 (section 2.2 of the paper)."""

    tag: ClassVar[str] = "diffusion_prior"

    unit_norm: ClassVar[bool] = True  # it predicts unit-norm image embeddings
    x_start_limit: ClassVar[float | None] = None  # no clamp while sampling

    embed_dim: int
    width: int
    depth: int
    heads: int
    text_encoder: TextEncoderConfig | FrozenTextConfig  # trained, or CLIP's frozen one
    schedule: str
    train_timesteps: int
    embedding_scale: float  # multiplies unit-norm embeddings; sqrt(embed_dim) gives unit variance
    text_dropout: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_divisible("prior.width", self.width, self.heads)
        check_divisible("prior.width", self.width, 2)
        check_rate("prior.text_dropout", self.text_dropout)
        check_schedule(self.schedule, self.train_timesteps)
        if self.embedding_scale <= 0:
            raise ConfigError(
                f"prior.embedding_scale={self.embedding_scale} must be positive; "
                f"sqrt(embed_dim) = {self.embed_dim**0.5:.1f} gives unit variance"
            )


class PriorCondition(NamedTuple):
    """An encoded caption and its CLIP embedding, computed once for all sampling steps."""

    hidden: Tensor  # (B, L + 1, D): the caption's tokens and z_t
    visible: Tensor  # (B, L + 1) bool
    caches: Sequence[KeyValueCache] = ()  # keys and values of these tokens, from `precompute`


class SequencePrior(nn.Module):
    """A causal transformer over [caption, z_t, timestep, noised z_i, query] -> z_i at the query.

    Subclasses create the modules below.
    """

    time: TimestepEmbedding
    from_image_embeds: nn.Linear
    query: nn.Parameter
    positions: nn.Parameter
    transformer: Transformer
    to_image_embeds: nn.Linear

    def precompute(self, condition: PriorCondition) -> PriorCondition:
        """The condition with the keys and values of its tokens, to be reused in all sampling steps.

        The caption and z_t do not attend to later tokens, so these are the same in each step. With
        gradients enabled, the condition is returned unchanged.
        """
        if torch.is_grad_enabled():
            return condition
        length = condition.hidden.shape[1]
        caches = [KeyValueCache(length + OWN_TOKENS) for _ in self.transformer.blocks]
        mask = causal_mask(length, condition.visible)
        self.transformer(self._given(condition), mask, caches, keep=1)
        return condition._replace(caches=caches)

    def forward(self, x: Tensor, timesteps: Tensor, condition: PriorCondition) -> Tensor:
        """Predict x_0 (B, E) from x: (B, E), the x_t at timesteps: (B,) int64."""
        query = self.query.expand(len(x), -1)
        own = torch.stack([self.time(timesteps), self.from_image_embeds(x), query], dim=1)
        own = own + self.positions[-OWN_TOKENS:]  # (B, 3, D)
        given = condition.hidden.shape[1]
        for cache in condition.caches:
            cache.rewind(given)
        sequence = own if condition.caches else torch.cat([self._given(condition), own], dim=1)
        mask = causal_mask(
            given + OWN_TOKENS, F.pad(condition.visible, (0, OWN_TOKENS), value=True)
        )
        mask = mask[:, :, -sequence.shape[1] :]
        last = self.transformer(sequence, mask, condition.caches, keep=1)[:, -1]  # (B, D)
        x_start: Tensor = self.to_image_embeds(last)
        return x_start

    def _given(self, condition: PriorCondition) -> Tensor:
        """The condition's tokens plus their position embeddings; (B, L + 1, D)."""
        text = condition.hidden.shape[1] - 1  # captions may be shorter than the context
        z_t = len(self.positions) - OWN_TOKENS - 1
        return condition.hidden + torch.cat([self.positions[:text], self.positions[z_t : z_t + 1]])


def causal_mask(length: int, visible: Tensor) -> Tensor:
    """The mask in which tokens attend to visible tokens up to themselves; (B, 1, N, N) bool."""
    causal = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    return causal & visible[:, None, None, :]


def encode_condition(
    model: Any, tokens: Tensor, text_embeds: Tensor, dropped: Tensor
) -> PriorCondition:
    """The caption and z_t of a prior with a text encoder; see `DiffusionPrior.condition`."""
    width = model.config.embed_dim
    check_embeds("text_embeds", text_embeds, width)
    check_rows(tokens=tokens, text_embeds=text_embeds)
    text = model.text_encoder.drop(model.text_encoder(tokens), dropped)
    z_t = model.from_text_embeds(text_embeds * width**0.5)  # (B, D)
    z_t = torch.where(dropped[:, None], model.null_text_embeds, z_t)
    hidden = torch.cat([model.from_hidden(text.hidden), z_t[:, None]], dim=1)
    return PriorCondition(hidden, F.pad(text.visible, (0, 1), value=True))


class DiffusionPrior(SequencePrior):
    """The diffusion prior of the paper."""

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        self.config = config
        text_width = config.text_encoder.width
        self.text_encoder = make_text_encoder(config.text_encoder)
        self.from_hidden = nn.Linear(text_width, config.width)
        self.from_text_embeds = nn.Linear(config.embed_dim, config.width)
        self.null_text_embeds = nn.Parameter(torch.randn(config.width) * 0.02)
        self.time = TimestepEmbedding(config.width, config.width)
        self.from_image_embeds = nn.Linear(config.embed_dim, config.width)
        self.query = nn.Parameter(torch.randn(config.width) * 0.02)
        tokens = config.text_encoder.context_length + 4
        self.positions = nn.Parameter(torch.randn(tokens, config.width) * 0.02)
        self.transformer = Transformer(width=config.width, depth=config.depth, heads=config.heads)
        self.to_image_embeds = nn.Linear(config.width, config.embed_dim)

    def condition(self, tokens: Tensor, text_embeds: Tensor, dropped: Tensor) -> PriorCondition:
        """Encode the caption and z_t.

        tokens: (B, L) int64; text_embeds: (B, E) unit-norm; dropped: (B,) bool, True where learned
        nulls replace both.
        """
        return encode_condition(self, tokens, text_embeds, dropped)

    def standardise(self, image_embeds: Tensor) -> Tensor:
        """Convert unit-norm image embeddings (B, E) to x_0."""
        return image_embeds * self.config.embedding_scale

    def to_image_space(self, standardised: Tensor) -> Tensor:
        """Convert x_0 (B, E) to unit-norm image embeddings, whatever its norm."""
        return F.normalize(standardised, dim=-1)
