"""Configs: where a pretrained CLIP comes from, and the architecture of one trained here."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from unclip.config import Config, ConfigError

CONFIG_FILE = "open_clip_config.json"  # both file names are open_clip's
WEIGHTS_FILE = "open_clip_model.safetensors"
LOCAL_DIR, HF_HUB = "local-dir:", "hf-hub:"  # open_clip's prefixes of a model name
MAX_LOGIT_SCALE = 100.0  # as in CLIP (Radford et al. 2021, section 2.5)


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """Where the frozen CLIP comes from.

    Either `model` is one of open_clip's model names, and `pretrained` is one of its tags for that
    model or the path of a checkpoint. Or `model` is "local-dir:<folder>", a folder that
    `FrozenClip.save` wrote, or "hf-hub:<owner>/<name>", and `pretrained` is None.
    """

    tag: ClassVar[str] = "clip"

    model: str
    pretrained: str | None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other; `check` checks names and files."""
        brings_weights = self.model.startswith((LOCAL_DIR, HF_HUB))
        if brings_weights and self.pretrained is not None:
            raise ConfigError(
                f"clip: model={self.model!r} brings its own weights, so pretrained="
                f"{self.pretrained!r} would be ignored; set pretrained to null"
            )
        if not brings_weights and self.pretrained is None:
            raise ConfigError(
                f"clip: model={self.model!r} needs pretrained weights; set pretrained to one of "
                "open_clip's tags for it, such as openai, or to the path of a checkpoint"
            )

    def check(self) -> None:
        """Raise `ConfigError` if the CLIP cannot be loaded; reads file headers, not the weights.

        Detects an unknown model or tag, a missing or damaged file, and weights of another
        architecture, embedding width or activation function.
        """
        from unclip.clip.check import check_clip  # here: open_clip takes seconds to import

        check_clip(self)

    @property
    def width(self) -> int | None:
        """Width of the embeddings; None for "hf-hub:" models, whose config must be downloaded.

        Raises `ConfigError` for an unknown model or a missing folder.
        """
        if self.model.startswith(HF_HUB):
            return None
        from unclip.clip.check import read_model_config  # here: open_clip takes seconds to import

        return int(read_model_config(self)["embed_dim"])

    def local_files(self) -> dict[str, Path]:
        """Paths of the local "weights" and, for a folder, "config"; empty if downloaded."""
        if self.model.startswith(LOCAL_DIR):
            folder = Path(self.model.removeprefix(LOCAL_DIR))
            return {"weights": folder / WEIGHTS_FILE, "config": folder / CONFIG_FILE}
        if self.pretrained is not None and Path(self.pretrained).is_file():
            return {"weights": Path(self.pretrained)}
        return {}


@dataclass(frozen=True, kw_only=True)
class ClipArchitecture(Config):
    """Sizes of an open_clip model with a vision and a text transformer, to be trained here."""

    tag: ClassVar[str] = "clip_architecture"

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_context_length: int
    text_width: int
    text_layers: int
    text_heads: int
    init_temperature: float  # logits are cosines / temperature; learned from this value on

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.image_size % self.patch_size:
            near = max(1, self.image_size // self.patch_size) * self.patch_size
            raise ConfigError(
                f"clip: image_size={self.image_size} is not divisible by "
                f"patch_size={self.patch_size}; try image_size={near}"
            )
        for tower in ("vision", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            if width % heads:
                raise ConfigError(
                    f"clip: {tower}_width={width} is not divisible by {tower}_heads={heads}; "
                    f"try {tower}_width={max(1, width // heads) * heads}"
                )
        if not 1 / MAX_LOGIT_SCALE <= self.init_temperature <= 1:
            raise ConfigError(
                f"clip: init_temperature={self.init_temperature} must be in "
                f"[{1 / MAX_LOGIT_SCALE}, 1]; CLIP starts from 0.07"
            )

    def open_clip_config(self) -> dict[str, Any]:
        """The architecture as open_clip's model configuration."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "width": self.vision_width,
                "layers": self.vision_layers,
                "head_width": self.vision_width // self.vision_heads,
                "pool_type": "avg",
            },
            "text_cfg": {
                "context_length": self.text_context_length,
                "vocab_size": 49408,  # of open_clip's own tokenizer
                "width": self.text_width,
                "layers": self.text_layers,
                "heads": self.text_heads,
            },
            "init_logit_scale": math.log(1 / self.init_temperature),
        }
