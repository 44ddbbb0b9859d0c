"""The variants that a study compares: each is one way to draw an image for a caption."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipelines.study.config import StudyConfig
from unclip.config import ConfigError
from unclip.generation import SamplingConfig

Group = Literal["source", "prior_guidance", "decoder_guidance"]

# Sources of the image embedding other than a prior (figure 8 of the paper).
NO_EMBEDDING = "no_embedding"  # the learned null: the decoder knows the caption only
TEXT_EMBEDDING = "text_embedding"  # the CLIP embedding of the caption, as if it were an image's
TRUE_EMBEDDING = "true_embedding"  # that of the caption's own image, which no prior can beat
SOURCES = (NO_EMBEDDING, TEXT_EMBEDDING, TRUE_EMBEDDING)
DECODER = "decoder"
SWEEPS = {"decoder_guidance": "decoder", "prior_guidance": "prior"}  # group → what is guided


class Settings(NamedTuple):
    """Source of the embedding, decoder, and the two guidance scales."""

    source: str
    decoder: str
    prior_guidance: float
    decoder_guidance: float


@dataclass(frozen=True)
class Variant:
    """One way to draw an image for a caption. The caption is always given to the decoder."""

    group: Group
    label: str  # unique in its group
    source: str  # a prior's name, or one of `SOURCES`
    decoder: str  # `DECODER`, or the name of a baseline
    prior_guidance: float
    decoder_guidance: float

    @property
    def settings(self) -> Settings:
        """What decides the images: variants of equal settings draw equal images."""
        return Settings(self.source, self.decoder, self.prior_guidance, self.decoder_guidance)

    @property
    def name(self) -> str:
        """Unique in a study, as in "decoder_guidance/2"."""
        return f"{self.group}/{self.label}"


@dataclass(frozen=True)
class Models:
    """The names of what can be varied."""

    priors: Sequence[str]  # the first one draws the images of the evaluation
    baselines: Sequence[str]  # other decoders

    def __post_init__(self) -> None:
        """Raise `ConfigError` if a model has the name of a source."""
        taken = [name for name in (*self.priors, *self.baselines) if name in SOURCES]
        if taken:
            raise ConfigError(
                f"a model is named {taken[0]}, as a source of image embeddings in the study; "
                "choose another name"
            )


def variants_of(config: StudyConfig, sampling: SamplingConfig, models: Models) -> list[Variant]:
    """Every variant; the standard one, with the first prior, is among the sources."""
    return [*_sources(sampling, models), *_sweeps(config, sampling, models)]


def standard_of(models: Models) -> str:
    """The name of the variant that draws like the evaluation."""
    return f"source/{models.priors[0]}"


def _sources(sampling: SamplingConfig, models: Models) -> Iterator[Variant]:
    scales = (sampling.prior.guidance_scale, sampling.decoder.guidance_scale)
    for source in (NO_EMBEDDING, TEXT_EMBEDDING, *models.priors, TRUE_EMBEDDING):
        yield Variant("source", source, source, DECODER, *scales)
    for baseline in models.baselines:
        yield Variant("source", baseline, NO_EMBEDDING, baseline, *scales)


def _sweeps(config: StudyConfig, sampling: SamplingConfig, models: Models) -> Iterator[Variant]:
    prior = models.priors[0]
    of_prior, of_decoder = sampling.prior.guidance_scale, sampling.decoder.guidance_scale
    for scale in config.prior_guidance:
        yield Variant("prior_guidance", f"{scale:g}", prior, DECODER, scale, of_decoder)
    for scale in config.decoder_guidance:
        yield Variant("decoder_guidance", f"{scale:g}", prior, DECODER, of_prior, scale)
