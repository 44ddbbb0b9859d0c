"""Karlo's decoder: GLIDE's U-Net, conditioned on CLIP's image and text embeddings."""

# B batch, S image size, L tokens of the captions, E width of CLIP's embeddings and hidden states
# I extra image tokens, W width of the context, D width of the U-Net's conditioning vector

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.diffusion import check_schedule
from unclip.models.decoder import DecoderCondition
from unclip.models.karlo.prior import check_clip_widths
from unclip.models.karlo.text import ClipText, ClipTextConfig
from unclip.models.unet import UNet, UNetConfig
from unclip.validation import check_rate


@dataclass(frozen=True, kw_only=True)
class KarloDecoderConfig(Config):
    """A U-Net that predicts ε, and the variance as a fraction between its bounds."""

    tag: ClassVar[str] = "karlo_decoder"

    prediction: ClassVar[str] = "epsilon"
    learned_variance: ClassVar[bool] = True
    unit_norm: ClassVar[bool] = False  # it expects image embeddings with CLIP's own norm

    image_size: int
    embed_dim: int
    image_tokens: int  # extra context tokens from the image embedding
    context_width: int
    unet: UNetConfig
    text_encoder: ClipTextConfig
    schedule: str
    train_timesteps: int
    image_dropout: float
    text_dropout: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        self.unet.check_image_size(self.image_size)
        check_schedule(self.schedule, self.train_timesteps)
        check_rate("karlo_decoder.image_dropout", self.image_dropout)
        check_rate("karlo_decoder.text_dropout", self.text_dropout)
        check_clip_widths("karlo_decoder", self.embed_dim, self.text_encoder)
        if self.image_tokens < 1:
            raise ConfigError(f"karlo_decoder.image_tokens={self.image_tokens} must be at least 1")


class KarloDecoder(nn.Module):
    """A U-Net conditioned on CLIP's image embedding and on the caption.

    CLIP's image and text embeddings are projected and added to the timestep embedding. The context
    consists of image tokens, projected from the image embedding, and the encoded caption.
    """

    def __init__(self, config: KarloDecoderConfig) -> None:
        super().__init__()
        self.config = config
        condition_width = config.unet.condition_width
        self.text_encoder = ClipText(config.text_encoder)
        self.null_image_embeds = nn.Parameter(torch.zeros(config.embed_dim))
        self.from_text_embeds = nn.Linear(config.embed_dim, condition_width)
        self.from_image_embeds = nn.Linear(config.embed_dim, condition_width)
        self.to_image_tokens = nn.Linear(
            config.embed_dim, config.image_tokens * config.context_width
        )
        self.from_hidden = nn.Linear(config.embed_dim, config.context_width)
        self.norm_hidden = nn.LayerNorm(config.context_width)
        self.unet = UNet(
            config.unet,
            image_size=config.image_size,
            in_channels=3,
            out_channels=6,
            context_width=config.context_width,
        )

    def condition(
        self, image_embeds: Tensor, tokens: Tensor, *, drop_image: Tensor, drop_text: Tensor
    ) -> DecoderCondition:
        """Encode the conditions.

        image_embeds: (B, E), not normalised; tokens: (B, L) int64; drop_*: (B,) bool, True where
        the null embedding or the empty caption replaces the condition.
        """
        text = self.text_encoder(self.text_encoder.drop(tokens, drop_text))
        z_i = torch.where(drop_image[:, None], self.null_image_embeds, image_embeds)  # (B, E)
        image_tokens = rearrange(
            self.to_image_tokens(z_i), "b (w i) -> b i w", i=self.config.image_tokens
        )
        caption = self.norm_hidden(self.from_hidden(text.hidden))  # (B, L, W)
        return DecoderCondition(
            embedding=self.from_image_embeds(z_i) + self.from_text_embeds(text.text_embeds),
            context=torch.cat([image_tokens, caption], dim=1),
            visible=F.pad(text.visible, (self.config.image_tokens, 0), value=True),
        )

    def precompute(self, condition: DecoderCondition) -> DecoderCondition:
        """The condition with keys and values of its context, to be reused in all sampling steps."""
        return condition._replace(projected=self.unet.project_context(condition.context))

    def forward(self, x: Tensor, timesteps: Tensor, condition: DecoderCondition) -> Tensor:
        """ε and variance output (B, 6, S, S) for x: (B, 3, S, S) at timesteps: (B,) int64.

        The variance output interpolates between the smallest (-1) and largest (1) log variance.
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
