"""Toy stages: numbers through the real engine, with no image in sight."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.core.errors import PipelineError
from pipelines.core.events import Metrics
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import Artifact, Context, Shards, Stage, entries
from tests.core import limited

assert limited.MOST_BYTES  # importing it makes workers know its file system
NUMBERS = pa.schema([pa.field("value", pa.int64(), nullable=False)])


@dataclass(frozen=True)
class Behaviour:
    """What goes wrong, and where traces of every call are left."""

    trace: str
    die_at: str = ""  # kill the worker the first time it meets this shard
    fail_at: str = ""
    pause_s: float = 0.0


def leave_trace(folder: str, name: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / name).open("a") as out:
        out.write(f"{os.getpid()}\n")


def traces(folder: Path, prefix: str) -> dict[str, int]:
    found = {}
    for path in folder.glob(f"{prefix}-*"):
        found[path.name.removeprefix(f"{prefix}-")] = len(path.read_text().splitlines())
    return found


@dataclass(frozen=True)
class AddWorker:
    stage: str
    amount: int
    behaviour: Behaviour

    def __call__(self, item: tuple[str, list[int]], out: ShardWriter) -> dict[str, Any]:
        name, values = item
        seen = Path(self.behaviour.trace) / f"{self.stage}-{name}"
        first = not seen.exists()
        leave_trace(self.behaviour.trace, f"{self.stage}-{name}")
        if name == self.behaviour.die_at and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == self.behaviour.fail_at:
            raise PipelineError(f"{name} cannot be added to.")
        time.sleep(self.behaviour.pause_s)
        out.write(pa.table({"value": [v + self.amount for v in values]}, schema=NUMBERS))
        return {"sum": sum(values)}


# Behaviours are looked up here, so that they are no part of a stage's identity.
BEHAVIOURS_FILE = "UNCLIP_TOY_TRACE"


def behaviour(stage: str) -> Behaviour:
    trace = os.environ[BEHAVIOURS_FILE]
    options = dict(
        part.split("=") for part in os.environ.get(f"TOY_{stage.upper()}", "").split(",") if part
    )
    return Behaviour(
        trace,
        die_at=options.get("die_at", ""),
        fail_at=options.get("fail_at", ""),
        pause_s=float(options.get("pause_s", 0)),
    )


@dataclass(frozen=True)
class Count(Stage[Shards]):
    """Shards of consecutive numbers."""

    kind: ClassVar[str] = "count"
    artifact: ClassVar[type[Artifact]] = Shards

    shards: int
    rows: int

    def run(self, ctx: Context) -> Shards:
        items = {
            f"{i:05d}": (f"{i:05d}", list(range(i * self.rows, (i + 1) * self.rows)))
            for i in range(self.shards)
        }
        worker = AddWorker("count", 0, behaviour("count"))
        made_from = {name: values for name, (_, values) in items.items()}
        records = ctx.map_shards(worker, items, schema=NUMBERS, unit="shards", made_from=made_from)
        return Shards(ctx.folder, entries(records), {})


@dataclass(frozen=True)
class Add(Stage[Shards]):
    """Adds an amount to every number, shard by shard."""

    kind: ClassVar[str] = "add"
    artifact: ClassVar[type[Artifact]] = Shards

    numbers: Stage[Shards]
    amount: int

    def run(self, ctx: Context) -> Shards:
        numbers = ctx.load(self.numbers)
        items = {n: (n, numbers.read(n)["value"].to_pylist()) for n in numbers.shards}
        worker = AddWorker("add", self.amount, behaviour("add"))
        made_from = {name: entry.digest for name, entry in numbers.shards.items()}
        records = ctx.map_shards(worker, items, schema=NUMBERS, unit="shards", made_from=made_from)
        return Shards(ctx.folder, entries(records), {})


@dataclass(frozen=True)
class Grow(Stage[Shards]):
    """Shards of consecutive numbers, as many as are listed: longer lists share the first ones."""

    kind: ClassVar[str] = "grow"
    artifact: ClassVar[type[Artifact]] = Shards

    rows: int
    listed: int = field(metadata={"in_key": False})

    def digests(self) -> Mapping[str, str]:
        return {"list": str(self.listed)}

    def run(self, ctx: Context) -> Shards:
        starts = {f"{i:05d}": i * self.rows for i in range(self.listed)}
        items = {n: (n, list(range(start, start + self.rows))) for n, start in starts.items()}
        worker = AddWorker(self.name, 0, behaviour(self.name))
        records = ctx.map_shards(worker, items, schema=NUMBERS, unit="shards", made_from=starts)
        return Shards(ctx.folder, entries(records), {})


@dataclass(frozen=True)
class Draw(Grow):
    """The same, but of shards that would differ if they were made twice."""

    kind: ClassVar[str] = "draw"
    varies: ClassVar[bool] = True


@dataclass(frozen=True)
class Total(Artifact):
    total: int


def add_up(shards: Shards) -> int:
    return int(sum(sum(shards.read(n)["value"].to_pylist()) for n in shards.shards))


@dataclass(frozen=True)
class Sum(Stage[Total]):
    """The sum of all numbers, in one call."""

    kind: ClassVar[str] = "sum"
    artifact: ClassVar[type[Artifact]] = Total

    numbers: Stage[Shards]

    def run(self, ctx: Context) -> Total:
        leave_trace(os.environ[BEHAVIOURS_FILE], "sum-all")
        total = ctx.call(add_up, ctx.load(self.numbers))
        ctx.emit(Metrics("sum", 0, {"total": float(total)}))
        ctx.folder.write_json("total.json", total)
        return Total(ctx.folder, total)


def walk(config: Mapping[str, Any]) -> None:
    """Counts steps up to a number, remembering the last in the stage's folder."""
    from ray import train

    folder, steps = config["folder"], config["steps"]
    rank = train.get_context().get_world_rank()
    start = folder.read_json(".walk/step.json") if folder.exists(".walk/step.json") else 0
    for step in range(start, steps):
        if rank == 0:
            leave_trace(config["trace"], f"walk-{step}")
            folder.write_json(".walk/step.json", step + 1)
        if step == config["fail_at"]:
            raise ValueError(f"step {step} cannot be taken")
        time.sleep(0.5)  # Ray Train looks after its workers twice a second
        if step == config["die_at"] and start == 0 and rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0:
        folder.write_json("walked.json", {"steps": steps, "resumed_at": start})


@dataclass(frozen=True)
class Walked(Artifact):
    resumed_at: int


@dataclass(frozen=True)
class Walk(Stage[Walked]):
    """A training in miniature: every worker walks, rank 0 remembers."""

    kind: ClassVar[str] = "walk"
    artifact: ClassVar[type[Artifact]] = Walked
    worker_group: ClassVar[bool] = True

    steps: int
    die_at: int = -1
    fail_at: int = -1

    def run(self, ctx: Context) -> Walked:
        ctx.train(
            walk,
            {
                "folder": ctx.folder,
                "steps": self.steps,
                "die_at": self.die_at,
                "fail_at": self.fail_at,
                "trace": os.environ[BEHAVIOURS_FILE],
            },
        )
        return Walked(ctx.folder, ctx.folder.read_json("walked.json")["resumed_at"])
