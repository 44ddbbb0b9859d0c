"""Trainings of a small decoder on one to four processes, for the tests of sharding."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.unclip.process_groups import group
from tests.unclip.toys import DECODER, UNET, perturb, seeded, unit
from tests.unclip.training_toys import CONFIG, CPU, Microbatches, StopAfter
from unclip.denoising.denoisers import decoder_denoiser, without_variance
from unclip.kinds import build, training_loss
from unclip.meta_device import build_empty
from unclip.training import Batch, Checkpoints, Keep, LocalFiles, Parallel, train

MODEL = replace(
    DECODER,
    unet=replace(UNET, channel_multipliers=(1,), attention_resolutions=(8,), dropout=0.1),
    learned_variance=True,
)
TRAINING = replace(
    CONFIG,
    steps=2,
    warmup_steps=1,
    batch_size=8,
    log_every_steps=1,
    checkpoint_every_steps=1,
    sample_every_steps=2,
    learning_rate=1e-3,
    adam_eps=1e-4,
)
POISONED = 1  # a step with a NaN


@dataclass(frozen=True)
class Run:
    """A training: how many workers take part in it, and how they share it."""

    world_size: int
    parallel: Parallel
    folder: str = ""  # of another run, which this one resumes; "": its own
    steps: int = TRAINING.steps
    stop_after: int | None = None
    poisoned: bool = False


def fixed(world_size: int, shard_workers: int = 1, **options: Any) -> Run:
    recompute = options.pop("recompute", False)
    settings = {"shard_workers": shard_workers, "checkpoint_activations": recompute}
    return Run(world_size, Parallel(summation="fixed", **settings), **options)


def fast(world_size: int, shard_workers: int = 1) -> Run:
    return Run(world_size, Parallel(shard_workers=shard_workers))


# In the order in which they run.
RUNS = {
    "fixed-1": fixed(1),
    "fixed-1-recompute": fixed(1, recompute=True),
    "fixed-2-sharded": fixed(2, 2, recompute="selective"),
    "fixed-3": fixed(3),
    "fixed-3-sharded": fixed(3, 3),
    "fixed-4-groups": fixed(4, 2),
    "fast-1": fast(1),
    "fast-3": fast(3),
    "fast-3-sharded": fast(3, 3),
    "fast-4-groups": fast(4, 2),
    "whole-1": fixed(1, steps=3),
    "part-2": fixed(2, 2, folder="parts", steps=3, stop_after=1),
    "part-4": fixed(4, 4, folder="parts", steps=3, stop_after=1),
    "part-1": fixed(1, folder="parts", steps=3),
    "poisoned-1": fixed(1, poisoned=True),
    "poisoned-2": Run(2, Parallel(), poisoned=True),
    "poisoned-3-sharded": fixed(3, 3, poisoned=True),
}


class CountingFiles(LocalFiles):
    """Adds up the bytes of tensors that are read."""

    read_bytes = 0

    def read(self, name: str, start: int, end: int) -> bytes:
        if name.endswith(".bin"):
            CountingFiles.read_bytes += end - start
        return super().read(name, start, end)


class Images(Microbatches):
    """Two images a microbatch."""

    def __init__(self, *, poisoned: bool) -> None:
        self.poisoned = poisoned

    def batch(self, step: int, logical_rank: int) -> Batch:
        number = 10 * step + logical_rank
        pixels = torch.rand(2, 3, 8, 8, generator=seeded(number)) * 2 - 1
        if self.poisoned and (step, logical_rank) == (POISONED, 1):
            pixels[0, 0, 0, 0] = torch.nan
        tokens = torch.randint(1, 50, (2, 6), generator=seeded(number))
        return {
            "pixels": pixels,
            "image_embeds": unit(2, 8, seed=number),
            "tokens": tokens,
            "keys": [f"{number}-{row}" for row in range(2)],
        }


def run_all(rank: int, folder: Path, runs: Mapping[str, Run] = RUNS) -> None:
    """Run all in this process, as far as it takes part; rank 0 saves the results."""
    for name, run in runs.items():
        with group(rank, run.world_size, folder / f"{name}.store") as takes_part:
            if takes_part:
                found = train_once(run, rank, folder / (run.folder or name))
                if rank == 0:
                    torch.save(found, folder / f"{name}.pt")


def train_once(run: Run, rank: int, folder: Path) -> dict[str, Any]:
    if rank > 0 and run.parallel.shares_weights(run.world_size):
        model = build_empty(partial(build, MODEL))  # rank 0 sends its values
    else:
        torch.manual_seed(0)
        model = perturb(build(MODEL))  # else the first gradients of most layers are zero
    samples: dict[int, torch.Tensor] = {}
    curve: dict[int, dict[str, float]] = {}
    images = Images(poisoned=run.poisoned)
    CountingFiles.read_bytes = 0

    def sample(step: int, averaged: nn.Module) -> None:
        batch = images.batch(0, 0)
        denoise = decoder_denoiser(
            averaged,
            batch["image_embeds"],
            batch["tokens"],
            guidance_scale=2.0,
            dynamic_threshold=None,
        )
        samples[step] = without_variance(denoise)(batch["pixels"], torch.tensor([3, 90]))

    result = train(
        model,
        training_loss,
        images,
        replace(TRAINING, steps=run.steps),
        checkpoints=Checkpoints(CountingFiles(folder), keep=Keep(2)),
        device=CPU,
        rank=rank,
        world_size=run.world_size,
        parallel=run.parallel,
        on_log=curve.__setitem__,
        on_sample=sample,
        stop=StopAfter(run.stop_after) if run.stop_after else None,
    )
    return {
        "weights": result.ema_weights,
        "loss": result.loss,
        "curve": {
            step: {name: value for name, value in entry.items() if name.startswith("loss")}
            for step, entry in curve.items()
        },
        "samples": samples,
        "read_bytes": CountingFiles.read_bytes,
        "skipped": list(result.skipped_steps),
        "keys": [list(r.keys) for r in result.rollbacks],
    }
