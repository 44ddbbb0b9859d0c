"""What a recipe makes of a fixed CPU time: decoder and upsamplers of a finished run, trained again.

`python -m benchmarks.recipe demo --store STORE --set decoder.model.prediction=x_0` trains them in
one process on one thread, for `--decoder-s` and `--upsampler-s` CPU seconds whatever a step costs,
and decodes the true embeddings of held-out images, so CLIP and data are those of the run in STORE.
Without `--upsampler-s`, its upsamplers are used too. It prints a row of benchmarks/recipes.md:
KID × 1000 by the configuration's first judge between the images and their originals, for each seed.
`--made` repeats the settings of that run. Models, optimiser and sampling are the configuration's,
changed by `--set`; its numbers of steps are not used. The other options try what is not a setting
(recipe_candidates.py): in training, or, with a row of its own, in sampling from the same decoders.
"""

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from open_clip import SimpleTokenizer
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recipe_candidates import (
    Autoguidance,
    IntervalGuidance,
    logit_normal_timesteps,
    noised,
    whitened,
    with_muon,
)
from pipelines.artifacts import EmbeddingShards, PairShards, SelectionShards, TrainedModel
from pipelines.config.load import load_config
from pipelines.config.sections import PipelineConfig
from pipelines.core.graph import Graph
from pipelines.core.stage import load_artifact
from pipelines.core.store import Store
from pipelines.data.pixels import decode_pixels
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from pipelines.evaluation.inputs import Sources
from pipelines.evaluation.metrics.against_real import KID_SCALE
from pipelines.evaluation.pipeline import load_trained
from pipelines.evaluation.rows import choose, read_rows
from pipelines.graph import unclip_graph
from unclip.generation import Cascade
from unclip.judges.networks import load_judge
from unclip.kinds import build, training_loss
from unclip.metrics import kid
from unclip.output import to_images
from unclip.training import TrainingConfig, as_float
from unclip.training.ema import Ema
from unclip.training.optimizer import adamw

ALL = 10**9
AT_ONCE = 32  # images drawn at once
LESSER = 5  # the less trained decoder of autoguidance has this part of the decoder's seconds


@dataclass(frozen=True)
class Tried:
    """What is tried in a training and is not a setting of the pipeline."""

    muon: float | None  # learning rate
    embed_noise: float  # standard deviation; a component of a unit-norm embedding is about E^-1/2
    timesteps: float | None  # mean of `logit_normal_timesteps`; None: uniform


@dataclass(frozen=True)
class Pairs:
    """Pairs of one split, in the order of their keys."""

    pixels: Tensor  # (N, 3, S, S) in [-1, 1]
    image_embeds: Tensor  # (N, E)
    tokens: Tensor  # (N, L)


def read_pairs(sources: Sources, config: PipelineConfig, *, count: int, held_out: bool) -> Pairs:
    """The selected pairs of a split, at most `count`, at the size of the last model's images."""
    decoder: Any = config.decoder.model
    models: list[Any] = [decoder, *(section.model for section in config.upsamplers.values())]
    image_size, context_length = models[-1].image_size, decoder.text_encoder.context_length
    rows = choose(sources.selection, count, held_out=held_out)
    stored = read_rows(sources.pairs, rows, ("key", "caption", "image"), "row")
    embeds = read_rows(sources.embeddings, rows, ("key", "image_embeds"), "position")
    pixels = np.stack([decode_pixels(stored[row.key]["image"], image_size) for row in rows])
    return Pairs(
        as_float(torch.from_numpy(pixels).permute(0, 3, 1, 2)),
        torch.from_numpy(np.stack([embeds[row.key]["image_embeds"] for row in rows])).float(),
        SimpleTokenizer(context_length=context_length)([stored[r.key]["caption"] for r in rows]),
    )


def read_splits(
    sources: Sources, config: PipelineConfig, ridge: float | None
) -> tuple[Pairs, Pairs]:
    """All training pairs, and the held-out pairs of the evaluation.

    ridge: of `whitened`, which is applied to the embeddings of both; None for none.
    """
    training = read_pairs(sources, config, count=ALL, held_out=False)
    held_out = read_pairs(sources, config, count=config.evaluate.held_out_samples, held_out=True)
    if ridge is None:
        return training, held_out
    whiten = whitened(training.image_embeds, ridge)
    return (
        replace(training, image_embeds=whiten(training.image_embeds)),
        replace(held_out, image_embeds=whiten(held_out.image_embeds)),
    )


def train(
    config: Any, training: TrainingConfig, pairs: Pairs, *, seconds: float, tried: Tried
) -> tuple[nn.Module, int]:
    """A model trained for these CPU seconds, and its steps; the learning rate ends at 0."""
    torch.manual_seed(training.seed)
    model: nn.Module = build(config)
    generator = torch.Generator().manual_seed(training.seed)
    plain = adamw(model, training)
    optimizers = [plain] if tried.muon is None else with_muon(model, plain, lr=tried.muon)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    ema = Ema(model, decay=training.ema_decay)
    size = config.image_size
    pixels = F.avg_pool2d(pairs.pixels, pairs.pixels.shape[-1] // size)
    start, step = time.process_time(), 0
    while (spent := (time.process_time() - start) / seconds) < 1:
        warm = min(1.0, (step + 1) / training.warmup_steps)
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * warm * 0.5 * (1 + math.cos(math.pi * spent))
        rows = torch.randint(len(pixels), (training.batch_size,), generator=generator)
        batch = {
            "pixels": pixels[rows],
            "image_embeds": noised(pairs.image_embeds[rows], tried.embed_noise, generator),
            "tokens": pairs.tokens[rows],
        }
        if tried.timesteps is not None:
            batch["timesteps"] = logit_normal_timesteps(
                training.batch_size, config.train_timesteps, tried.timesteps, generator
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bfloat16"):
            loss = training_loss(model, batch, generator)
        model.zero_grad()
        torch.autograd.backward(loss)
        if training.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        ema.update()
        step += 1
    model.load_state_dict(ema.weights())
    return model.eval(), step


def draw(cascade: Cascade, image_embeds: Tensor) -> list[Image.Image]:
    """An image for each embedding, with the same noise every time."""
    images: list[Image.Image] = []
    for start in range(0, len(image_embeds), AT_ONCE):
        generator = torch.Generator().manual_seed(start)
        small = cascade.decode(image_embeds[start : start + AT_ONCE], None, generator=generator)
        images += to_images([small, *cascade.upsample(small, generator=generator)][-1])
    return images


def read_sources(finished: Graph, store: Store) -> Sources:
    """The data of a finished run."""
    return Sources(
        cast(PairShards, load_artifact(store, finished["download"])),
        cast(EmbeddingShards, load_artifact(store, finished["embed"])),
        cast(SelectionShards, load_artifact(store, finished["select"])),
    )


def load_upsamplers(config: PipelineConfig, finished: Graph, store: Store) -> dict[str, nn.Module]:
    """The trained upsamplers of a finished run."""
    trained = {n: cast(TrainedModel, load_artifact(store, finished[n])) for n in config.upsamplers}
    return {name: load_trained(model, torch.device("cpu")) for name, model in trained.items()}


def train_cascade(
    config: PipelineConfig,
    training: Pairs,
    seed: int,
    *,
    seconds: Sequence[float],
    tried: Tried,
    finished: Mapping[str, nn.Module],
) -> tuple[Cascade, list[int]]:
    """The decoder and the upsamplers, each trained for its CPU seconds, and their steps.

    finished: upsamplers to take as they are.
    """
    sections = {"decoder": config.decoder, **config.upsamplers}
    for name in finished:
        del sections[name]
    models, steps = {}, []
    for number, ((name, section), own) in enumerate(zip(sections.items(), seconds, strict=True)):
        seeded = replace(section, seed=10 * seed + number)
        models[name], count = train(section.model, seeded, training, seconds=own, tried=tried)
        steps.append(count)
    decoder = models.pop("decoder")
    return Cascade(None, decoder, {**models, **finished}, config.evaluate.sampling), steps


def samplings(
    cascade: Cascade, options: argparse.Namespace, lesser: nn.Module | None
) -> dict[str, Cascade]:
    """The cascade, and the same with each way of sampling that the options ask for, by name."""
    found = {"": cascade}
    if options.interval:
        interval = tuple(options.interval)
        found[f"interval {interval}"] = IntervalGuidance(**vars(cascade), interval=interval)
    if options.autoguidance:
        name, scale = f"autoguidance {options.autoguidance}", options.autoguidance
        found[name] = Autoguidance(**vars(cascade), lesser=lesser, scale=scale)
    return found


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a packaged configuration, or a path")
    parser.add_argument("--store", required=True, help="of a run of it that finished")
    parser.add_argument("--made", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--decoder-s", type=float, default=300.0)
    parser.add_argument("--upsampler-s", type=float, nargs="*", default=[])
    parser.add_argument("--muon", type=float, metavar="LR")
    parser.add_argument("--whiten", type=float, metavar="RIDGE")
    parser.add_argument("--embed-noise", type=float, default=0.0, metavar="DEVIATION")
    parser.add_argument("--timesteps", type=float, metavar="MEAN")
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--autoguidance", type=float, metavar="SCALE")
    parser.add_argument("--pictures", help="file for a sheet of the last seed's images")
    return parser.parse_args()


def main() -> None:
    """Train and judge for each seed; print a row."""
    options = parse()
    torch.set_num_threads(1)

    finished = unclip_graph(load_config(options.config, options.made))
    store = Store(options.store)
    sources = read_sources(finished, store)
    config = load_config(options.config, [*options.made, *options.set])
    training, held_out = read_splits(sources, config, options.whiten)
    judge = load_judge(next(iter(config.evaluate.judges.values())), torch.device("cpu"))
    originals = judge.features(to_images(held_out.pixels))
    upsamplers = {} if options.upsampler_s else load_upsamplers(config, finished, store)
    tried = Tried(options.muon, options.embed_noise, options.timesteps)
    lesser = None
    if options.autoguidance:
        section, seconds = config.decoder, options.decoder_s / LESSER
        lesser, _ = train(section.model, section, training, seconds=seconds, tried=tried)
    distances: dict[str, list[float]] = {}
    steps: list[int] = []
    for seed in options.seeds:
        cascade, steps = train_cascade(
            config,
            training,
            seed,
            seconds=[options.decoder_s, *options.upsampler_s],
            tried=tried,
            finished=upsamplers,
        )
        for name, drawing in samplings(cascade, options, lesser).items():
            images = draw(drawing, held_out.image_embeds)
            distance = KID_SCALE * float(kid(judge.features(images), originals))
            distances.setdefault(name, []).append(distance)
            print(f"seed {seed}: {name} steps {steps}, KID × 1000 {distance:.1f}", flush=True)
        if options.pictures:
            draw_grid(in_rows([Tile(image) for image in images], 16)).save(options.pictures)
    taken = ", ".join(f"{count:,}" for count in steps)
    for name, of_seeds in distances.items():
        each = ", ".join(f"{distance:.0f}" for distance in of_seeds)
        print(f"| {name} | {taken} | {each} | {statistics.mean(of_seeds):.0f} |")


if __name__ == "__main__":
    main()
