"""The wiring of the pipeline on one page. Building a graph reads no data and runs nothing."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    VerdictShards,
)
from pipelines.config.models import ModelSection
from pipelines.config.sections import OwnStageSection, PipelineConfig, RunSection
from pipelines.core.graph import Graph
from pipelines.core.stage import Artifact, Stage
from pipelines.stages.clip import LoadClip, PretrainedClip, TrainClip
from pipelines.stages.data_report import BuildDataReport
from pipelines.stages.download import Download
from pipelines.stages.embed import Embed
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.filter import Filter
from pipelines.stages.pca import Pca
from pipelines.stages.report import BuildReport
from pipelines.stages.select import Select
from pipelines.stages.study import RunStudy
from pipelines.stages.train import LoaderSettings, TrainModel
from pipelines.stages.url_list import UrlList
from unclip.config import ConfigError
from unclip.extension import did_you_mean, resolve
from unclip.kinds import spec_of
from unclip.models import FrozenTextConfig


@dataclasses.dataclass(frozen=True)
class _TrainingInputs:
    """The stages that trainings read."""

    pairs: Stage[PairShards]
    embeddings: Stage[EmbeddingShards]
    selection: Stage[SelectionShards]
    pca: Stage[PcaBasisFile]
    clip: Stage[ClipWeights]


def unclip_graph(config: PipelineConfig) -> Graph:
    """All stages: from a list of URLs to evaluated models and their report, and the user's own."""
    urls = UrlList(config.source)
    pairs = Download(urls, config.download, config.source, config.run.store)
    verdicts = Filter(pairs, config.filter)
    clip = clip_stage(config, pairs, verdicts)
    embeddings = Embed(pairs, verdicts, clip, config.embed)
    selection = Select(pairs, embeddings, config.select)
    pca = Pca(embeddings, selection, config.pca)

    inputs = _TrainingInputs(pairs, embeddings, selection, pca, clip)
    models = {
        name: training_stage(name, section, inputs, config.loader, config.run)
        for name, section in config.models.items()
    }
    cascade: dict[str, Any] = {
        "priors": {name: models[name] for name in config.priors},
        "decoder": models["decoder"],
        "upsamplers": {name: models[name] for name in config.upsamplers},
    }
    evaluation = Evaluate(pairs, embeddings, selection, clip, **cascade, config=config.evaluate)
    baselines = {name: models[name] for name in config.baselines}
    study = (
        RunStudy(
            evaluation,
            clip,
            **cascade,
            baselines=baselines,
            evaluate=config.evaluate,
            config=config.study,
            name="study",
        )
        if config.study
        else None
    )
    data = BuildDataReport(urls, pairs, verdicts, embeddings, selection, pca)
    report = BuildReport(evaluation, data, clip, **cascade, config=config.report, study=study)
    graph = Graph([models["decoder"], report])  # the decoder first: it takes longest
    return Graph([*graph.stages.values(), *own_stages(config.stages, graph).values()])


def clip_stage(
    config: PipelineConfig, pairs: Stage[PairShards], verdicts: Stage[VerdictShards]
) -> Stage[ClipWeights]:
    """The CLIP, loaded or trained here."""
    if isinstance(config.clip, PretrainedClip):
        return LoadClip(config.clip, name="clip")
    fraction = config.select.held_out_fraction
    return TrainClip(
        pairs,
        verdicts,
        config.clip,
        fraction,
        config.loader,
        parallel=config.run.training_of("clip"),
        peak_flops_per_s=config.run.peak_flops_per_s(config.clip.training.precision),
        name="clip",
    )


def training_stage(
    name: str,
    section: ModelSection,
    inputs: _TrainingInputs,
    loader: LoaderSettings,
    run: RunSection,
) -> TrainModel:
    """The training of one section's model.

    When training starts from random weights, a network with `calibrate` depends on the PCA, and a
    model that reads captions with the CLIP's own text tower depends on the CLIP.
    """
    is_random = section.init_from is None
    is_calibrated = hasattr(spec_of(section.model).network, "calibrate")
    text_encoder = getattr(section.model, "text_encoder", None)
    return TrainModel(
        inputs.pairs,
        inputs.embeddings,
        inputs.selection,
        section.model,
        section.training,
        loader,
        init_from=section.init_from,
        pca=inputs.pca if is_random and is_calibrated else None,
        clip=inputs.clip if is_random and isinstance(text_encoder, FrozenTextConfig) else None,
        parallel=run.training_of(name),
        peak_flops_per_s=run.peak_flops_per_s(section.precision),
        name=name,
    )


def own_stages(sections: Mapping[str, OwnStageSection], graph: Graph) -> dict[str, Stage[Artifact]]:
    """The stages of the section `stages`, in its order; each may read those before it."""
    known = dict(graph.stages)
    own: dict[str, Stage[Artifact]] = {}
    for name, section in sections.items():
        own[name] = known[name] = own_stage(name, section, known)
    return own


def own_stage(
    name: str, section: OwnStageSection, known: Mapping[str, Stage[Artifact]]
) -> Stage[Artifact]:
    """One stage of the user's own. Raises `ConfigError` naming the setting that is wrong."""
    kind: Any = resolve(section.use, {}, what=f"stages.{name}.use")
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise ConfigError(f"stages.{name}.use={section.use} is not a subclass of Stage")
    unknown = [input_ for input_ in section.inputs.values() if input_ not in known]
    if unknown:
        raise ConfigError(
            f"stages.{name}.inputs names {unknown[0]!r}, which is not an earlier stage"
            f"{did_you_mean(unknown[0], tuple(known))}"
        )
    values = {field: known[input_] for field, input_ in section.inputs.items()}
    hints = typing.get_type_hints(kind)
    try:
        for field, value in section.settings.items():
            hint = hints.get(field, Any)
            values[field] = TypeAdapter(hint).validate_json(json.dumps(value))
        return kind(**values, name=name)
    except (TypeError, ValidationError) as error:
        fields = ", ".join(f.name for f in dataclasses.fields(kind) if f.name != "name")
        raise ConfigError(
            f"stages.{name}: {kind.__name__} cannot be made from these inputs and settings: "
            f"{' '.join(str(error).split())}. Its fields are {fields}"
        ) from error
