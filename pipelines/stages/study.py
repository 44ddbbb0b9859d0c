"""The stage that compares ways to draw images, and baselines, on the evaluated captions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.artifacts import STUDY_FILE, ClipWeights, Evaluation, Study, TrainedModel
from pipelines.core.events import Metrics, Output
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.inputs import Weights
from pipelines.study.config import StudyConfig

Record = dict[str, Any]

__all__ = ["RunStudy", "StudyConfig"]


@dataclass(frozen=True)
class RunStudy(Stage[Study]):
    """Sources of the image embedding, guidance scales and baselines, with equal noise."""

    kind: ClassVar[str] = "study"
    artifact: ClassVar[type[Artifact]] = Study

    evaluation: Stage[Evaluation]
    clip: Stage[ClipWeights]
    priors: Mapping[str, Stage[TrainedModel]]  # the first is the standard one
    decoder: Stage[TrainedModel]
    upsamplers: Mapping[str, Stage[TrainedModel]]  # in the order of their use
    baselines: Mapping[str, Stage[TrainedModel]]  # decoders trained to be compared
    evaluate: EvaluateConfig  # sampling settings, judges and seed
    config: StudyConfig

    def run(self, ctx: Context) -> Study:
        """Draw, measure, and write study.json."""
        from pipelines.study.study import run_study  # open_clip takes seconds

        weights = Weights(
            clip=ctx.load(self.clip),
            priors={name: ctx.load(stage) for name, stage in self.priors.items()},
            decoder=ctx.load(self.decoder),
            upsamplers={name: ctx.load(stage) for name, stage in self.upsamplers.items()},
        )
        found = run_study(
            ctx,
            ctx.load(self.evaluation),
            weights,
            {name: ctx.load(stage) for name, stage in self.baselines.items()},
            evaluate=self.evaluate,
            config=self.config,
        )
        ctx.folder.write_json(STUDY_FILE, found)
        ctx.emit(Metrics(self.name, 0, values_by_name(**found)))
        ctx.emit(Output(self.name, STUDY_FILE))
        variants = found["variants"]
        return Study(ctx.folder, variants[0]["captions"], [record["name"] for record in variants])


def values_by_name(variants: list[Record], scenes: list[Record]) -> dict[str, float]:
    """The value of each figure; intervals are in study.json."""
    of_variants = {
        f"{record['name']}/{metric}": figure["value"]
        for record in variants
        for metric, figure in record["figures"].items()
    }
    of_scenes = {
        f"scenes/{record['kind']}/{part}": figure["value"]
        for record in scenes
        for part, figure in record["shares"].items()
    }
    return {**of_variants, **of_scenes}
