"""The ECLIPSE prior (Patel et al. 2024): a small transformer that predicts z_i in one pass."""

# B batch, L tokens of the captions, E width of the CLIP embeddings, D transformer width
# z_t text embedding, z_i image embedding

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.models.frozen_text import FrozenTextConfig, make_text_encoder
from unclip.models.prior import PriorCondition, causal_mask, encode_condition
from unclip.models.text_encoder import TextEncoderConfig
from unclip.models.transformer import Transformer
from unclip.validation import check_divisible, check_rate

OWN_TOKENS = 3  # z_t, noise and query, which follow the caption


@dataclass(frozen=True, kw_only=True)
class EclipsePriorConfig(Config):
    """A causal transformer that predicts the image embedding in one pass (ECLIPSE, section 3)."""

    tag: ClassVar[str] = "eclipse_prior"
    unit_norm: ClassVar[bool] = True  # it predicts unit-norm image embeddings

    embed_dim: int
    width: int
    depth: int
    heads: int
    text_encoder: TextEncoderConfig | FrozenTextConfig  # trained, or CLIP's frozen one
    contrastive_weight: float  # λ, the weight of the contrastive loss; 0.2 in the paper
    contrastive_temperature: float  # τ: logits of the contrastive loss are cosines / τ
    text_dropout: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_divisible("prior.width", self.width, self.heads)
        check_rate("prior.text_dropout", self.text_dropout)
        if self.contrastive_weight < 0:
            raise ConfigError(
                f"prior.contrastive_weight={self.contrastive_weight} must be at least 0; the "
                "ECLIPSE paper uses 0.2"
            )
        if self.contrastive_temperature <= 0:
            raise ConfigError(
                f"prior.contrastive_temperature={self.contrastive_temperature} must be positive; "
                "give that of the CLIP, such as 0.01"
            )


class EclipsePrior(nn.Module):
    """A causal transformer over [caption, z_t, noise, query] -> z_i at the query."""

    def __init__(self, config: EclipsePriorConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = make_text_encoder(config.text_encoder)
        self.from_hidden = nn.Linear(config.text_encoder.width, config.width)
        self.from_text_embeds = nn.Linear(config.embed_dim, config.width)
        self.null_text_embeds = nn.Parameter(torch.randn(config.width) * 0.02)
        self.from_noise = nn.Linear(config.embed_dim, config.width)
        self.query = nn.Parameter(torch.randn(config.width) * 0.02)
        tokens = config.text_encoder.context_length + OWN_TOKENS
        self.positions = nn.Parameter(torch.randn(tokens, config.width) * 0.02)
        self.transformer = Transformer(width=config.width, depth=config.depth, heads=config.heads)
        self.to_image_embeds = nn.Linear(config.width, config.embed_dim)

    def condition(self, tokens: Tensor, text_embeds: Tensor, dropped: Tensor) -> PriorCondition:
        """Encode the caption and z_t; (B, L + 1, D).

        tokens: (B, L) int64; text_embeds: (B, E) unit-norm; dropped: (B,) bool, True where learned
        nulls replace both.
        """
        return encode_condition(self, tokens, text_embeds, dropped)

    def forward(self, noise: Tensor, condition: PriorCondition) -> Tensor:
        """Predict z_i (B, E), of any norm, from noise: (B, E) standard normal."""
        query = self.query.expand(len(noise), -1)
        own = torch.stack([self.from_noise(noise), query], dim=1)  # (B, 2, D)
        sequence = torch.cat([condition.hidden, own], dim=1)  # (B, L + 3, D)
        text = sequence.shape[1] - OWN_TOKENS  # captions may be shorter than the context
        sequence = sequence + torch.cat([self.positions[:text], self.positions[-OWN_TOKENS:]])
        visible = F.pad(condition.visible, (0, 2), value=True)
        mask = causal_mask(sequence.shape[1], visible)
        last = self.transformer(sequence, mask, keep=1)[:, -1]  # (B, D)
        # The last layer's outputs are of order 1, and the entries of a unit vector of order E^-1/2.
        predicted: Tensor = self.to_image_embeds(last) / self.config.embed_dim**0.5
        return predicted
