"""The frozen CLIP: pictures and captions to unit-norm embeddings.

Shape legend: B batch, S image side, L text tokens, D embedding width.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
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

from unclip.clip.config import CONFIG_FILE, WEIGHTS_FILE, ClipArchitecture, ClipConfig
from unclip.config import ConfigError
from unclip.images import to_rgb

Images = Sequence[Image.Image] | Tensor

_PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")


class FrozenClip:
    """An open_clip model that only encodes. All embeddings are float32 of norm 1."""

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
        """Load the model that `config` names; tags and hf-hub: names may download it."""
        try:
            with warnings.catch_warnings():
                # the wrong activation is a slightly wrong embedding, which nobody would notice
                warnings.filterwarnings("error", message="QuickGELU mismatch")
                model, _, preprocess = open_clip.create_model_and_transforms(
                    config.model,
                    pretrained=config.pretrained,
                    device=device,
                    require_pretrained=True,
                )
        except UserWarning as mismatch:
            raise ConfigError(
                f"clip: {mismatch} Use model={config.model + '-quickgelu'!r}, or the name without "
                "-quickgelu where it has that ending"
            ) from mismatch
        return cls(
            model,
            model_config=open_clip.get_model_config(config.model),
            preprocess=preprocess,
            tokenizer=open_clip.get_tokenizer(config.model),
            name=_name(config),
            device=device,
        )

    @classmethod
    def from_trained(
        cls, model: nn.Module, architecture: ClipArchitecture, *, name: str, device: torch.device
    ) -> "FrozenClip":
        """Freeze a model that `build_clip(architecture)` made and `clip_loss` trained."""
        half = (0.5, 0.5, 0.5)  # pixels in [-1, 1], as clip_loss takes them
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
        """Read what `save` wrote."""
        folder, device = Path(folder), torch.device(device)
        file = folder / CONFIG_FILE
        if not file.is_file():
            raise ConfigError(
                f"clip: {folder} has no {CONFIG_FILE}; give a folder that FrozenClip.save wrote"
            )
        config = ClipConfig(model=f"local-dir:{folder}", pretrained=None)
        clip = cls.from_config(config, device=device)
        clip.name = json.loads(file.read_text()).get("name", folder.name)
        return clip

    def save(self, folder: Path | str) -> None:
        """Write weights, configuration and name, in open_clip's own "local-dir:" format."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._weights(), folder / WEIGHTS_FILE)
        if hasattr(self._tokenizer, "tokenizer"):  # transformers': it has files of its own
            self._tokenizer.tokenizer.save_pretrained(folder)
        content = {
            "name": self.name,
            "model_cfg": self.model_config,
            "preprocess_cfg": self.preprocess_config(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")

    @cached_property
    def digest(self) -> str:
        """sha256 over the weights' names, shapes and bytes and over the configuration."""
        config = {"model": self.model_config, "preprocess": self.preprocess_config()}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name, weight in sorted(self._weights().items()):
            digest.update(f"\0{name}\0{weight.dtype}\0{list(weight.shape)}\0".encode())
            digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """What similarities are multiplied by before a softmax: the inverse of a temperature."""
        scale: Tensor = self.model.logit_scale  # type: ignore[assignment]
        return scale.exp().item()

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to tokens (B, L) int64 on the CPU; what does not fit L is cut off."""
        return self._tokenizer(list(captions))

    @torch.inference_mode()
    def encode_texts(self, captions: Sequence[str] | Tensor) -> Tensor:
        """Captions, or their tokens (B, L), to text_embeds (B, D)."""
        tokens = captions if isinstance(captions, Tensor) else self.tokenize(captions)
        text_embeds: Tensor = self.model.encode_text(tokens.to(self.device))  # type: ignore[operator]
        return F.normalize(text_embeds.float(), dim=-1)

    @torch.inference_mode()
    def encode_images(self, images: Images) -> Tensor:
        """PIL pictures of any size, or a tensor of one, to image_embeds (B, D).

        A tensor is (B, 3, H, W), uint8 in [0, 255] or floating in [-1, 1]. Both are resized,
        cropped and normalised as the model's configuration says.
        """
        return self.encode_images_and_norms(images)[0]

    @torch.inference_mode()
    def encode_images_and_norms(self, images: Images) -> tuple[Tensor, Tensor]:
        """As `encode_images`, (B, D), and the norms that the embeddings had before, (B,)."""
        pixels = self.preprocess(images)
        image_embeds: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]
        image_embeds = image_embeds.float()
        return F.normalize(image_embeds, dim=-1), image_embeds.norm(dim=-1)

    def preprocess(self, images: Images) -> Tensor:
        """Images as `encode_images` takes them to the model's own pixels (B, 3, S, S)."""
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
        """How pictures become the model's pixels, in open_clip's words."""
        config: dict[str, Any] = self.model.visual.preprocess_cfg  # type: ignore[union-attr,assignment]
        return {field: config[field] for field in _PREPROCESS_FIELDS}


def _name(config: ClipConfig) -> str:
    """A name without the place where the weights lie."""
    if config.pretrained is None:
        return Path(config.model.removeprefix("local-dir:")).name
    return f"{config.model}/{Path(config.pretrained).stem}"


def _side(image_size: int | Sequence[int], name: str) -> int:
    sides = {image_size} if isinstance(image_size, int) else set(image_size)
    if len(sides) > 1:
        raise ConfigError(f"clip: {name} takes {image_size} pixels; choose one for square images")
    return sides.pop()
