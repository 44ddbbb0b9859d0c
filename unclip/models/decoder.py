"""The decoder: from a CLIP image embedding and a caption to a small image."""

# B batch, S image size, L tokens of the captions, W text encoder width
# E width of the CLIP embeddings, I extra image tokens, D width of the U-Net's conditioning vector

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from unclip.config import Config, ConfigError
from unclip.diffusion import check_prediction, check_schedule
from unclip.models.text_encoder import TextEncoder, TextEncoderConfig
from unclip.models.unet import UNet, UNetConfig
from unclip.validation import check_embeds, check_rate, check_rows


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """GLIDE's text-conditional U-Net with the CLIP embedding added (section 2.1 of the paper)."""

    tag: ClassVar[str] = "decoder"

    unit_norm: ClassVar[bool] = True  # it expects unit-norm image embeddings

    image_size: int
    embed_dim: int
    image_tokens: int  # extra context tokens from the image embedding; 4 in the paper
    unet: UNetConfig
    text_encoder: TextEncoderConfig
    schedule: str
    train_timesteps: int
    prediction: str  # "epsilon", "v" or "x_0"
    learned_variance: bool  # three more output channels predict the variance
    min_snr_gamma: float | None  # cap on the SNR in min-SNR loss weights; None: no weighting
    image_dropout: float
    text_dropout: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        self.unet.check_image_size(self.image_size)
        check_schedule(self.schedule, self.train_timesteps)
        check_prediction(self.prediction)
        check_rate("decoder.image_dropout", self.image_dropout)
        check_rate("decoder.text_dropout", self.text_dropout)
        if self.image_tokens < 1:
            raise ConfigError(f"decoder.image_tokens={self.image_tokens} must be at least 1")


class DecoderCondition(NamedTuple):
    """The U-Net's conditions, computed once for all sampling steps."""

    embedding: Tensor  # (B, D)
    context: Tensor  # (B, L + I, W)
    visible: Tensor  # (B, L + I) bool
    projected: Sequence[Tensor | None] = ()  # keys and values of the context by block


class Decoder(nn.Module):
    """A U-Net conditioned on the CLIP image embedding and on the caption.

    The image embedding is projected and added to the timestep embedding, and projected to extra
    context tokens that follow the encoded caption. As in GLIDE, the pooled encoding of the caption
    is also added to the timestep embedding.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_encoder.width
        condition_width = config.unet.condition_width
        self.text_encoder = TextEncoder(config.text_encoder)
        self.null_image_embeds = nn.Parameter(torch.randn(config.embed_dim))
        self.to_embedding = nn.Linear(config.embed_dim, condition_width)
        self.to_image_tokens = nn.Linear(config.embed_dim, config.image_tokens * width)
        self.from_caption = nn.Linear(width, condition_width)
        self.unet = UNet(
            config.unet,
            image_size=config.image_size,
            in_channels=3,
            out_channels=6 if config.learned_variance else 3,
            context_width=width,
        )

    def condition(
        self, image_embeds: Tensor, tokens: Tensor, *, drop_image: Tensor, drop_text: Tensor
    ) -> DecoderCondition:
        """Encode the conditions.

        image_embeds: (B, E) unit-norm; tokens: (B, L) int64; drop_*: (B,) bool, True where the
        learned null replaces the condition.
        """
        check_embeds("image_embeds", image_embeds, self.config.embed_dim)
        check_rows(tokens=tokens, image_embeds=image_embeds)
        text = self.text_encoder.drop(self.text_encoder(tokens), drop_text)
        # Unit-norm embeddings have small components: scale them to unit variance.
        z_i = image_embeds * self.config.embed_dim**0.5
        z_i = torch.where(drop_image[:, None], self.null_image_embeds, z_i)  # (B, E)
        image_tokens = rearrange(
            self.to_image_tokens(z_i), "b (i w) -> b i w", i=self.config.image_tokens
        )
        seen = text.visible.to(text.hidden.dtype)[:, :, None]  # (B, L, 1)
        pooled = (text.hidden * seen).sum(1) / seen.sum(1)  # (B, W)
        return DecoderCondition(
            embedding=self.to_embedding(z_i) + self.from_caption(pooled),
            context=torch.cat([text.hidden, image_tokens], dim=1),
            visible=nn.functional.pad(text.visible, (0, self.config.image_tokens), value=True),
        )

    def precompute(self, condition: DecoderCondition) -> DecoderCondition:
        """The condition with keys and values of its context, to be reused in all sampling steps."""
        return condition._replace(projected=self.unet.project_context(condition.context))

    def forward(self, x: Tensor, timesteps: Tensor, condition: DecoderCondition) -> Tensor:
        """The prediction for x: (B, 3, S, S) at timesteps: (B,) int64; (B, 3, S, S).

        With a learned variance (B, 6, S, S): the last three channels interpolate between the
        smallest (-1) and the largest (1) log variance.
        """
        out: Tensor = self.unet(
            x,
            timesteps,
            embedding=condition.embedding,
            context=condition.context,
            projected=condition.projected,
            visible=condition.visible,
        )
        return out
