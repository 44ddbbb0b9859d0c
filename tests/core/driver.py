"""A driver in a process of its own: `python -m tests.core.driver STORE TOY [NAME=VALUE …]`.

Prints what its listener hears, and ends as the command line does.
"""

import os
import signal
import sys
from collections.abc import Mapping
from functools import partial

from pipelines.core import lease
from pipelines.core.errors import PipelineError
from pipelines.core.events import Event, Note
from pipelines.core.graph import Graph
from pipelines.core.logs import show_logs
from pipelines.core.plan import Scope, Step, make_plan
from pipelines.core.resources import ClusterSettings, Resources
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.store import Manifest, Store
from tests.core.toys import Add, Count, Draw, Grow, Sum, Walk

TOYS = {
    "sum": lambda: [Sum(Add(Count(4, 3), 1))],
    "large": lambda: [Count(12, 400_000), Walk(steps=2)],
    "drill": lambda: [Sum(Add(Grow(3, 40), 1))],
    **{f"grow {n}": partial(lambda n: [Grow(3, n)], n) for n in (6, 9)},
    **{f"draw {n}": partial(lambda n: [Draw(3, n)], n) for n in (6, 9)},
}


class Printer:
    """A listener that prints."""

    def started(self, step: Step) -> Mapping[str, str]:
        print("start", step.stage.name, flush=True)
        return {}

    def event(self, event: Event) -> None:
        if isinstance(event, Note):
            print("note", event.stage, event.text, flush=True)

    def finished(self, manifest: Manifest) -> None:
        print("finish", manifest.stage, flush=True)

    def failed(self, step: Step, error: BaseException) -> None:
        print("fail", step.stage.name, flush=True)


def main(root: str, toy: str, *options: str) -> int:
    given = dict(option.split("=") for option in options)
    lease.EXPIRY_S = float(given.get("expiry_s", lease.EXPIRY_S))
    lease.RENEW_EVERY_S = lease.EXPIRY_S / 6
    if "verbose" in given:
        show_logs()
    settings = RunSettings(
        resources={name: Resources(workers=2) for name in ("count", "grow", "add", "walk")},
        wait_s=60,
        on_busy="leave" if given.get("on_busy") == "leave" else "wait",
        cluster=ClusterSettings(cpus=2, object_store_gib=0.25),
    )
    store, scope = Store(root), Scope(force=[given["force"]] if "force" in given else [])
    try:
        run_plan(make_plan(Graph(TOYS[toy]()), store, scope), store, settings, [Printer()])
    except PipelineError as error:
        print(f"unclip: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    os._exit(main(*sys.argv[1:]))
