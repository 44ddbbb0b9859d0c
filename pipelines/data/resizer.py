"""img2dataset's resizer, for pixels that are decoded already.

The class expects a stream of an encoded image, and builds its transforms again for each image. Its
module therefore gets two stand-ins: one for the decoder, and one that keeps the transforms.
"""

import importlib.util
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)


class DecodedImage:
    """A stream for the resizer of `load_resizer`, which takes its pixels as they are."""

    def __init__(self, pixels: np.ndarray) -> None:
        """pixels: (H, W, 3) uint8, BGR."""
        self.pixels = pixels

    def seek(self, position: int) -> None:
        """There is only one position."""

    def read(self) -> np.ndarray:
        """The pixels; `_DecodedOpenCv.imdecode` gets them next."""
        _DecodedOpenCv.shape = self.pixels.shape
        return self.pixels


class _DecodedOpenCv:
    """OpenCV, except that `imdecode` only restores the shape of a `DecodedImage`."""

    shape: tuple[int, ...] = ()  # of the image that was read last; the resizer has one thread

    def __init__(self, opencv: Any) -> None:
        self.opencv = opencv

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opencv, name)

    def imdecode(self, pixels: np.ndarray, flags: int) -> np.ndarray:  # noqa: ARG002
        """The pixels in the shape of their image."""
        return pixels.reshape(self.shape)


class _KeptTransforms:
    """albumentations, except that equal arguments give the same transform again.

    The resizer's transforms have no state, and to build two of them takes longer than to resize.
    """

    def __init__(self, albumentations: Any) -> None:
        self.albumentations = albumentations
        self.transforms: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda **options: self.transform(name, options)

    def transform(self, name: str, options: dict[str, Any]) -> Any:
        """The transform of this class and these options."""
        key = f"{name} {options}"
        if key not in self.transforms:
            self.transforms[key] = getattr(self.albumentations, name)(**options)
        return self.transforms[key]


@cache
def load_resizer() -> Any:
    """img2dataset's class `Resizer`, for `DecodedImage`, without the package around it.

    Importing the package imports wandb, whose folders in the temporary directory stay behind when a
    worker is killed.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # do not look for updates on the network
    package = importlib.util.find_spec("img2dataset")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'img2dataset'", name="img2dataset")
    path = Path(package.submodule_search_locations[0]) / "resizer.py"
    spec = importlib.util.spec_from_file_location("img2dataset_resizer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.cv2 = _DecodedOpenCv(module.cv2)  # type: ignore[attr-defined]
    module.A = _KeptTransforms(module.A)  # type: ignore[attr-defined]
    log.debug("loaded the resizer of img2dataset from %s", path)
    return module.Resizer
