"""What a CLIP is made of or loaded from; light to import, unlike open_clip itself."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from unclip.config import Config, ConfigError

CONFIG_FILE = "open_clip_config.json"  # both names are open_clip's own
WEIGHTS_FILE = "open_clip_model.safetensors"
MAX_LOGIT_SCALE = 100.0  # as in CLIP (Radford et al. 2021, section 2.5)


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """Where the frozen CLIP comes from.

    `model` is one of open_clip's model names, and `pretrained` one of its tags for that model or
    the path of a checkpoint; or `model` is "local-dir:<folder>", as `FrozenClip.save` writes it, or
    "hf-hub:<owner>/<name>", and `pretrained` is None.
    """

    tag: ClassVar[str] = "clip"

    model: str
    pretrained: str | None

    def __post_init__(self) -> None:
        has_schema = self.model.startswith(("local-dir:", "hf-hub:"))
        if has_schema and self.pretrained is not None:
            raise ConfigError(
                f"clip: model={self.model!r} brings its own weights, so pretrained="
                f"{self.pretrained!r} would be ignored; set pretrained to null"
            )
        if has_schema:
            return
        import open_clip  # here: it takes seconds, and other configurations do without

        if self.model not in open_clip.list_models():
            raise ConfigError(
                f"clip: open_clip has no model {self.model!r}; it has "
                f"{', '.join(open_clip.list_models()[:8])}, ...; for a folder, write local-dir:<it>"
            )
        if self.pretrained is None:
            tags = open_clip.list_pretrained_tags_by_model(self.model)
            raise ConfigError(
                f"clip: model={self.model!r} needs pretrained weights; set pretrained to one of "
                f"{tags} or to the path of a checkpoint"
            )

    @property
    def width(self) -> int | None:
        """Of the embeddings; None where only the weights can tell."""
        if self.model.startswith("hf-hub:"):
            return None
        if self.model.startswith("local-dir:"):
            content = json.loads((self._folder / CONFIG_FILE).read_text())["model_cfg"]
        else:
            import open_clip

            content = open_clip.get_model_config(self.model)
        return int(content["embed_dim"])

    def local_digest(self) -> str | None:
        """sha256 of the weights' file; None for weights that open_clip names."""
        path = self._folder / WEIGHTS_FILE if self.pretrained is None else Path(self.pretrained)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def _folder(self) -> Path:
        return Path(self.model.removeprefix("local-dir:"))


@dataclass(frozen=True, kw_only=True)
class ClipArchitecture(Config):
    """A vision transformer and a text transformer of open_clip's, small enough to train here."""

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
    init_temperature: float  # logits are cosines divided by it, at the start

    def __post_init__(self) -> None:
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
