"""A driver that trains a sharded decoder: `python -m tests.pipelines.training_driver STORE`.

Prints the notes of the run, and ends as the command line does.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace

from pipelines.config.load import load_config
from pipelines.core.errors import PipelineError
from pipelines.core.events import Event, Note
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, Step, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.store import Manifest, Store
from pipelines.stages.train import TrainModel
from tests.pipelines import given
from tests.pipelines.training import given_rows
from unclip.training import Parallel, TrainingConfig

TRAINING = replace(
    load_config("demo").decoder.training,
    steps=300,
    batch_size=6,
    logical_ranks=3,
    warmup_steps=1,
    lr_schedule="constant",
    log_every_steps=10,
    checkpoint_every_steps=2,
    sample_every_steps=None,
    validate_every_steps=None,
)


def stage_of(shard_workers: int, training: TrainingConfig = TRAINING) -> TrainModel:
    """The training, whose result does not depend on the number of workers."""
    return TrainModel(
        *given_rows(),
        given.small_models().decoder,
        training,
        load_config("demo").loader,
        parallel=Parallel(shard_workers=shard_workers, summation="fixed"),
        name="decoder",
    )


class Printer:
    """A listener that prints."""

    def started(self, step: Step) -> Mapping[str, str]:
        return {}

    def event(self, event: Event) -> None:
        if isinstance(event, Note):
            print("note", event.text, flush=True)

    def finished(self, manifest: Manifest) -> None:
        print("finish", manifest.stage, flush=True)

    def failed(self, step: Step, error: BaseException) -> None:
        print("fail", step.stage.name, flush=True)


def main(root: str) -> int:
    """Train with two workers that share the weights."""
    store = Store(root)
    settings = RunSettings(
        resources={"decoder": Resources(workers=2)},
        wait_s=120,
        cluster=ClusterSettings(cpus=2, object_store_gib=0.25),
    )
    try:
        run_plan(make_plan(Graph([stage_of(2)]), store, Scope()), store, settings, [Printer()])
    except PipelineError as error:
        print(f"unclip: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
