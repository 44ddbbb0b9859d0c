"""The typed, frozen configuration: one class for each section of the YAML file.

Every section but `run` determines results, and so is part of the stages' keys. The section `run`
sets where the work runs and with which resources. It does not change any result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.config.checks import check_models, check_study, check_towers, check_widths
from pipelines.config.devices import DeviceSettings
from pipelines.config.models import DecoderSection, ModelSection, PriorSection, UpsamplerSection
from pipelines.config.run_checks import check_resources
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.data.download_config import DownloadConfig
from pipelines.data.filter_config import FilterConfig
from pipelines.data.sources import SourceConfig
from pipelines.evaluation.config import EvaluateConfig
from pipelines.report.config import ReportConfig
from pipelines.stages.clip import PretrainedClip, TrainedClip
from pipelines.stages.embed import EmbedConfig
from pipelines.stages.pca import PcaConfig
from pipelines.stages.select import SelectConfig
from pipelines.stages.train import LoaderSettings, TrainingSection
from pipelines.study.config import StudyConfig
from pipelines.tracking.settings import TrackingSettings
from unclip.config import Config, ConfigError
from unclip.training import Parallel

BEFORE_MODELS = ("list", "download", "filter", "clip", "embed", "select", "pca")
AFTER_MODELS = ("evaluate", "study", "data_report", "report")


@dataclass(frozen=True, kw_only=True)
class RunSection(Config):
    """Where the pipeline runs, and with which resources. Nothing here changes a result."""

    store: str  # a folder, or a URL that fsspec knows, such as s3://bucket/prefix
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    resources: Mapping[str, Resources] = field(default_factory=dict)  # by stage
    training: Mapping[str, Parallel] = field(default_factory=dict)  # by stage that trains
    device: DeviceSettings | None = None  # the GPUs, for estimates; null: no training is checked
    retries: int = 3  # of a shard or a training whose worker died
    wait_s: float = 600.0  # the longest wait for resources
    on_busy: Literal["wait", "leave"] = "wait"  # for a stage that another run is making

    def training_of(self, stage: str) -> Parallel:
        """How the training of a stage is computed."""
        return self.training.get(stage, Parallel())

    def peak_flops_per_s(self, precision: str) -> float | None:
        """The most that a GPU of the run can reach; None if `device` is not given."""
        return self.device.peak_flops_per_s(precision) if self.device else None

    def __post_init__(self) -> None:
        if self.retries < 0 or self.wait_s <= 0:
            raise ConfigError(
                f"retries={self.retries} must not be negative, and wait_s={self.wait_s} positive"
            )


@dataclass(frozen=True, kw_only=True)
class OwnStageSection(Config):
    """A stage of the user's own, in addition to the built-in ones."""

    use: str  # "module:Class", a subclass of pipelines.core.stage.Stage
    inputs: Mapping[str, str] = field(default_factory=dict)  # its field → the stage that it reads
    settings: Mapping[str, Any] = field(default_factory=dict)  # its other fields


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Config):
    """The whole pipeline, section by section, in the order of its stages."""

    preset: str  # the sizes of the models: tiny, small, paper, karlo
    source: SourceConfig
    download: DownloadConfig
    filter: FilterConfig
    clip: Annotated[PretrainedClip | TrainedClip, Field(discriminator="kind")]
    embed: EmbedConfig
    select: SelectConfig
    pca: PcaConfig
    loader: LoaderSettings
    priors: Mapping[str, PriorSection]  # by name; the first draws the images, all are compared
    decoder: DecoderSection
    upsamplers: Mapping[str, UpsamplerSection]  # by name, in the order of their use
    baselines: Mapping[str, DecoderSection] = field(default_factory=dict)  # for the study, by name
    evaluate: EvaluateConfig
    study: StudyConfig | None = None  # null: variants and baselines are not compared
    report: ReportConfig
    run: RunSection
    stages: Mapping[str, OwnStageSection] = field(default_factory=dict)  # of the user's own

    def __post_init__(self) -> None:
        if not self.priors:
            raise ConfigError(
                "priors is empty; give at least one, such as prior: {kind: diffusion}"
            )
        self._check_names()
        check_resources(self)
        self.filter.check_columns(self.source.columns or {})
        check_widths(self)
        check_models(self)
        check_towers(self)
        check_study(self)

    @property
    def models(self) -> dict[str, ModelSection]:
        """The sections of the models that are trained, by stage."""
        return {**self.priors, "decoder": self.decoder, **self.upsamplers, **self.baselines}

    @property
    def trainings(self) -> dict[str, TrainingSection]:
        """The sections of all trainings, by stage."""
        clip = {"clip": self.clip} if isinstance(self.clip, TrainedClip) else {}
        return {**clip, **self.models}

    @property
    def decoders(self) -> dict[str, DecoderSection]:
        """The decoder and the baselines, by their path in the file."""
        baselines = {f"baselines.{name}": section for name, section in self.baselines.items()}
        return {"decoder": self.decoder, **baselines}

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Every stage of the pipeline, in order."""
        after = (name for name in AFTER_MODELS if name != "study" or self.study)
        return (*BEFORE_MODELS, *self.models, *after, *self.stages)

    def _check_names(self) -> None:
        models = [*self.priors, "decoder", *self.upsamplers, *self.baselines]
        names = [*BEFORE_MODELS, *models, *AFTER_MODELS]
        twice = {name for name in names if names.count(name) > 1} | (set(names) & set(self.stages))
        if twice:
            raise ConfigError(
                f"two stages are named {', '.join(sorted(twice))}; rename one in priors, "
                "upsamplers, baselines or stages, because a name is a folder of the store"
            )
