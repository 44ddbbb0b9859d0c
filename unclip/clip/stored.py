"""A CLIP in a folder, whose text tower encodes captions without open_clip."""

# B batch, L text tokens, D embedding width

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from unclip.clip.config import CONFIG_FILE, WEIGHTS_FILE
from unclip.clip.tokenizer import Tokenizer, shortened, simple_tokenizer
from unclip.config import ConfigError
from unclip.models.frozen_text import FrozenText, FrozenTextConfig

if TYPE_CHECKING:
    from unclip.clip.frozen import FrozenClip

PLAIN = {"context_length", "vocab_size", "width", "layers", "heads"}  # of a text tower like CLIP's
PROJECTION = "text_projection"


class StoredClip:
    """A folder that `FrozenClip.save` wrote; weights are loaded on first use.

    open_clip takes four seconds to import, which is most of the time to the first image. Captions
    are encoded without it if the text tower is built like CLIP's. All else is done by `whole`.
    """

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        """Read the configuration; raises `ConfigError` if there is none."""
        self.folder, self.device = folder, device
        file = folder / CONFIG_FILE
        try:
            config = json.loads(file.read_text())
            self._model: dict[str, Any] = config["model_cfg"]
            self.width = int(self._model["embed_dim"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"clip: {file} does not describe a CLIP ({error!r}); give a folder that "
                "FrozenClip.save wrote"
            ) from error
        self.name = str(config.get("name", folder.name))

    @property
    def context_length(self) -> int:
        """Tokens of a caption that the text tower reads, with those of its ends."""
        return int(self._model.get("text_cfg", {}).get("context_length", 77))

    def to(self, device: torch.device) -> None:
        """Move what is loaded, in place; what is not will be loaded there."""
        self.device = device
        self.__dict__.pop("_text", None)
        if "whole" in self.__dict__:
            self.whole.to(device)

    @cached_property
    def whole(self) -> "FrozenClip":
        """Both towers, in open_clip."""
        from unclip.clip.frozen import FrozenClip

        return FrozenClip.load(self.folder, device=self.device)

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Encode captions to text_embeds (B, D) unit-norm; longer ones are truncated."""
        if "whole" in self.__dict__ or not self._is_plain():
            return self.whole.encode_texts(captions)
        tokenizer, tower, projection = self._text
        tokens = tokenizer([shortened(caption) for caption in captions]).to(self.device)  # (B, L)
        hidden = tower(tokens).hidden  # (B, n, W)
        rows = torch.arange(len(tokens), device=self.device)
        # The end of a caption has the highest token.
        return F.normalize(hidden[rows, tokens.argmax(dim=-1)] @ projection, dim=-1)

    def _is_plain(self) -> bool:
        text = self._model.get("text_cfg", {})
        return text.keys() == PLAIN and not {"custom_text", "multimodal_cfg"} & self._model.keys()

    @cached_property
    def _text(self) -> tuple[Tokenizer, FrozenText, Tensor]:
        """The tokenizer, the text tower and the projection (W, D), in float32."""
        text = self._model["text_cfg"]
        config = FrozenTextConfig(
            vocab_size=text["vocab_size"],
            context_length=text["context_length"],
            width=text["width"],
            depth=text["layers"],
            heads=text["heads"],
            quick_gelu=bool(self._model.get("quick_gelu", False)),
        )
        with safe_open(self.folder / WEIGHTS_FILE, framework="pt") as file:
            names = file.keys()
            theirs = {n: file.get_tensor(n).float() for n in names if not n.startswith("visual.")}
        tower = FrozenText(config)
        tower.copy_weights(theirs)
        tokenizer = simple_tokenizer(config.context_length)
        return tokenizer, tower.to(self.device).eval(), theirs[PROJECTION].to(self.device)
