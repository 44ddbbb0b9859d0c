"""CLIP's frozen text tower, whose hidden states can serve a prior as the encoded caption."""

# B batch, L tokens of the captions, W width of the tower

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unclip.clip.config import ClipArchitecture
from unclip.config import Config, ConfigError
from unclip.models.clip_text import ClipTextTower
from unclip.models.text_encoder import EncodedText, TextEncoder, TextEncoderConfig, drop_text
from unclip.validation import check_divisible

OPEN_CLIP_NAMES = {  # tensors of one block: our name -> open_clip's
    "norm_attention": "ln_1",
    "attention.to_qkv": "attn.in_proj",
    "attention.to_out": "attn.out_proj",
    "norm_mlp": "ln_2",
    "mlp.0": "mlp.c_fc",
    "mlp.2": "mlp.c_proj",
}


@dataclass(frozen=True, kw_only=True)
class FrozenTextConfig(Config):
    """Sizes of the tower, which must equal those of the CLIP that provides its weights."""

    tag: ClassVar[str] = "frozen_text"

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    quick_gelu: bool  # True for OpenAI's CLIP

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        check_divisible("text_encoder.width", self.width, self.heads)
        if min(self.vocab_size, self.context_length, self.depth) < 1:
            raise ConfigError(
                f"text_encoder.vocab_size={self.vocab_size}, context_length={self.context_length} "
                f"and depth={self.depth} must be at least 1"
            )


def check_clip_text(name: str, text: Config, clip: ClipArchitecture) -> None:
    """Raise `ConfigError` if the named model has a frozen text tower of other sizes than CLIP's."""
    if not isinstance(text, FrozenTextConfig):
        return
    given = (text.context_length, text.width, text.depth, text.heads, text.quick_gelu)
    wanted = (clip.text_context_length, clip.text_width, clip.text_layers, clip.text_heads, False)
    if given != wanted:
        raise ConfigError(
            f"{name}.model.text_encoder has (context_length, width, depth, heads, quick_gelu)="
            f"{given}, but the text tower in section clip has {wanted}; make them equal"
        )


class FrozenText(ClipTextTower):
    """CLIP's text tower as the encoder of captions; only the null token is trained."""

    def __init__(self, config: FrozenTextConfig) -> None:
        super().__init__(config, quick_gelu=config.quick_gelu)
        self.config = config
        self.null = nn.Parameter(torch.randn(config.width) * 0.02)

    def forward(self, tokens: Tensor) -> EncodedText:
        """tokens: (B, L) int64 from CLIP's tokenizer, padded with 0.

        Tokens beyond CLIP's context are cut off. In a causal tower this does not change the others.
        """
        return self.encode(tokens[:, : self.config.context_length])

    def drop(self, encoded: EncodedText, dropped: Tensor) -> EncodedText:
        """Replace each caption by the learned null token where `dropped` (B,) is True."""
        return drop_text(encoded, dropped, self.null)

    def take_from(self, clip: nn.Module) -> None:
        """Copy the weights of an open_clip.CLIP; raises `ConfigError` if they do not fit."""
        quick = any(type(module).__name__ == "QuickGELU" for module in clip.modules())
        if quick != self.config.quick_gelu:
            raise ConfigError(
                f"text_encoder.quick_gelu={self.config.quick_gelu}, but the CLIP's is {quick}; "
                f"set it to {str(quick).lower()}"
            )
        self.copy_weights(clip.state_dict())

    @torch.no_grad()
    def copy_weights(self, theirs: Mapping[str, Tensor]) -> None:
        """Copy the tensors of an open_clip.CLIP; raises `ConfigError` if they do not fit."""
        ours = self.state_dict()
        for name, source in self._sources().items():
            if source not in theirs or theirs[source].shape != ours[name].shape:
                found = tuple(theirs[source].shape) if source in theirs else "missing"
                raise ConfigError(
                    f"text_encoder.{name} has shape {tuple(ours[name].shape)}, but the CLIP's "
                    f"{source} is {found}; give text_encoder the sizes of a CLIP with a plain text "
                    "transformer"
                )
            ours[name].copy_(theirs[source])
        depth, block = self.config.depth, f"transformer.resblocks.{self.config.depth}.ln_1.weight"
        if block in theirs:
            raise ConfigError(
                f"text_encoder.depth={depth}, but the CLIP's tower is deeper; give its full depth"
            )

    def _sources(self) -> dict[str, str]:
        """Our tensor names -> open_clip's."""
        sources = {"embed.weight": "token_embedding.weight", "positions": "positional_embedding"}
        for kind in ("weight", "bias"):
            sources[f"transformer.norm.{kind}"] = f"ln_final.{kind}"
            for block in range(self.config.depth):
                for own, other in OPEN_CLIP_NAMES.items():
                    joint = "_" if other.endswith("in_proj") else "."
                    sources[f"transformer.blocks.{block}.{own}.{kind}"] = (
                        f"transformer.resblocks.{block}.{other}{joint}{kind}"
                    )
        return sources


def make_text_encoder(config: TextEncoderConfig | FrozenTextConfig) -> TextEncoder | FrozenText:
    """The text encoder of a config."""
    return FrozenText(config) if isinstance(config, FrozenTextConfig) else TextEncoder(config)
