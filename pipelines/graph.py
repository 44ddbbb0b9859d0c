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
from pipelines.config import ARPriorSection, DiffusionPriorSection, PipelineConfig
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
from pipelines.stages.models import (
    LoaderSettings,
    TrainARPrior,
    TrainDecoder,
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
        clip = LoadClip(config.clip)
    else:
        clip = TrainClip(pairs, config.clip, config.select.held_out_fraction, config.loader)

    embeddings = Embed(pairs, clip, config.embed)
    selection = Select(embeddings, config.select)
    pca = Pca(embeddings, selection, config.pca)

    rows = (pairs, embeddings, selection)
    decoder = TrainDecoder(*rows, config.decoder.model, config.decoder.training, config.loader)
    prior = prior_stage(rows, pca, clip, config.prior, config.loader)
    upsampler_1 = TrainUpsampler1(
        *rows, config.upsampler_1.model, config.upsampler_1.training, config.loader
    )
    upsampler_2 = TrainUpsampler2(
        *rows, config.upsampler_2.model, config.upsampler_2.training, config.loader
    )

    second_prior = None
    if config.second_prior is not None:
        second_prior = prior_stage(rows, pca, clip, config.second_prior, config.loader, second=True)

    cascade = (prior, decoder, upsampler_1, upsampler_2)
    evaluation = Evaluate(*rows, clip, *cascade, config.evaluate, second_prior)
    report = BuildReport(
        evaluation, downloaded, *rows, pca, clip, *cascade, config.report, second_prior
    )
    return Graph([decoder, report])  # the decoder first: it takes longest


def prior_stage(
    rows: Rows,
    pca: Stage[PcaBasisFile],
    clip: Stage[ClipWeights],
    section: DiffusionPriorSection | ARPriorSection,
    loader: LoaderSettings,
    *,
    second: bool = False,
) -> Stage[TrainedModel]:
    """The training of a prior of either kind.

    An autoregressive one depends on the PCA, and one on the CLIP's hidden states on the CLIP.
    """
    own = (*rows, section.model, section.training, loader)
    needs: tuple[Stage[PcaBasisFile], ...] = ()
    kind: Any = TrainSecondPrior if second else TrainPrior
    if isinstance(section, ARPriorSection):
        kind, needs = (TrainSecondARPrior if second else TrainARPrior), (pca,)
    if isinstance(section.model.text_encoder, FrozenTextConfig):
        return cast(Stage[TrainedModel], ON_CLIP_TEXT[kind](*own, *needs, clip=clip))
    return cast(Stage[TrainedModel], kind(*own, *needs))
