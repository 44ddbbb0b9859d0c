"""The trained cascade as one model: a table of captions in, a table of images out.

The model is a small file that names results in the store; weights are not copied. MLflow loads it
by `_load_pyfunc`, as a model of the flavour `python_function`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import TypeAdapter

from pipelines.artifacts import ClipWeights, TrainedModel
from pipelines.core.errors import PipelineError
from pipelines.core.folder import Folder
from pipelines.core.stage import A
from pipelines.core.store import Store
from pipelines.evaluation.images import encode_png
from pipelines.evaluation.inputs import Weights
from pipelines.evaluation.model_worker import row_generator
from pipelines.evaluation.pipeline import load_pipeline, with_noise_norms
from unclip.generation import SamplingConfig
from unclip.output import to_images
from unclip.pipeline import UnclipPipeline

GENERATOR_FILE = "generator.json"
STORE_VARIABLE = "UNCLIP_STORE"  # where the store is now, if it was moved
BATCH = 32  # captions at once


def describe_generator(
    folder: Folder, weights: Weights, sampling: SamplingConfig, seed: int
) -> dict[str, Any]:
    """What `GENERATOR_FILE` says. folder: of the stage evaluate."""
    root = folder.url.rstrip("/").rsplit("/", 2)[0]
    return {
        "store": root,
        "evaluate": _label(folder),
        "clip": _label(weights.clip.folder),
        "priors": {name: _label(prior.folder) for name, prior in weights.priors.items()},
        "decoder": _label(weights.decoder.folder),
        "upsamplers": {name: _label(each.folder) for name, each in weights.upsamplers.items()},
        "sampling": TypeAdapter(SamplingConfig).dump_python(sampling, mode="json"),
        "seed": seed,
    }


def _label(folder: Folder) -> str:
    return "/".join(folder.url.rstrip("/").rsplit("/", 2)[1:])


@dataclass(frozen=True)
class Generator:
    """Draws images; loads the weights with the first table."""

    description: Mapping[str, Any]  # the content of `GENERATOR_FILE`

    def predict(self, table: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row for each row of the column `caption`: the caption, and `image`, a PNG file.

        params: `seed`; the same seed and caption give the same image. Raises `PipelineError` if the
        store lacks a model.
        """
        seed = int((params or {}).get("seed", self.description["seed"]))
        captions = [str(caption) for caption in table["caption"]]
        self.pipeline.warn_if_cut(captions)
        images = []
        for start in range(0, len(captions), BATCH):
            some = captions[start : start + BATCH]
            noise = [row_generator(seed, caption, "generated") for caption in some]
            images += to_images(self.pipeline.generate(some, generator=noise).pixels[-1])
        return pd.DataFrame({"caption": captions, "image": [encode_png(image) for image in images]})

    @cached_property
    def pipeline(self) -> UnclipPipeline:
        """The models, on a GPU if there is one."""
        stored = self.description
        weights = Weights(
            clip=self.artifact(ClipWeights, stored["clip"]),
            priors={n: self.artifact(TrainedModel, name) for n, name in stored["priors"].items()},
            decoder=self.artifact(TrainedModel, stored["decoder"]),
            upsamplers={
                n: self.artifact(TrainedModel, name) for n, name in stored["upsamplers"].items()
            },
        )
        sampling = TypeAdapter(SamplingConfig).validate_json(json.dumps(stored["sampling"]))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pipeline = load_pipeline(weights, sampling, device)
        folder = self.store.folder(*stored["evaluate"].split("/"))
        return with_noise_norms(pipeline, folder, seed=stored["seed"])

    @property
    def store(self) -> Store:
        """Where the results are."""
        return Store(os.environ.get(STORE_VARIABLE, self.description["store"]))

    def artifact(self, kind: type[A], label: str) -> A:
        """A finished result. Raises `PipelineError` if the store does not have it."""
        stage, key = label.split("/")
        manifest = self.store.manifest(stage, key)
        if manifest is None:
            raise PipelineError(
                f"The store {self.store.root} has no {label}. If it was moved, set "
                f"{STORE_VARIABLE} to its new path or URL."
            )
        return kind.of(self.store, stage, manifest)


def _load_pyfunc(path: str) -> Generator:
    """Called by MLflow with the path of `GENERATOR_FILE`."""
    return Generator(json.loads(Path(path).read_text()))
