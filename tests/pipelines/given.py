"""Stages that make small artifacts without training, for tests of the stages that read them.

`local.make` runs a stage and everything it depends on.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from pipelines.artifacts import (
    ClipWeights,
    EmbeddingShards,
    Evaluation,
    PairShards,
    PcaBasisFile,
    SelectionShards,
    TrainedModel,
    VerdictShards,
)
from pipelines.artifacts.schema import SELECTION, embeddings, pca_basis
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.embeddings.encode import EmbedWorker
from pipelines.embeddings.rows import PairRows
from pipelines.embeddings.selection import verdict
from pipelines.evaluation.config import EvaluateConfig
from pipelines.stages.evaluate import Evaluate
from tests.pipelines.given_pairs import GivenPairs, GivenVerdicts
from tests.pipelines.local import own_entries, write_table
from unclip import presets
from unclip.checkpoint import save_model
from unclip.clip.frozen import FrozenClip
from unclip.clip.training import ClipArchitecture, build_clip
from unclip.config import Config
from unclip.generation import (
    DecoderSampling,
    PriorSampling,
    SamplingConfig,
    UpsamplerSampling,
)
from unclip.judges import JudgeConfig
from unclip.kinds import build
from unclip.models import ARPriorConfig, UpsamplerConfig
from unclip.presets import Preset

CONTEXT_LENGTH = 24  # as in the tiny preset


@dataclass(frozen=True)
class GivenClip(Stage[ClipWeights]):
    """A small CLIP with random weights."""

    kind: ClassVar[str] = "clip"
    artifact: ClassVar[type[Artifact]] = ClipWeights

    width: int = 64

    def run(self, ctx: Context) -> ClipWeights:
        architecture = ClipArchitecture(
            embed_dim=self.width,
            image_size=32,
            patch_size=8,
            vision_width=64,
            vision_layers=2,
            vision_heads=2,
            text_context_length=CONTEXT_LENGTH,
            text_width=64,
            text_layers=1,
            text_heads=2,
            init_temperature=0.07,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_clip(architecture)
        device = torch.device("cpu")
        clip = FrozenClip.from_trained(model, architecture, name="given", device=device)
        with tempfile.TemporaryDirectory() as scratch:
            clip.save(Path(scratch))
            for file in Path(scratch).iterdir():
                ctx.folder.publish(file, file.name)
        return ClipWeights(
            ctx.folder, "given", clip.digest, clip.width, clip.image_size, clip.context_length
        )


@dataclass(frozen=True)
class GivenEmbeddings(Stage[EmbeddingShards]):
    """The embeddings of the pairs by that CLIP."""

    kind: ClassVar[str] = "embed"
    artifact: ClassVar[type[Artifact]] = EmbeddingShards

    pairs: Stage[PairShards]
    verdicts: Stage[VerdictShards]
    clip: Stage[ClipWeights]

    def run(self, ctx: Context) -> EmbeddingShards:
        pairs, verdicts, clip = (ctx.load(s) for s in (self.pairs, self.verdicts, self.clip))
        items = {name: PairRows(pairs.url(name), verdicts.url(name)) for name in pairs.shards}
        worker = EmbedWorker(clip, batch_size=16)
        ctx.map_shards(worker, items, schema=embeddings(clip.width), unit="shards")
        shards = own_entries({name: entry.rows for name, entry in pairs.shards.items()})
        counts = {"embedded": pairs.total_rows}
        return EmbeddingShards(ctx.folder, shards, counts, clip.width, clip.name, clip.digest)


@dataclass(frozen=True)
class GivenSelection(Stage[SelectionShards]):
    """All rows; every third is held out."""

    kind: ClassVar[str] = "select"
    artifact: ClassVar[type[Artifact]] = SelectionShards

    embeddings: Stage[EmbeddingShards]

    def run(self, ctx: Context) -> SelectionShards:
        shards = ctx.load(self.embeddings)
        training, held_out = {}, {}
        for name, entry in shards.shards.items():
            keys = shards.read(name, ["key"])["key"].to_pylist()
            rows = [verdict(key, row, row, row % 3 == 0) for row, key in enumerate(keys)]
            write_table(ctx.folder, f"{name}.parquet", pa.Table.from_pylist(rows, schema=SELECTION))
            held_out[name] = len(range(0, entry.rows, 3))
            training[name] = entry.rows - held_out[name]
        counts = {"rejected": {"similarity": 1, "near_duplicate": 0}}
        selected = own_entries({name: entry.rows for name, entry in shards.shards.items()})
        return SelectionShards(ctx.folder, selected, counts, training, held_out)


@dataclass(frozen=True)
class GivenPca(Stage[PcaBasisFile]):
    """A basis with falling eigenvalues."""

    kind: ClassVar[str] = "pca"
    artifact: ClassVar[type[Artifact]] = PcaBasisFile

    width: int = 64

    def run(self, ctx: Context) -> PcaBasisFile:
        eye = np.eye(self.width, dtype=np.float32)
        rows = [
            {"component": eye[i], "eigenvalue": 0.8**i, "mean": eye[0]} for i in range(self.width)
        ]
        table = pa.Table.from_pylist(rows, schema=pca_basis(self.width))
        write_table(ctx.folder, "basis.parquet", table)
        return PcaBasisFile(ctx.folder, self.width, explained=0.97, dimensions=16)


@dataclass(frozen=True)
class GivenModel(Stage[TrainedModel]):
    """A model with random weights, and the history of a training that never happened."""

    kind: ClassVar[str] = "given_model"
    artifact: ClassVar[type[Artifact]] = TrainedModel

    model: Config
    seed: int = 0

    def run(self, ctx: Context) -> TrainedModel:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = build(self.model)
            for weight in model.parameters():  # fresh models ignore the condition
                weight.data += 0.1 * torch.randn_like(weight)
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "model.safetensors"
            save_model(local, model)
            ctx.folder.publish(local, local.name)
        history = [
            {
                "step": step,
                "loss": 1 / step + 0.1,
                "loss/t0062": 2 / step,
                "loss/t0937": 0.2,
                "grad_norm": 1.0,
                "learning_rate": 1e-3,
                "samples_per_s": 50.0,
                "grad_norm/unet.down": 0.8,
                "update_ratio/unet.down": 1e-3,
                "ema_distance/unet.down": 1 / step,
            }
            for step in range(10, 210, 10)
        ]
        if self.name != "upsampler_2":  # the report mentions a missing history
            ctx.folder.write_json("history.json", history)
        parameters = sum(p.numel() for p in model.parameters())
        kind = self.model.tag
        return TrainedModel(ctx.folder, parameters, steps=200, final_loss=0.105, model=kind)


def given_models(**configs: Config) -> dict[str, GivenModel]:
    """Stages of these names, each with a model of its config."""
    return {name: GivenModel(config, name=name) for name, config in configs.items()}


def small_models() -> Preset:
    """The tiny preset, shrunk further: 8, 16 and 32 pixels."""
    tiny = presets.tiny()
    decoder_unet = replace(
        tiny.decoder.unet,
        channels=16,
        channel_multipliers=(1, 2),
        attention_resolutions=(4,),
        head_channels=8,
    )
    return replace(
        tiny,
        prior=replace(tiny.prior, width=48, depth=1),
        decoder=replace(tiny.decoder, image_size=8, unet=decoder_unet),
        upsamplers=small_upsamplers(2),
    )


def small_upsamplers(count: int) -> dict[str, UpsamplerConfig]:
    """Upsamplers that double 8 pixels `count` times, by name."""
    tiny = presets.tiny().upsamplers["upsampler_1"]
    assert isinstance(tiny, UpsamplerConfig)
    unet = replace(tiny.unet, channels=16, channel_multipliers=(1, 2))
    sizes = {f"upsampler_{number + 1}": 8 * 2**number for number in range(count)}
    return {
        name: replace(tiny, low_res_size=size, image_size=2 * size, unet=unet)
        for name, size in sizes.items()
    }


def small_ar_prior() -> ARPriorConfig:
    """An autoregressive prior for the same CLIP."""
    return replace(presets.tiny_ar_prior(), width=48, depth=1, dimensions=8)


def sampling(upsamplers: Iterable[str], **prior: Any) -> SamplingConfig:
    """Few steps; the arguments change the prior's settings."""
    own = PriorSampling(sampler="ddim", num_inference_steps=2, guidance_scale=2.0, candidates=2)
    return SamplingConfig(
        prior=replace(own, **prior),
        decoder=DecoderSampling(
            sampler="ddim", num_inference_steps=2, guidance_scale=2.0, dynamic_threshold=None
        ),
        upsamplers={
            name: UpsamplerSampling(sampler="ddim", num_inference_steps=1) for name in upsamplers
        },
        eta=1.0,
        bf16=False,
    )


def evaluate_config(**changes: Any) -> EvaluateConfig:
    config = EvaluateConfig(
        held_out_samples=10,
        training_samples=9,
        probe_samples=4,
        variations=2,
        reference_rows=12,
        batch_size=8,
        seed=3,
        sampling=sampling(["upsampler_1", "upsampler_2"]),
        judges={"gradients": JudgeConfig(kind="gradients")},
    )
    return replace(config, **changes)


def evaluate_stage(config: EvaluateConfig, *, rows: int = 48, **other_priors: Config) -> Evaluate:
    """An evaluation of small models: one prior (and others), a decoder and two upsamplers."""
    pairs, clip = GivenPairs(rows), GivenClip()
    embeddings = GivenEmbeddings(pairs, GivenVerdicts(pairs), clip)
    models = small_models()
    return Evaluate(
        pairs=pairs,
        embeddings=embeddings,
        selection=GivenSelection(embeddings),
        clip=clip,
        priors=given_models(prior=models.prior, **other_priors),
        decoder=GivenModel(models.decoder, name="decoder"),
        upsamplers=given_models(**models.upsamplers),
        config=config,
    )


def sample_table(evaluation: Evaluation) -> pa.Table:
    """All samples, by key."""
    names = [
        n for n in evaluation.folder.files() if n.startswith("samples-") and n.endswith(".parquet")
    ]
    return pa.concat_tables([evaluation.folder.read_table(n) for n in names]).sort_by("key")
