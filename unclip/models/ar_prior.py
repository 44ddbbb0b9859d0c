"""The autoregressive prior: predicts a CLIP image embedding as a sequence of codes.

The embedding's coordinates along its first principal components are quantised into buckets, the
codes. A causal transformer predicts them in the order of falling eigenvalue (section 2.2 of the
paper). Its input is [caption, z_t, dot product z_i · z_t, codes]. `calibrate` sets the statistics
of the training data: the basis, the edges of the buckets and the bins of the dot product.
"""

# B batch, L tokens of the captions, E width of the CLIP embeddings, D transformer width
# K components kept, k codes so far, z_t text embedding, z_i image embedding

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.config import Config, ConfigError
from unclip.embeddings.pca import PcaBasis
from unclip.embeddings.quantise import dequantise, quantise, uniform_edges
from unclip.models.frozen_text import FrozenTextConfig, make_text_encoder
from unclip.models.prior import PriorCondition
from unclip.models.text_encoder import TextEncoderConfig
from unclip.models.transformer import KeyValueCache, Transformer
from unclip.precision import without_autocast
from unclip.validation import check_divisible, check_embeds, check_rate, check_rows


@dataclass(frozen=True, kw_only=True)
class ARPriorConfig(Config):
    """A causal transformer over quantised principal components (section 2.2 of the paper)."""

    tag: ClassVar[str] = "autoregressive_prior"
    unit_norm: ClassVar[bool] = True  # it predicts unit-norm image embeddings

    embed_dim: int
    width: int
    depth: int
    heads: int
    text_encoder: TextEncoderConfig | FrozenTextConfig  # trained, or CLIP's frozen one
    dimensions: int  # principal components that are kept, one code for each
    buckets: int  # per component, all of equal width
    bucket_reach: float  # outermost edges, in standard deviations of the component
    dot_bins: int  # of the dot product z_i · z_t; equally frequent in the training data
    text_dropout: float

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_divisible("prior.width", self.width, self.heads)
        check_divisible("prior.dot_bins", self.dot_bins, 2)  # sampling draws from the upper half
        check_rate("prior.text_dropout", self.text_dropout)
        if not 1 <= self.dimensions <= self.embed_dim:
            raise ConfigError(
                f"prior.dimensions={self.dimensions} must lie between 1 and embed_dim="
                f"{self.embed_dim}; the paper keeps 319 of 1024"
            )
        if self.buckets < 2 or self.bucket_reach <= 0:
            raise ConfigError(
                f"prior.buckets={self.buckets} must be at least 2, and bucket_reach="
                f"{self.bucket_reach} positive; the paper has 1024 buckets"
            )

    @property
    def context_length(self) -> int:
        """Length of the longest sequence: caption, z_t, dot product, all codes but the last."""
        return self.text_encoder.context_length + 1 + self.dimensions


class ARPrior(nn.Module):
    """Predicts the code of each component from the caption, z_t and the codes before it."""

    mean: Tensor  # (E,)
    components: Tensor  # (K, E), orthonormal
    edges: Tensor  # (K, buckets + 1)
    dot_edges: Tensor  # (dot_bins - 1,)

    def __init__(self, config: ARPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = make_text_encoder(config.text_encoder)
        self.from_hidden = nn.Linear(config.text_encoder.width, config.width)
        self.from_text_embeds = nn.Linear(config.embed_dim, config.width)
        self.null_text_embeds = nn.Parameter(torch.randn(config.width) * 0.02)
        self.from_dots = nn.Embedding(config.dot_bins, config.width)
        self.null_dot = nn.Parameter(torch.randn(config.width) * 0.02)
        # One table for all components: a code means the same number of standard deviations in each.
        self.from_codes = nn.Embedding(config.buckets, config.width)
        self.positions = nn.Parameter(torch.randn(config.context_length, config.width) * 0.02)
        self.transformer = Transformer(width=config.width, depth=config.depth, heads=config.heads)
        self.to_logits = nn.Linear(config.width, config.buckets)
        for embedding in (self.from_dots, self.from_codes):
            nn.init.normal_(embedding.weight, std=0.02)
        self._register_statistics()

    def _register_statistics(self) -> None:
        """Register placeholders, used until weights are loaded or the prior is calibrated."""
        config = self.config
        # On the meta device, torch.eye would import torch's compiler, which takes a second.
        kept = torch.zeros(config.dimensions, config.embed_dim).fill_diagonal_(1.0)
        scales = torch.full((config.dimensions,), config.embed_dim**-0.5)
        self.register_buffer("mean", torch.zeros(config.embed_dim))
        self.register_buffer("components", kept)
        self.register_buffer("edges", self._edges(scales))
        self.register_buffer("dot_edges", torch.linspace(-1, 1, config.dot_bins + 1)[1:-1].clone())

    @torch.no_grad()
    def calibrate(self, basis: PcaBasis, dot_edges: Tensor) -> None:
        """Set the statistics of the training data.

        basis: of the training embeddings; dot_edges: (dot_bins - 1,), the quantiles of z_i · z_t
        over the training pairs. Raises `ConfigError` if their sizes differ from the config's.
        """
        config, kept = self.config, self.config.dimensions
        if len(basis.mean) != config.embed_dim or len(dot_edges) != config.dot_bins - 1:
            raise ConfigError(
                f"the prior has embed_dim={config.embed_dim} and dot_bins={config.dot_bins}, "
                f"but was given a basis of width {len(basis.mean)} and {len(dot_edges)} edges; "
                f"fit the basis on the same CLIP's embeddings and give {config.dot_bins - 1} edges"
            )
        self.mean.copy_(basis.mean)
        self.components.copy_(basis.components[:kept])
        self.edges.copy_(self._edges(basis.eigenvalues[:kept].sqrt()))
        self.dot_edges.copy_(dot_edges)

    def encode(self, image_embeds: Tensor) -> Tensor:
        """Encode image embeddings as codes: (B, E) unit-norm -> (B, K) int64."""
        with without_autocast(image_embeds.device):  # bf16 is too coarse
            coordinates = (image_embeds.float() - self.mean) @ self.components.T  # (B, K)
        return quantise(coordinates, self.edges)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes to image embeddings: (B, K) int64 -> (B, E) unit-norm."""
        with without_autocast(codes.device):
            embeds = self.mean + dequantise(codes, self.edges) @ self.components  # (B, E)
        return F.normalize(embeds, dim=-1)

    def dots(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """The bins of the dot products z_i · z_t of unit-norm rows, each (B, E); (B,) int64."""
        products = (image_embeds.float() * text_embeds.float()).sum(-1)  # (B,)
        return torch.bucketize(products, self.dot_edges)

    def condition(
        self, tokens: Tensor, text_embeds: Tensor, dots: Tensor, dropped: Tensor
    ) -> PriorCondition:
        """Encode the prefix of the sequence: caption, z_t and dot product; (B, L + 2, D).

        tokens: (B, L) int64; text_embeds: (B, E) unit-norm; dots: (B,) int64, from `dots`; dropped:
        (B,) bool, True where learned nulls replace all three.
        """
        check_embeds("text_embeds", text_embeds, self.config.embed_dim)
        check_rows(tokens=tokens, text_embeds=text_embeds)
        text = self.text_encoder.drop(self.text_encoder(tokens), dropped)
        z_t = self.from_text_embeds(text_embeds * self.config.embed_dim**0.5)  # (B, D)
        own = torch.stack(
            [
                torch.where(dropped[:, None], self.null_text_embeds, z_t),
                torch.where(dropped[:, None], self.null_dot, self.from_dots(dots)),
            ],
            dim=1,
        )  # (B, 2, D)
        hidden = torch.cat([self.from_hidden(text.hidden), own], dim=1)  # (B, L + 2, D)
        return PriorCondition(hidden, F.pad(text.visible, (0, 2), value=True))

    def forward(
        self,
        codes: Tensor,
        condition: PriorCondition,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Logits of the first code and of the code after each of `codes`; (B, k + 1, buckets).

        codes: (B, k) int64, 0 <= k < K. With caches, only the tokens that are not cached yet are
        computed, and only their logits are returned.
        """
        sequence = torch.cat([condition.hidden, self.from_codes(codes)], dim=1)
        own = self.config.dimensions + 1  # positions after the caption, which may be short
        text = condition.hidden.shape[1] - 2
        positions = torch.cat([self.positions[:text], self.positions[-own:]])
        sequence = sequence + positions[: sequence.shape[1]]  # (B, L + 2 + k, D)
        seen, length = caches[0].length if caches else 0, sequence.shape[1]
        indices = torch.arange(length, device=codes.device)
        causal = indices[seen:, None] >= indices
        visible = F.pad(condition.visible, (0, codes.shape[1]), value=True)[:, None, None, :]
        hidden = self.transformer(sequence[:, seen:], causal & visible, caches)
        logits: Tensor = self.to_logits(hidden[:, -(codes.shape[1] + 1) :])
        return logits

    def new_caches(self) -> list[KeyValueCache]:
        """Empty caches, one for each block, with room for the longest sequence."""
        return [KeyValueCache(self.config.context_length) for _ in range(self.config.depth)]

    def _edges(self, scales: Tensor) -> Tensor:
        return uniform_edges(scales, buckets=self.config.buckets, reach=self.config.bucket_reach)
