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
from torchvision.transforms import Compose

from unclip.checkpoint import in_half
from unclip.clip.check import read_model_config
from unclip.clip.config import (
    CONFIG_FILE,
    LOCAL_DIR,
    WEIGHTS_FILE,
    ClipArchitecture,
    ClipConfig,
)
from unclip.clip.inputs import ClipInputs, split
from unclip.clip.text import encode_text
from unclip.clip.tokenizer import Tokenizer, with_bounded_cache
from unclip.clip.weights_file import as_state_dict
from unclip.config import ConfigError

log = logging.getLogger(__name__)

Images = Sequence[Image.Image] | Tensor

# On a CPU, larger batches leave its caches; 16 MiB are 27 images of 224 pixels.
CPU_PIXEL_BYTES = 2**24

_PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")


class FrozenClip:
    """An open_clip model for inference only. All embeddings are float32 and unit-norm."""

    def __init__(
        self,
        model: nn.Module,
        *,
        model_config: dict[str, Any],
        preprocess: Compose,
        tokenizer: Tokenizer,
        name: str,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.model_config = model_config
        self.name = name
        self.device = device
        self._preprocess = preprocess
        self.width: int = model_config["embed_dim"]
        self.image_size: int = _side(model_config["vision_cfg"]["image_size"], name)
        resize, normalise = split(preprocess)
        self.context_length: int = model_config["text_cfg"].get("context_length", 77)
        self.inputs = ClipInputs(resize, with_bounded_cache(tokenizer), self.image_size)
        self._mean, self._std = (
            torch.tensor(colour, dtype=torch.float32, device=device).reshape(1, 3, 1, 1)
            for colour in (normalise.mean, normalise.std)
        )

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

    def save(self, folder: Path | str, *, half: bool = False) -> None:
        """Write weights, configuration and name in open_clip's "local-dir:" format.

        half: store the weights as float16; `load` makes them float32 again.
        """
        folder, weights = Path(folder), self._weights()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(in_half(weights) if half else weights, folder / WEIGHTS_FILE)
        tokenizer = self.inputs.tokenizer
        if hasattr(tokenizer, "tokenizer"):  # of transformers: it has its own files
            tokenizer.tokenizer.save_pretrained(folder)
        content = {
            "name": self.name,
            "model_cfg": self.model_config,
            "preprocess_cfg": self.preprocess_config(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")

    def to(self, device: torch.device) -> None:
        """Move the model, in place."""
        self.model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        self.device = device

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
        return self.inputs.tokenize(captions)

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str] | Tensor) -> Tensor:
        """Encode captions, or their tokens (B, L) int64, to text_embeds (B, D) unit-norm."""
        tokens = captions if isinstance(captions, Tensor) else self.tokenize(captions)
        return F.normalize(encode_text(self.model, tokens, self.device).float(), dim=-1)

    @torch.inference_mode()
    def encode_images(self, images: Images) -> Tensor:
        """Encode images to image_embeds (B, D) unit-norm.

        images: PIL images of any size, or a tensor (B, 3, H, W), uint8 in [0, 255] or floating
        point in [-1, 1]. They are resized, cropped and normalised as the model's configuration
        says. `inputs.pixels` does all but the last of it, in another thread or process if need be.
        """
        return self.encode_images_and_norms(images)[0]

    @torch.inference_mode()
    def encode_images_and_norms(self, images: Images) -> tuple[Tensor, Tensor]:
        """The embeddings of `encode_images`, (B, D), and their norms before normalisation, (B,)."""
        starts = range(0, max(len(images), 1), self._images_at_once(len(images)))
        parts = [self._encode_image(images[start : start + starts.step]) for start in starts]
        image_embeds = torch.cat(parts).float()
        return F.normalize(image_embeds, dim=-1), image_embeds.norm(dim=-1)

    def preprocess(self, images: Images) -> Tensor:
        """Preprocess images, as `encode_images` takes them, to the model's input; (B, 3, S, S)."""
        if not isinstance(images, Tensor):
            return self._normalise(self.inputs.pixels(images))
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(
                f"images of shape {tuple(images.shape)} are not (B, 3, H, W); give a batch in RGB, "
                "channels first"
            )
        if images.dtype == torch.uint8 and images.shape[2:] == (self.image_size, self.image_size):
            return self._normalise(images)
        floating = images.is_floating_point()
        scaled = (images.float() + 1) / 2 if floating else images.float() / 255  # in [0, 1]
        model_input: Tensor = self._preprocess(scaled.to(self.device))
        return model_input

    def _normalise(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 to the model's input. A GPU gets the bytes, not the floats."""
        images = pixels.to(self.device, non_blocking=True).to(torch.float32)
        return images.div_(255).sub_(self._mean).div_(self._std)

    def _encode_image(self, images: Images) -> Tensor:
        image_embeds: Tensor = self.model.encode_image(self.preprocess(images))  # type: ignore[operator]
        return image_embeds

    def _images_at_once(self, count: int) -> int:
        """Images that go through the model together, of a batch."""
        if self.device.type != "cpu":
            return max(count, 1)
        return max(CPU_PIXEL_BYTES // (4 * 3 * self.image_size**2), 1)

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
