"""What fits where: the trainings of `small` and `paper` on several GPUs, by the estimates.

`python -m benchmarks.fits` prints the table of docs/how-to/size.md. It measures nothing.
"""

import re
import sys
from collections.abc import Iterator, Sequence

from pipelines.config.load import load_config
from pipelines.core.resources import GIB
from pipelines.graph import unclip_graph
from pipelines.sizing.trainings import TrainingSize, sizes_of

CONFIGS = ("small", "paper")
GPUS = ("L4-24GB", "A100-40GB", "A100-80GB", "H200-141GB")
LEAST = {"shard_workers: ": "over ", "checkpoint_activations: true": "recomputed"}


def lines(configs: Sequence[str] = CONFIGS, gpus: Sequence[str] = GPUS) -> Iterator[str]:
    """The lines of the table."""
    yield f"| training | workers | rows of a microbatch | memory | {' | '.join(gpus)} |\n"
    yield f"|---|---|---|---|{'---|' * len(gpus)}\n"
    for name in configs:
        by_gpu = [_sizes(name, gpu) for gpu in gpus]
        for stage, size in by_gpu[0].items():
            training = load_config(name).models[stage]
            cells = " | ".join(_cell(sizes[stage]) for sizes in by_gpu)
            memory = f"{size.memory.total / GIB:.1f} GiB"
            rows = training.microbatch_size
            yield f"| {name}, {stage} | {size.workers} | {rows} | {memory} | {cells} |\n"


def _sizes(name: str, gpu: str) -> dict[str, TrainingSize]:
    config = load_config(name, [f"run.device.gpu={gpu}", "run.training={}"])
    found = sizes_of(unclip_graph(config).stages.values(), config.run)
    return {size.stage: size for size in found.trainings}


def _cell(size: TrainingSize) -> str:
    """The smallest change that fits."""
    if size.fits:
        return "fits"
    layout = re.search(r"\{(.*)\}", size.change)
    if layout is None:
        return "–"
    words = layout[1]
    for long, short in LEAST.items():
        words = words.replace(long, short)
    ranks = re.search(r"logical_ranks=(\d+)", size.change)
    return f"{words}, {ranks[1]} logical ranks" if ranks else words


if __name__ == "__main__":
    sys.stdout.writelines(lines())
