"""The frozen CLIP: encodes images and captions to unit-norm embeddings."""

# B batch, H height, W width, S image side, L text tokens, D embedding width

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.clip.check import read_model_config
from unclip.clip.config import (
    CONFIG_FILE,
    LOCAL_DIR,
    WEIGHTS_FILE,
    ClipArchitecture,
    ClipConfig,
)
from unclip.clip.weights_file import as_state_dict
from unclip.config import ConfigError
from unclip.images import to_rgb

log = logging.getLogger(__name__)

Images = Sequence[Image.Image] | Tensor

CHARS_PER_TOKEN = 16  # more than any text has on average

_PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")


def shortened(caption: str, tokens: int) -> str:
    """The beginning of a caption, which has enough characters for this number of tokens.

    Tokenizers read the whole caption before they truncate it, in a time that grows with the square
    of its longest word: a word of 100,000 letters takes a quarter of an hour.
    """
    return " ".join(caption.split())[: tokens * CHARS_PER_TOKEN]


class FrozenClip:
    """An open_clip model for inference only. All embeddings are float32 and unit-norm."""

    def __init__(
        self,
        model: nn.Module,
        *,
        model_config: dict[str, Any],
        preprocess: Callable[[Any], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        name: str,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.model_config = model_config
        self.name = name
        self.device = device
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self.width: int = model_config["embed_dim"]
        self.image_size: int = _side(model_config["vision_cfg"]["image_size"], name)
        self.context_length: int = model_config["text_cfg"].get("context_length", 77)

    @classmethod
    def from_config(cls, config: ClipConfig, *, device: torch.device) -> "FrozenClip":
        """Load the model that `config` names; tags and "hf-hub:" names may trigger a download.

        Raises `ConfigError` for weights that cannot be loaded or belong to another model.
        """
        config.check()
        log.info("loading CLIP %s, weights %s", config.model, config.pretrained or "of its own")
        try:
            model, preprocess = _load(config, device)
        except UserWarning as mismatch:
            raise ConfigError(
                f"clip: {mismatch} Use model={config.model + '-quickgelu'!r}, or the name without "
                "-quickgelu if it has that ending"
            ) from mismatch
        return cls(
            model,
            model_config=read_model_config(config),
            preprocess=preprocess,
            tokenizer=open_clip.get_tokenizer(config.model),
            name=_name(config),
            device=device,
        )

    @classmethod
    def from_trained(
        cls, model: nn.Module, architecture: ClipArchitecture, *, name: str, device: torch.device
    ) -> "FrozenClip":
        """Freeze a model built by `build_clip(architecture)` and trained with `clip_loss`."""
        half = (0.5, 0.5, 0.5)  # pixels in [-1, 1], as clip_loss expects
        preprocess = PreprocessCfg(size=architecture.image_size, mean=half, std=half)
        set_model_preprocess_cfg(model, vars(preprocess))
        return cls(
            model,
            model_config=architecture.open_clip_config(),
            preprocess=image_transform_v2(preprocess, is_train=False),
            tokenizer=open_clip.SimpleTokenizer(context_length=architecture.text_context_length),
            name=name,
            device=device,
        )

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "FrozenClip":
        """Load a folder that `save` wrote; raises `ConfigError` for any other folder."""
        folder, device = Path(folder), torch.device(device)
        config = ClipConfig(model=f"{LOCAL_DIR}{folder}", pretrained=None)
        clip = cls.from_config(config, device=device)
        clip.name = json.loads((folder / CONFIG_FILE).read_text()).get("name", folder.name)
        return clip

    def save(self, folder: Path | str) -> None:
        """Write weights, configuration and name in open_clip's "local-dir:" format."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._weights(), folder / WEIGHTS_FILE)
        if hasattr(self._tokenizer, "tokenizer"):  # of transformers: it has its own files
            self._tokenizer.tokenizer.save_pretrained(folder)
        content = {
            "name": self.name,
            "model_cfg": self.model_config,
            "preprocess_cfg": self.preprocess_config(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the configuration and of the weights' names, dtypes, shapes and bytes."""
        config = {"model": self.model_config, "preprocess": self.preprocess_config()}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name, weight in sorted(self._weights().items()):
            digest.update(f"\0{name}\0{weight.dtype}\0{list(weight.shape)}\0".encode())
            digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """The factor of cosines in CLIP's logits: the inverse temperature."""
        scale: Tensor = self.model.logit_scale  # type: ignore[assignment]
        return scale.exp().item()

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Tokenize captions; (B, L) int64 on the CPU. Longer captions are truncated to L."""
        return self._tokenizer([shortened(c, self.context_length) for c in captions])

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str] | Tensor) -> Tensor:
        """Encode captions, or their tokens (B, L) int64, to text_embeds (B, D) unit-norm."""
        tokens = captions if isinstance(captions, Tensor) else self.tokenize(captions)
        text_embeds: Tensor = self.model.encode_text(tokens.to(self.device))  # type: ignore[operator]
        return F.normalize(text_embeds.float(), dim=-1)

    @torch.inference_mode()
    def encode_images(self, images: Images) -> Tensor:
        """Encode images to image_embeds (B, D) unit-norm.

        images: PIL images of any size, or a tensor (B, 3, H, W), uint8 in [0, 255] or floating
        point in [-1, 1]. They are resized, cropped and normalised as the model's configuration
        says.
        """
        return self.encode_images_and_norms(images)[0]

    @torch.inference_mode()
    def encode_images_and_norms(self, images: Images) -> tuple[Tensor, Tensor]:
        """The embeddings of `encode_images`, (B, D), and their norms before normalisation, (B,)."""
        pixels = self.preprocess(images)
        image_embeds: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]
        image_embeds = image_embeds.float()
        return F.normalize(image_embeds, dim=-1), image_embeds.norm(dim=-1)

    def preprocess(self, images: Images) -> Tensor:
        """Preprocess images, as `encode_images` takes them, to the model's input; (B, 3, S, S)."""
        if not isinstance(images, Tensor):
            rgb = map(to_rgb, images)
            return torch.stack([self._preprocess(image) for image in rgb]).to(self.device)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(
                f"images of shape {tuple(images.shape)} are not (B, 3, H, W); give a batch in RGB, "
                "channels first"
            )
        floating = images.is_floating_point()
        scaled = (images.float() + 1) / 2 if floating else images.float() / 255  # in [0, 1]
        return self._preprocess(scaled.to(self.device))

    def _weights(self) -> dict[str, Tensor]:
        return {n: w.detach().cpu().contiguous() for n, w in self.model.state_dict().items()}

    def preprocess_config(self) -> dict[str, Any]:
        """open_clip's settings for resizing and normalising images."""
        config: dict[str, Any] = self.model.visual.preprocess_cfg  # type: ignore[union-attr,assignment]
        return {field: config[field] for field in _PREPROCESS_FIELDS}


def _load(config: ClipConfig, device: torch.device) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    """open_clip's model and preprocessing; raises UserWarning for a QuickGELU mismatch."""
    with ExitStack() as stack:
        pretrained = config.pretrained
        if pretrained is not None and Path(pretrained).is_file():
            pretrained = str(stack.enter_context(as_state_dict(Path(pretrained))))
        stack.enter_context(warnings.catch_warnings())
        # The wrong activation would silently give slightly wrong embeddings.
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        model, _, preprocess = open_clip.create_model_and_transforms(
            config.model, pretrained=pretrained, device=device, require_pretrained=True
        )
    return model, preprocess


def _name(config: ClipConfig) -> str:
    """A short name, without the folder that holds the weights."""
    if config.pretrained is None:
        return Path(config.model.removeprefix(LOCAL_DIR)).name
    return f"{config.model}/{Path(config.pretrained).stem}"


def _side(image_size: int | Sequence[int], name: str) -> int:
    sides = {image_size} if isinstance(image_size, int) else set(image_size)
    if len(sides) > 1:
        raise ConfigError(f"clip: {name} takes {image_size} pixels; choose one for square images")
    return sides.pop()
