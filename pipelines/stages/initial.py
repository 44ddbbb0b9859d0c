"""Weights that a training starts from: a file that `unclip.checkpoint.save_model` wrote."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec

from pipelines.artifacts import MODEL_FILE
from pipelines.core.errors import PipelineError
from pipelines.core.fingerprint import canonical, differences
from pipelines.core.store import Folder
from unclip.checkpoint import CheckpointError, check_file, load_model
from unclip.config import not_in_key
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UpsamplerConfig,
)

if TYPE_CHECKING:
    from torch import nn

ModelConfig = (
    DiffusionPriorConfig
    | ARPriorConfig
    | KarloPriorConfig
    | DecoderConfig
    | KarloDecoderConfig
    | UpsamplerConfig
    | KarloUpsamplerConfig
)

# What a file system may tell of a file that stays the same while the content changes.
TIMELESS = {"name", "type", "size", "url", "mimetype", "partial"}


class InitialWeightsError(PipelineError):
    """A file of weights that is not there, or not what the configuration asks for."""


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """A file's weights: what it holds is part of a stage's key, where it lies is not."""

    tag: ClassVar[str] = "initial_weights"

    url: str = not_in_key()
    sha256: str  # of the file

    def local(self) -> Path:
        """The file on this machine; raises `InitialWeightsError` where it is another by now."""
        parent, _, name = self.url.rpartition("/")
        path = Folder(parent or "/").local(name)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise InitialWeightsError(
                f"init_from={self.url} has changed since the run began (sha256 {self.sha256[:12]} "
                f"then, {found[:12]} now). Run again: the plan then follows from the new file."
            )
        return path

    def load(self) -> "nn.Module":
        """The model, its weights in float32."""
        return load_model(self.local()).float()


def find_weights(url: str | None, model: ModelConfig, *, section: str) -> InitialWeights | None:
    """What `section`.init_from names. Raises `InitialWeightsError` unless it is of this model."""
    if url is None:
        return None
    where = f"{section}.init_from={url}"
    url = url if "://" in url else str(Path(url).absolute())  # workers run in other folders
    try:
        fs, path = fsspec.core.url_to_fs(url)
        with fs.open(path, "rb") as file:
            found = check_file(file, where=where)
        differing = first_difference(found, model)
        if differing:
            raise InitialWeightsError(
                f"{where} was saved with another model than {section}.model (the file's → the "
                f"configuration's): {differing}. Change {section}.model, or give another file."
            )
        return InitialWeights(url=url, sha256=_sha256(fs, path))
    except InitialWeightsError:
        raise
    except CheckpointError as error:
        raise InitialWeightsError(str(error)) from error
    except Exception as error:  # file systems raise what they like
        raise InitialWeightsError(
            f"{where} cannot be read: {error}. Give the path or URL of a file that `save_model`, "
            "a training stage or `unclip import` wrote."
        ) from error


def first_difference(found: Any, wanted: Any) -> str | None:
    """The first field in which two configs differ, with both values: "unet.channels: 8 → 16"."""
    forms = (canonical(config, where="model") for config in (found, wanted))
    return next(iter(differences(*forms)), None)


def _sha256(fs: Any, path: str) -> str:
    """Of the file's content; remembered while its size, times and the like stay, as it takes long.

    The memory is a folder of the user's. Were it wrong, `InitialWeights.local` would notice.
    """
    info = fs.info(path)
    version = hashlib.sha256(repr(sorted(info.items())).encode()).hexdigest()
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    remembered = Path(root) / "unclip" / "sha256" / version
    if remembered.is_file():
        return remembered.read_text()
    with fs.open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not info.keys() - TIMELESS:
        return digest
    with contextlib.suppress(OSError):  # a home that cannot be written just costs time
        remembered.parent.mkdir(parents=True, exist_ok=True)
        Folder(str(remembered.parent)).write_bytes(version, digest.encode())
    return digest


def take_weights(initial: InitialWeights, folder: Folder) -> int:
    """Publish the file as it is, as a model that was trained; returns its parameters."""
    path = initial.local()
    parameters = sum(p.numel() for p in load_model(path).parameters())  # which checks it, too
    folder.publish(path, MODEL_FILE)
    return parameters
