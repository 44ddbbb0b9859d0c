"""The pipeline's wiring, on one page. Building it runs nothing."""

from typing import Any, cast

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    TrainedModel,
)
from pipelines.config.sections import (
    AnyDecoderSection,
    AnyUpsamplerSection,
    ARPriorSection,
    PipelineConfig,
    PriorSection,
)
from pipelines.core.stage import Graph, Stage
from pipelines.stages.clip import LoadClip, PretrainedClip, TrainClip
from pipelines.stages.download import Download
from pipelines.stages.embed import Embed
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.filter import Filter
from pipelines.stages.frozen_text import (
    TrainARPriorOnClipText,
    TrainPriorOnClipText,
    TrainSecondARPriorOnClipText,
    TrainSecondPriorOnClipText,
)
from pipelines.stages.initial import find_weights
from pipelines.stages.models import (
    LoaderSettings,
    TrainARPrior,
    TrainDecoder,
    TrainModel,
    TrainPrior,
    TrainSecondARPrior,
    TrainSecondPrior,
    TrainUpsampler1,
    TrainUpsampler2,
)
from pipelines.stages.pca import Pca
from pipelines.stages.report import BuildReport
from pipelines.stages.select import Select
from unclip.models import FrozenTextConfig

ON_CLIP_TEXT: dict[type, Any] = {
    TrainPrior: TrainPriorOnClipText,
    TrainARPrior: TrainARPriorOnClipText,
    TrainSecondPrior: TrainSecondPriorOnClipText,
    TrainSecondARPrior: TrainSecondARPriorOnClipText,
}
Rows = tuple[Stage[PairShards], Stage[EmbeddingShards], Stage[SelectionShards]]


def unclip_graph(config: PipelineConfig) -> Graph:
    """From a list of URLs to evaluated models and their report."""
    downloaded = Download(config.source, config.download)
    pairs = Filter(downloaded, config.filter)

    clip: Stage[ClipWeights]
    if isinstance(config.clip, PretrainedClip):
        clip = LoadClip(config.clip, name="clip")
    else:
        fraction = config.select.held_out_fraction
        clip = TrainClip(pairs, config.clip, fraction, config.loader, name="clip")

    embeddings = Embed(pairs, clip, config.embed)
    selection = Select(embeddings, config.select)
    pca = Pca(embeddings, selection, config.pca)

    rows = (pairs, embeddings, selection)
    decoder = model_stage(TrainDecoder, rows, config.decoder, config.loader)
    prior = prior_stage(rows, pca, clip, config.prior, config.loader)
    upsampler_1 = model_stage(TrainUpsampler1, rows, config.upsampler_1, config.loader)

    priors, upsamplers = {"prior": prior}, {"upsampler_1": upsampler_1}
    if config.upsampler_2 is not None:
        upsamplers["upsampler_2"] = model_stage(
            TrainUpsampler2, rows, config.upsampler_2, config.loader
        )
    if config.second_prior is not None:
        priors["second_prior"] = prior_stage(
            rows, pca, clip, config.second_prior, config.loader, second=True
        )

    models = (priors, decoder, upsamplers)
    evaluation = Evaluate(*rows, clip, *models, config.evaluate)
    report = BuildReport(evaluation, downloaded, *rows, pca, clip, *models, config.report)
    return Graph([decoder, report])  # the decoder first: it takes longest


def prior_stage(
    rows: Rows,
    pca: Stage[PcaBasisFile],
    clip: Stage[ClipWeights],
    section: PriorSection,
    loader: LoaderSettings,
    *,
    second: bool = False,
) -> Stage[TrainedModel]:
    """The training of a prior of any kind.

    A new autoregressive one depends on the PCA, and a new one on CLIP's hidden states on the CLIP.
    """
    if section.init_from is not None:
        return model_stage(TrainSecondPrior if second else TrainPrior, rows, section, loader)
    own = (*rows, section.model, section.training, loader)
    needs: tuple[Stage[PcaBasisFile], ...] = ()
    kind: Any = TrainSecondPrior if second else TrainPrior
    if isinstance(section, ARPriorSection):
        kind, needs = (TrainSecondARPrior if second else TrainARPrior), (pca,)
    if isinstance(section.model.text_encoder, FrozenTextConfig):
        return cast(Stage[TrainedModel], ON_CLIP_TEXT[kind](*own, *needs, clip=clip))
    return cast(Stage[TrainedModel], kind(*own, *needs))


def model_stage(
    kind: type[TrainModel],
    rows: Rows,
    section: PriorSection | AnyDecoderSection | AnyUpsamplerSection,
    loader: LoaderSettings,
) -> TrainModel:
    """The training of a section's model, from the weights that it names."""
    initial = find_weights(section.init_from, section.model, section=kind.kind)
    return kind(*rows, section.model, section.training, loader, initial=initial)
