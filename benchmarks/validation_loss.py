"""Does the validation loss of a decoder predict the distance of its images to real ones?

`python -m benchmarks.validation_loss CONFIG --store STORE` trains one decoder at a constant
learning rate, with a stop at each number of steps. Each stop is a run of the pipeline that goes on
from the one before. It evaluates the decoder's averaged weights and compares two orders: that by
the validation loss at fixed timesteps, and that by the judges' distances.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import cast

from scipy.stats import spearmanr

from pipelines.cli.main import main as unclip
from pipelines.config.load import load_config
from pipelines.core.stage import load_artifact
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.stages.evaluate import Evaluate, read_metrics

STEPS = (60, 120, 250, 400, 600, 900, 1300, 1800)
SPLIT = "held_out"
SETTINGS = (
    "decoder.lr_schedule=constant",
    "evaluate.held_out_samples=160",
    "evaluate.training_samples=8",
    "evaluate.variations=1",
)


@dataclass(frozen=True)
class Stop:
    """One number of steps: the losses and the distances there."""

    steps: int
    training_loss: float
    validation_loss: float
    distances: dict[str, float]  # by metric; lower is better


def run(config: str, store: str, steps: int) -> Stop:
    """Train up to these steps and evaluate."""
    overrides = [*SETTINGS, f"decoder.steps={steps}", f"decoder.validate_every_steps={steps}"]
    flags = [flag for text in overrides for flag in ("--set", text)]
    for stage in ("decoder", "evaluate"):
        if code := unclip(["run", config, "--store", store, *flags, "--only", stage]):
            sys.exit(code)
    graph = unclip_graph(load_config(config, overrides))
    decoder = load_artifact(Store(store), graph["decoder"])
    history = decoder.folder.read_json("history.json")
    evaluate = cast(Evaluate, graph["evaluate"])
    metrics = read_metrics(load_artifact(Store(store), evaluate))
    return Stop(
        steps,
        training_loss=next(e["loss"] for e in reversed(history) if "loss" in e),
        validation_loss=next(e["validation_loss"] for e in history if e["step"] == steps),
        distances={
            name.removeprefix(f"{SPLIT}/"): record["value"]["value"]
            for name, record in metrics.items()
            if name.startswith(f"{SPLIT}/") and "/kid" in name and not record["is_descriptive"]
        },
    )


def report(stops: list[Stop]) -> None:
    """Print the table and the rank correlations."""
    names = list(stops[0].distances)
    print("| steps | training loss | validation loss |", " | ".join(names), "|")
    print("|---|---|---|", "---|" * len(names))
    for stop in stops:
        values = " | ".join(f"{stop.distances[name]:.0f}" for name in names)
        print(
            f"| {stop.steps:,} | {stop.training_loss:.4f} | {stop.validation_loss:.4f} | {values} |"
        )
    for loss in ("training_loss", "validation_loss"):
        found = [
            spearmanr([getattr(s, loss) for s in stops], [s.distances[n] for s in stops]).statistic
            for n in names
        ]
        by_name = ", ".join(f"{n} {value:.2f}" for n, value in zip(names, found, strict=True))
        print(f"Spearman's rank correlation of the {loss.replace('_', ' ')}: {by_name}")


def main() -> None:
    """Run all stops in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="a packaged configuration, or a path")
    parser.add_argument("--store", required=True, help="of a run that finished")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    arguments = parser.parse_args()
    report([run(arguments.config, arguments.store, steps) for steps in sorted(arguments.steps)])


if __name__ == "__main__":
    main()
