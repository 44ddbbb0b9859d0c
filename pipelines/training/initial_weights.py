"""Weights that a training starts from: a file that `unclip.checkpoint.save_model` wrote."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import fsspec
from torch import nn

from pipelines.artifacts import MODEL_FILE
from pipelines.core.digests import file_digest
from pipelines.core.errors import PipelineError
from pipelines.core.fingerprint import canonical, differences
from pipelines.core.folder import Folder
from unclip.checkpoint import CheckpointError, check_file, load_model
from unclip.config import Config

log = logging.getLogger(__name__)


class InitialWeightsError(PipelineError):
    """A file of weights is missing, unreadable, or of another model."""


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """A file of weights, with the sha256 that it had when the stage's key was computed."""

    url: str
    sha256: str

    def local(self) -> Path:
        """The file on this machine. Raises `InitialWeightsError` if its content has changed."""
        parent, _, name = self.url.rpartition("/")
        path = Folder(parent or "/").local(name)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise InitialWeightsError(
                f"init_from={self.url} has changed since the run began (sha256 {self.sha256[:12]} "
                f"then, {found[:12]} now). Run again to plan with the new file."
            )
        return path

    def load(self) -> nn.Module:
        """The model, with float32 weights."""
        log.info("starting from the weights of %s", self.url)
        return load_model(self.local()).float()


def weights_digest(url: str, *, stage: str) -> str:
    """sha256 of the file that `init_from` names. Raises `InitialWeightsError`."""
    try:
        return file_digest(url)
    except Exception as error:  # each file system has its own exceptions
        raise _unreadable(url, stage, error) from error


def check_weights(url: str, model: Config, *, stage: str) -> None:
    """Raise `InitialWeightsError` unless the file is a saved model with the config `model`.

    Reads only the file's header.
    """
    where = f"{stage}.init_from={url}"
    try:
        fs, path = fsspec.core.url_to_fs(url)
        with fs.open(path, "rb") as file:
            found = check_file(file, where=where)
    except CheckpointError as error:
        raise InitialWeightsError(str(error)) from error
    except Exception as error:
        raise _unreadable(url, stage, error) from error
    if changes := differences(canonical(found, where="model"), canonical(model, where="model")):
        raise InitialWeightsError(
            f"{where} was saved with another model than {stage}.model (the file's → the "
            f"configuration's): {changes[0]}. Change {stage}.model, or give another file."
        )


def take_weights(initial: InitialWeights, folder: Folder) -> int:
    """Publish the file unchanged as the trained model; returns its number of parameters."""
    path = initial.local()
    # Loading also checks the file.
    parameters = sum(p.numel() for p in load_model(path).parameters())
    folder.publish(path, MODEL_FILE)
    return parameters


def _unreadable(url: str, stage: str, error: Exception) -> InitialWeightsError:
    return InitialWeightsError(
        f"{stage}.init_from={url} cannot be read: {error}. Give the path or URL of a file that "
        "`save_model`, a training stage or `unclip import` wrote."
    )
