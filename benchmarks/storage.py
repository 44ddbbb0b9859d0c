"""Requests and seconds of a store on S3: writing a shard, resuming a stage, committing, planning.

    python -m benchmarks.storage --shards 2500 25000 --server http://127.0.0.1:8333

The server is asked through a proxy that counts requests and delays each of them. Every step runs in
a process of its own. Without --server, moto's server is started. It is slow: what is measured then
is mostly the server.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from moto.server import ThreadedMotoServer

from pipelines.core.filesystem import AT_ONCE, filesystem
from pipelines.core.folder import Folder
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.resources import Resources
from pipelines.core.shard_records import publish
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.shards import PoolSettings
from pipelines.core.stage import Artifact, Context, Shards, Stage, entries
from pipelines.core.stage_maker import StageContext, manifest_of
from pipelines.core.store import Store
from tests.core.s3_proxy import S3Proxy

NUMBERS = pa.schema([pa.field("value", pa.int64(), nullable=False)])
IMAGES = pa.schema([pa.field("image", pa.large_binary(), nullable=False)])
IMAGE_BYTES = 250_000  # about what a picture of 1024 pixels has
BATCH = 1000  # shards that are copied at once in preparation
SETTINGS = PoolSettings(resources=Resources(), retries=0, wait_s=1.0)
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class Tiny(Stage[Shards]):
    """A stage of tiny shards, each with outcomes beside it. All editions share their shards."""

    kind: ClassVar[str] = "tiny"
    artifact: ClassVar[type[Artifact]] = Shards

    shards: int
    edition: str = field(default="first", metadata={"in_key": False})

    def digests(self) -> Mapping[str, str]:
        """Makes the key differ."""
        return {"edition": self.edition}

    def run(self, ctx: Context) -> Shards:
        """The shards that exist."""
        return Shards(ctx.folder, entries(ctx.existing(self.made_from)), {})

    @property
    def made_from(self) -> dict[str, int]:
        """What each shard is made from, by its name."""
        return {f"{number:05d}": number for number in range(self.shards)}


def context(store: Store, stage: Tiny) -> StageContext:
    """What the stage may use."""
    folder = store.folder(stage.name, stage.key)
    return StageContext(stage, folder, lambda _: None, SETTINGS, store)


def prepare(store: Store, stage: Tiny) -> None:
    """Put the files of all shards into the store: copies of one shard."""
    where = context(store, stage)._shared(stage.made_from)
    table = pa.table({"value": [1, 2, 3]}, schema=NUMBERS)
    with tempfile.TemporaryDirectory() as scratch:
        with ShardWriter(Folder(scratch), "shard", NUMBERS) as out:
            out.write(table)
            out.finish({"read": 3})
        content = (Path(scratch) / "shard.parquet").read_bytes()
    fs, stems = filesystem(store.root), list(where.stems.values())
    for start in range(0, len(stems), BATCH):
        paths = [where.folder._path(stem) for stem in stems[start : start + BATCH]]
        ends = (".parquet", ".outcomes.parquet")
        fs.pipe({f"{p}{end}": content for p in paths for end in ends}, batch_size=AT_ONCE)


def write_shard(store: Store, images: int) -> None:
    """One shard of images with its outcomes."""
    folder, content = store.folder("write", "shards"), os.urandom(IMAGE_BYTES)
    with ShardWriter(folder, uuid.uuid4().hex, IMAGES) as out:
        for _ in range(images // 20):
            out.write(pa.table({"image": [content] * 20}, schema=IMAGES))
        out.attach("outcomes", pa.table({"value": list(range(images))}, schema=NUMBERS))
        out.finish({})


def find(store: Store, stage: Tiny) -> None:
    """Resume: find all shards that exist."""
    assert len(context(store, stage).existing(stage.made_from)) == stage.shards


def commit(store: Store, stage: Tiny) -> None:
    """Find all shards, and write records and manifest."""
    ctx = context(store, stage)
    found = ctx.existing(stage.made_from)
    began = time.perf_counter()
    publish(ctx.folder, found.values())
    artifact = Shards(ctx.folder, entries(found), {})
    store.commit(manifest_of(stage, artifact, {}, 1.0, found.values()))
    print(f"of which commit: {time.perf_counter() - began:.1f} s", file=sys.stderr)


def plan(store: Store, stage: Tiny) -> None:
    """Plan a run of which everything is done."""
    assert not make_plan(Graph([stage]), store, Scope()).to_run


STEPS: dict[str, Any] = {
    "prepare": lambda store, n: prepare(store, Tiny(n)),
    "write 400 images": lambda store, _: write_shard(store, 400),
    "write 2,000 images": lambda store, _: write_shard(store, 2000),
    "resume without records": lambda store, n: find(store, Tiny(n)),
    "resume and commit": lambda store, n: commit(store, Tiny(n)),
    "resume with records": lambda store, n: find(store, Tiny(n, "second")),
    "plan": lambda store, n: plan(store, Tiny(n)),
}


def run_step(step: str, root: str, shards: int) -> None:
    """Run a step in this process, and print what it took."""
    store = Store(root)
    filesystem(root)  # imports s3fs
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    STEPS[step](store, shards)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    grown_mib = (after.ru_maxrss - before.ru_maxrss) / 1024
    print(json.dumps({"s": time.perf_counter() - began, "cpu_s": cpu_s, "mib": grown_mib}))


def measure(step: str, root: str, shards: int, url: str) -> dict[str, float]:
    """Run a step in another process, against the server at a URL."""
    words = [sys.executable, "-m", "benchmarks.storage", "--step", step, "--root", root]
    env = os.environ | CREDENTIALS | {"AWS_ENDPOINT_URL": url}
    done = subprocess.run(
        [*words, "--shards", str(shards)], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_all(server: str, sizes: list[int], delay_s: float) -> None:
    """Print a row of the table for each step and number of shards."""
    bucket = f"bench-{uuid.uuid4().hex[:8]}"
    print("| shards | step | requests | s | CPU s | memory |\n|---|---|---|---|---|---|")
    with S3Proxy(server, delay_s=delay_s) as proxy:
        for shards in sizes:
            root = f"s3://{bucket}/{shards}"
            subprocess.run(
                [sys.executable, "-c", f"import s3fs; s3fs.S3FileSystem().makedirs({bucket!r})"],
                env=os.environ | CREDENTIALS | {"AWS_ENDPOINT_URL": server},
                check=shards == sizes[0],
            )
            measure("prepare", root, shards, server)
            for step in list(STEPS)[1:]:
                proxy.taken()
                took = measure(step, root, shards, proxy.url)
                counts = ", ".join(f"{n} {m}" for m, n in sorted(proxy.taken().items()))
                seconds = f"{took['s']:.1f} | {took['cpu_s']:.1f} | {took['mib']:.0f} MiB"
                print(f"| {shards} | {step} | {counts} | {seconds} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[250])
    parser.add_argument("--server", help="URL of an S3 server; default: moto's")
    parser.add_argument("--delay-ms", type=float, default=30.0)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        run_step(args.step, args.root, args.shards[0])
    elif args.server:
        measure_all(args.server, args.shards, args.delay_ms / 1000)
    else:
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        measure_all(f"http://{host}:{port}", args.shards, args.delay_ms / 1000)
        moto.stop()


if __name__ == "__main__":
    main()
