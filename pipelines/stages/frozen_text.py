"""Priors that read the frozen CLIP's hidden states; its weights come from the stage `clip`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.artifacts import ClipWeights
from pipelines.core.stage import Context, Stage
from pipelines.stages.models import (
    TrainARPrior,
    TrainModel,
    TrainPrior,
    TrainSecondARPrior,
    TrainSecondPrior,
)

if TYPE_CHECKING:
    from torch import nn

    from pipelines.stages.tasks import ModelTask


@dataclass(frozen=True)
class ClipTextTask:
    """A task whose model starts with the text tower of a CLIP."""

    task: "ModelTask"
    clip: ClipWeights

    def __getattr__(self, name: str) -> Any:
        """All else is the task's own."""
        if name.startswith("__") or name == "task":  # asked for while unpickling
            raise AttributeError(name)
        return getattr(self.task, name)

    def build(self) -> "nn.Module":
        """The untrained model around the tower."""
        import torch

        from unclip.clip.frozen import FrozenClip
        from unclip.models import FrozenText

        model = self.task.build()
        tower: Any = model.text_encoder
        assert isinstance(tower, FrozenText)
        tower.take_from(FrozenClip.load(self.clip.folder.local(), device=torch.device("cpu")).model)
        return model


@dataclass(frozen=True)
class OnClipText(TrainModel):
    """What such trainings add to others: the CLIP whose hidden states are read."""

    clip: Stage[ClipWeights] = field(kw_only=True)

    def task(self, ctx: Context) -> Any:
        """What the workers train."""
        return ClipTextTask(super().task(ctx), ctx.load(self.clip))


@dataclass(frozen=True)
class TrainPriorOnClipText(OnClipText, TrainPrior):
    """Caption, by the frozen CLIP's hidden states → image embedding."""


@dataclass(frozen=True)
class TrainARPriorOnClipText(OnClipText, TrainARPrior):
    """The same, as codes of principal components."""


@dataclass(frozen=True)
class TrainSecondPriorOnClipText(OnClipText, TrainSecondPrior):
    """The first of these, to be compared with another prior."""


@dataclass(frozen=True)
class TrainSecondARPriorOnClipText(OnClipText, TrainSecondARPrior):
    """The second of these, to be compared with another prior."""
