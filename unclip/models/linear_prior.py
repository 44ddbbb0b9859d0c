"""The linear prior, a baseline: from a CLIP text embedding to a CLIP image embedding."""

# B batch, E width of the CLIP embeddings, z_t text embedding, z_i image embedding

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from unclip.config import Config, ConfigError


@dataclass(frozen=True, kw_only=True)
class LinearPriorConfig(Config):
    """A linear map of the text embedding; it reads no caption and draws no noise."""

    tag: ClassVar[str] = "linear_prior"
    unit_norm: ClassVar[bool] = True  # it predicts unit-norm image embeddings

    embed_dim: int

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if self.embed_dim < 1:
            raise ConfigError(
                f"prior.embed_dim={self.embed_dim} must be at least 1; give the width of the CLIP"
            )


class LinearPrior(nn.Module):
    """z_i ≈ W z_t + b. Before training it is the identity, which takes z_t for z_i."""

    def __init__(self, config: LinearPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.to_image_embeds = nn.Linear(config.embed_dim, config.embed_dim)
        nn.init.eye_(self.to_image_embeds.weight)
        nn.init.zeros_(self.to_image_embeds.bias)

    def forward(self, text_embeds: Tensor) -> Tensor:
        """Predict z_i (B, E), of any norm, from text_embeds: (B, E) unit-norm."""
        predicted: Tensor = self.to_image_embeds(text_embeds)
        return predicted
