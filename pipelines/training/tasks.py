"""A model of the cascade, of any registered kind, as a task for the training loop."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pipelines.artifacts import MODEL_FILE, ClipWeights
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from pipelines.training.calibration import Calibration
from pipelines.training.initial_weights import InitialWeights
from unclip.checkpoint import save_weights
from unclip.kinds import build, preview, spec_of, training_loss
from unclip.meta_device import build_empty
from unclip.output import to_images
from unclip.training import Batch, Loss

log = logging.getLogger(__name__)

COLUMNS = 8  # images in a row of a preview


@dataclass(frozen=True)
class ModelTask:
    """A `TrainingTask`: the model that a config describes, and its initial weights."""

    config: Any  # of a registered kind
    preview_seed: int
    initial: InitialWeights | None = field(default=None, kw_only=True)  # None: random weights
    calibration: Calibration | None = field(default=None, kw_only=True)
    clip: ClipWeights | None = field(default=None, kw_only=True)  # source of its text tower

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns of a row that the loss needs."""
        return (*spec_of(self.config).batch_fields, "keys")

    @property
    def image_size(self) -> int | None:
        """Side of "pixels", in pixels; None if the loss reads no images."""
        return self.config.image_size if "pixels" in self.fields else None

    @property
    def context_length(self) -> int:
        """Length of "tokens"; 0 if the loss reads no tokens."""
        return self.config.text_encoder.context_length if "tokens" in self.fields else 0

    @property
    def loss(self) -> Loss[Any]:
        """The objective of the model's kind."""
        return training_loss

    def build(self) -> nn.Module:
        """The model before its first step."""
        if self.initial:
            return self.initial.load()
        model: Any = build(self.config)
        if self.calibration:
            model.calibrate(self.calibration.basis, self.calibration.dot_edges)
        if self.clip:
            from unclip.clip.frozen import FrozenClip  # here, because open_clip takes seconds

            clip = FrozenClip.load(self.clip.folder.local(), device=torch.device("cpu"))
            model.text_encoder.take_from(clip.model)
        built: nn.Module = model
        return built

    def build_empty(self) -> nn.Module:
        """The model of `build` on the meta device."""
        model = build_empty(partial(build, self.config))
        return model.float() if self.initial else model

    def save(self, model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the weights with their config inside."""
        save_weights(folder / MODEL_FILE, model, weights)

    def preview(self, model: nn.Module, batch: Batch, path: Path) -> bool:
        """Write real and sampled images, from the same noise every time."""
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(self.preview_seed)
        images = preview(model, batch, generator=generator)
        tiles = [Tile(image) for image in to_images(images)]
        columns = min(COLUMNS, len(batch["keys"]))  # so that each kind of image has its own row
        draw_grid(in_rows(tiles, columns), enlarge=Image.Resampling.NEAREST).save(path)
        return True
