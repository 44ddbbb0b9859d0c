"""One YAML file → one typed, frozen configuration; what cannot work is refused with its line.

Everything but `run` is part of what is made, and so of the stages' keys; `run` says where and with
what, and changes nothing that is made. `preset` fills in the sizes of the models and of their
sampling, which the file may change field by field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from pipelines.core.resources import ClusterSettings, Resources
from pipelines.data.download import DownloadConfig
from pipelines.data.filter import FilterConfig
from pipelines.evaluation.config import EvaluateConfig
from pipelines.report.config import ReportConfig
from pipelines.stages.clip import PretrainedClip, TrainedClip
from pipelines.stages.download import SourceConfig
from pipelines.stages.embed import EmbedConfig
from pipelines.stages.models import LoaderSettings, ModelSection
from pipelines.stages.pca import PcaConfig
from pipelines.stages.select import SelectConfig
from pipelines.tracking.settings import TrackingSettings
from unclip.config import Config, ConfigError
from unclip.generation import check_decoder_sampler
from unclip.generation.guidance import check_guidance
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UpsamplerConfig,
)
from unclip.models.compatibility import check_compatibility
from unclip.models.frozen_text import check_clip_text


@dataclass(frozen=True, kw_only=True)
class DiffusionPriorSection(ModelSection):
    """Caption → CLIP image embedding, by denoising it."""

    kind: Literal["diffusion"]  # a diffusion prior
    model: DiffusionPriorConfig


@dataclass(frozen=True, kw_only=True)
class ARPriorSection(ModelSection):
    """Caption → CLIP image embedding, one quantised component after the other."""

    kind: Literal["autoregressive"]  # an autoregressive prior
    model: ARPriorConfig


@dataclass(frozen=True, kw_only=True)
class KarloPriorSection(ModelSection):
    """Caption → CLIP image embedding with its own length, by denoising it."""

    kind: Literal["karlo"]  # Karlo's prior
    model: KarloPriorConfig


@dataclass(frozen=True, kw_only=True)
class DecoderSection(ModelSection):
    """CLIP image embedding and caption → small picture."""

    kind: Literal["paper"]  # the paper's; the preset's kind where none is given
    model: DecoderConfig


@dataclass(frozen=True, kw_only=True)
class KarloDecoderSection(ModelSection):
    """CLIP image embedding with its own length and caption → small picture."""

    kind: Literal["karlo"]  # Karlo's; the preset's kind where none is given
    model: KarloDecoderConfig


@dataclass(frozen=True, kw_only=True)
class UpsamplerSection(ModelSection):
    """A picture → one of a larger size."""

    kind: Literal["paper"]  # the paper's; the preset's kind where none is given
    model: UpsamplerConfig


@dataclass(frozen=True, kw_only=True)
class KarloUpsamplerSection(ModelSection):
    """A picture → one of a larger size, in few steps, the last by a network of its own."""

    kind: Literal["karlo"]  # Karlo's; the preset's kind where none is given
    model: KarloUpsamplerConfig


ByKind = Field(discriminator="kind")
PriorSection = Annotated[DiffusionPriorSection | ARPriorSection | KarloPriorSection, ByKind]
AnyDecoderSection = Annotated[DecoderSection | KarloDecoderSection, ByKind]
AnyUpsamplerSection = Annotated[UpsamplerSection | KarloUpsamplerSection, ByKind]


STAGES = (
    *("download", "filter", "clip", "embed", "select", "pca"),
    *("prior", "second_prior", "decoder", "upsampler_1", "upsampler_2"),
    *("evaluate", "report"),
)


@dataclass(frozen=True, kw_only=True)
class RunSection(Config):
    """Where and with what it runs; none of it changes what is made."""

    store: str  # a folder, or a URL that fsspec knows, such as s3://bucket/prefix
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    resources: Mapping[str, Resources] = field(default_factory=dict)  # by stage
    retries: int = 3  # of a shard or a training whose worker died
    wait_s: float = 600.0  # the longest wait for resources

    def __post_init__(self) -> None:
        if self.retries < 0 or self.wait_s <= 0:
            raise ConfigError(
                f"retries={self.retries} must not be negative, and wait_s={self.wait_s} positive"
            )
        unknown = sorted(self.resources.keys() - set(STAGES))
        if unknown:
            raise ConfigError(
                f"resources names {', '.join(unknown)}, which would change nothing; the stages "
                f"are {', '.join(STAGES)}"
            )


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Config):
    """The whole pipeline, section by section, in the order of its stages."""

    preset: Literal["tiny", "small", "paper", "karlo"]  # the sizes of the models
    source: SourceConfig
    download: DownloadConfig
    filter: FilterConfig
    clip: Annotated[PretrainedClip | TrainedClip, Field(discriminator="kind")]
    embed: EmbedConfig
    select: SelectConfig
    pca: PcaConfig
    loader: LoaderSettings
    prior: PriorSection
    decoder: AnyDecoderSection
    upsampler_1: AnyUpsamplerSection
    upsampler_2: AnyUpsamplerSection | None  # null: the first makes the pictures
    evaluate: EvaluateConfig
    report: ReportConfig
    run: RunSection
    second_prior: PriorSection | None = (
        None  # compared with the first, whose training settings it has by default
    )

    def __post_init__(self) -> None:
        self.check_widths()
        self.check_models()
        self.check_towers()
        self.check_logical_ranks()

    @property
    def priors(self) -> dict[str, DiffusionPriorSection | ARPriorSection | KarloPriorSection]:
        """The one that pictures are drawn with, and the one that it is compared with, if any."""
        second = {} if self.second_prior is None else {"second_prior": self.second_prior}
        return {"prior": self.prior, **second}

    @property
    def upsamplers(self) -> dict[str, UpsamplerSection | KarloUpsamplerSection]:
        """In the order in which pictures pass them."""
        second = {} if self.upsampler_2 is None else {"upsampler_2": self.upsampler_2}
        return {"upsampler_1": self.upsampler_1, **second}

    @property
    def models(self) -> dict[str, ModelSection]:
        """The sections of the cascade's models, by stage."""
        return {**self.priors, "decoder": self.decoder, **self.upsamplers}

    def check_widths(self) -> None:
        """The CLIP's width against that of the models and the PCA."""
        width = self.clip.width
        if width is None:
            return
        readers = {**self.priors, "decoder": self.decoder}
        for name, model in ((name, section.model) for name, section in readers.items()):
            if model.embed_dim != width:
                raise ConfigError(
                    f"{name}.model.embed_dim={model.embed_dim}, but the CLIP of section clip "
                    f"makes embeddings of width {width}; set {name}.model.embed_dim={width}, or "
                    "choose another CLIP"
                )
        if isinstance(self.clip, TrainedClip):
            for name, section in self.priors.items():
                check_clip_text(name, section.model.text_encoder, self.clip.architecture)
        if self.pca.dimensions > width:
            raise ConfigError(
                f"pca.dimensions={self.pca.dimensions} is more than the CLIP's width {width}; "
                f"give {width} or less"
            )

    def check_models(self) -> None:
        """The models against each other."""
        sampling = self.evaluate.sampling
        check_decoder_sampler(sampling, self.decoder.model)
        check_guidance("decoder", sampling.decoder_guidance_scale, self.decoder.model)
        upsamplers = [section.model for section in self.upsamplers.values()]
        for name, prior in self.priors.items():
            check_guidance("prior", sampling.prior_guidance_scale, prior.model)
            check_compatibility(prior.model, self.decoder.model, upsamplers)
            lengths = [m.text_encoder.context_length for m in (prior.model, self.decoder.model)]
            if lengths[0] != lengths[1]:
                raise ConfigError(
                    f"{name}.model.text_encoder.context_length={lengths[0]} and that of "
                    f"decoder.model, {lengths[1]}, differ; captions are tokenised once for both, "
                    "so make them equal"
                )
            if isinstance(prior, ARPriorSection) and prior.model.dimensions != self.pca.dimensions:
                raise ConfigError(
                    f"{name}.model.dimensions={prior.model.dimensions}, but pca.dimensions="
                    f"{self.pca.dimensions}; it predicts the components that the PCA keeps, so "
                    "make them equal"
                )

    def check_towers(self) -> None:
        """Frozen text towers need weights to begin with."""
        for name, section in {**self.priors, "decoder": self.decoder}.items():
            is_karlo = isinstance(section, KarloPriorSection | KarloDecoderSection)
            if is_karlo and section.init_from is None:
                raise ConfigError(
                    f"{name}.init_from is null, but Karlo's text tower is frozen and would stay "
                    "random; give the file of an imported Karlo"
                )

    def check_logical_ranks(self) -> None:
        """The logical ranks of each training against its workers."""
        for name, section in self.models.items():
            logical_ranks = section.logical_ranks
            workers = self.run.resources.get(name, Resources()).workers
            if logical_ranks % workers:
                raise ConfigError(
                    f"run.resources.{name}.workers={workers} cannot share "
                    f"{name}.logical_ranks={logical_ranks} evenly; give a number that divides it"
                )
