"""A toy driver for the cluster: two stages that record where each of their shards was made.

Runs as `python -m tests.pipelines.cluster_job job.yaml`, with pipelines/ as it was submitted.
"""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import yaml

import pipelines
from pipelines.core.errors import PipelineError
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Artifact, Context, ShardEntry, Shards, Stage
from pipelines.core.store import Store

NUMBERS = pa.schema([pa.field("value", pa.int64(), nullable=False)])
RESOURCES = {
    "gather": Resources(workers=2, cpus=1, custom={"data": 1}),
    "learn": Resources(workers=2, cpus=1, gpus=1),
}
NAMES = tuple(f"{i:05d}" for i in range(4))


def note(trace: str, name: str, text: str) -> None:
    """Add one line for each call, so that work done twice is visible."""
    Path(trace).mkdir(parents=True, exist_ok=True)
    with (Path(trace) / name).open("a") as out:
        out.write(f"{text}\n")


def node_name() -> str:
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next(str(n["NodeName"]) for n in nodes if n["NodeID"] == here)


@dataclass(frozen=True)
class NoteWorker:
    stage: str
    trace: str
    pause_s: float

    def __call__(self, item: str, out: ShardWriter) -> dict[str, Any]:
        time.sleep(self.pause_s)
        self.die_once()
        code = Path(pipelines.__file__).parent
        note(self.trace, f"{self.stage}-{item}", f"{node_name()} {os.getpid()} {code}")
        out.write(pa.table({"value": [int(item)]}, schema=NUMBERS))
        return {}

    def die_once(self) -> None:
        """End this worker's process if the trace asks for it."""
        fuse = Path(self.trace) / "lose_worker"
        if fuse.exists():
            fuse.unlink()
            os._exit(1)


def make(ctx: Context, stage: str) -> Shards:
    worker = NoteWorker(stage, os.environ["TOY_TRACE"], float(os.environ["TOY_PAUSE_S"]))
    records = ctx.map_shards(worker, {n: n for n in NAMES}, schema=NUMBERS, unit="shards")
    return Shards(ctx.folder, {n: ShardEntry(r.rows, r.digest) for n, r in records.items()}, {})


@dataclass(frozen=True)
class Gather(Stage[Shards]):
    kind: ClassVar[str] = "gather"
    artifact: ClassVar[type[Artifact]] = Shards

    def run(self, ctx: Context) -> Shards:
        return make(ctx, self.name)


@dataclass(frozen=True)
class Learn(Stage[Shards]):
    kind: ClassVar[str] = "learn"
    artifact: ClassVar[type[Artifact]] = Shards

    gathered: Stage[Shards]

    def run(self, ctx: Context) -> Shards:
        return make(ctx, self.name)


def drivers(trace: str) -> list[str]:
    return (Path(trace) / "drivers").read_text().splitlines()


def main(config: Mapping[str, Any]) -> None:
    trace = os.environ["TOY_TRACE"]
    note(trace, "drivers", f"{os.getpid()} {Path(pipelines.__file__).parent}")
    fuse, first = Path(trace) / "lose_worker", len(drivers(trace)) == 1
    if config.get("lose_worker") and first:
        fuse.touch()
    store = Store(config["store"])
    plan = make_plan(Graph([Learn(Gather())]), store, Scope())
    run_plan(plan, store, RunSettings(resources=RESOURCES, retries=0, wait_s=60))
    print("all stages are done")


if __name__ == "__main__":
    try:
        main(yaml.safe_load(Path(sys.argv[1]).read_text()))
    except PipelineError as error:
        print(error)
        sys.exit(error.exit_code)
