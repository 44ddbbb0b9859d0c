"""The pipeline's wiring, on one page. Building it runs nothing."""

from pipelines.artifacts import ClipWeights
from pipelines.config import PipelineConfig
from pipelines.core.stage import Graph, Stage
from pipelines.stages.clip import LoadClip, PretrainedClip, TrainClip
from pipelines.stages.download import Download
from pipelines.stages.embed import Embed
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.filter import Filter
from pipelines.stages.models import TrainDecoder, TrainPrior, TrainUpsampler1, TrainUpsampler2
from pipelines.stages.pca import Pca
from pipelines.stages.report import BuildReport
from pipelines.stages.select import Select


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
    prior = TrainPrior(*rows, config.prior.model, config.prior.training, config.loader)
    upsampler_1 = TrainUpsampler1(
        *rows, config.upsampler_1.model, config.upsampler_1.training, config.loader
    )
    upsampler_2 = TrainUpsampler2(
        *rows, config.upsampler_2.model, config.upsampler_2.training, config.loader
    )

    cascade = (prior, decoder, upsampler_1, upsampler_2)
    evaluation = Evaluate(*rows, clip, *cascade, config.evaluate)
    report = BuildReport(evaluation, downloaded, *rows, pca, clip, *cascade, config.report)
    return Graph([decoder, report])  # the decoder first: it takes longest
