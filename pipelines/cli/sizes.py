"""What the trainings of a plan need, as tables and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.cli.listing import format_table
from pipelines.cli.project import Project
from pipelines.config.devices import HOUR_S, DeviceSettings
from pipelines.config.sections import RunSection
from pipelines.core.plan import Plan
from pipelines.core.resources import GIB, Resources
from pipelines.core.stage import Outlook
from pipelines.sizing.data import DataSize
from pipelines.sizing.trainings import Sizes, TrainingSize, sizes_of
from pipelines.training.cost import utilisation

UNITS = ("", "k", "M", "G", "T", "P", "E")


def print_sizes(sizes: Sizes, device: DeviceSettings | None) -> None:
    """Print one table of the work and one of the memory; nothing without trainings."""
    if sizes.trainings:
        if device:
            print(f"\nTrainings on {device.gpu}, at {device.utilisation:.0%} of its peak FLOP/s")
        else:
            print("\nTrainings; run.device tells on which GPUs, and how long they take")
        print(format_table([WORK, *map(_work, sizes.trainings)], numbers=True))
        print("\nMemory of each worker's device, in GiB")
        print(format_table([MEMORY, *map(_memory, sizes.trainings)], numbers=True))
    for stage, reason in sizes.unknown.items():
        print(f"\n{stage} cannot be sized without data ({reason}).")


def print_data(data: Sequence[DataSize]) -> None:
    """Print the storage and hours of the data, if the number of rows is known."""
    if data:
        print("\nData, if all rows are kept; by rates and sizes that docs/how-to/size.md states")
        rows = [
            [
                size.stage,
                f"{size.rows:,}",
                f"{size.storage_bytes / 1e9:,.2f} GB",
                _number(size.hours),
            ]
            for size in data
        ]
        print(format_table([["stage", "rows", "storage", "hours"], *rows], numbers=True))


def plan_as_json(
    plan: Plan | None,
    outlooks: Mapping[str, Outlook],
    sizes: Sizes,
    data: Sequence[DataSize],
    device: DeviceSettings | None,
) -> dict[str, Any]:
    """The plan and the sizes as plain values."""
    return {
        "stages": [
            {
                "stage": step.stage.name,
                "action": step.action,
                "reason": step.reason,
                "new": str(outlooks[step.stage.name]) if step.stage.name in outlooks else None,
            }
            for step in (plan.steps if plan else ())
        ],
        "device": asdict(device) if device else None,
        "trainings": [size.as_json() for size in sizes.trainings],
        "unknown": dict(sizes.unknown),
        "data": [size.as_json() for size in data],
    }


def print_training(project: Project, name: str) -> None:
    """Print what a training needs, and what it took if it has finished; nothing for others."""
    stage = project.graph[name]
    sizes, device = sizes_of([stage], project.run), project.run.device
    print_sizes(sizes, device)
    manifest = project.store.manifest(name, stage.key)
    if manifest is None or not manifest.metadata.get("steps_per_s"):
        return
    steps_per_s, peak = manifest.metadata["steps_per_s"], manifest.metadata["peak_bytes"]
    print(
        f"\nIt took {manifest.duration_s / HOUR_S:,.2f} hours, at {steps_per_s:.3g} steps/s, and "
        f"{peak / GIB:.2f} GiB of the first worker's {_device(project.run, name)}."
    )
    for size in sizes.trainings:
        if device and size.gpus:
            peak = device.peak_flops_per_s(size.precision)
            share = utilisation(size.step_flops, steps_per_s, gpus=size.gpus, peak_flops_per_s=peak)
            print(f"With the workers that run.resources has now: {share:.0%} of the peak FLOP/s.")


def _device(run: RunSection, name: str) -> str:
    is_gpu = run.resources.get(name, Resources()).gpus > 0
    return "GPU" if is_gpu else "process, with its libraries"


WORK = ["stage", "parameters", "workers", "sharing", "FLOPs a step", "hours", "GPU-hours", "cost"]
WORK += ["checkpoints"]
MEMORY = ["stage", "weights", "gradients", "Adam", "EMA", "copies", "gathered", "activations"]
MEMORY += ["batches", "total", "of", ""]


def _work(size: TrainingSize) -> list[str]:
    return [
        size.stage,
        readable(size.parameters),
        str(size.workers),
        _sharing(size),
        readable(size.step_flops),
        _number(size.hours),
        _number(size.gpu_hours),
        _number(size.cost),
        f"{size.checkpoint_bytes / 1e9:,.1f} GB",
    ]


def _memory(size: TrainingSize) -> list[str]:
    parts = [*asdict(size.memory).values(), size.memory.total]
    usable = "–" if size.usable_bytes is None else f"{size.usable_bytes / GIB:.1f}"
    fits = "" if size.usable_bytes is None else "fits" if size.fits else "does not fit"
    return [size.stage, *(f"{part / GIB:.2f}" for part in parts), usable, fits]


def _sharing(size: TrainingSize) -> str:
    shards = size.parallel.group_size(size.workers)
    words = [f"sharded over {shards}" if shards > 1 else "whole"]
    if size.parallel.checkpoint_activations:
        words.append("recomputed")
    return ", ".join(words)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def readable(value: float) -> str:
    """Such as "3.56 G"."""
    for unit in UNITS:
        if abs(value) < 1000 or unit == UNITS[-1]:
            return f"{value:.3g} {unit}".strip()
        value /= 1000
    raise AssertionError
