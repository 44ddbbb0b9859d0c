"""Shows the progress of a run: a live table in a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.core.events import Event, Metrics, Note, Output, Progress
from pipelines.core.plan import Plan, Step
from pipelines.core.stage import Outlook
from pipelines.core.store import Manifest

log = logging.getLogger(__name__)

LINE_EVERY_S = 5.0  # between two plain lines about a stage's progress
RATE_OVER_S = 60.0  # the span over which the rate is measured
BAR_WIDTH = 24  # characters
State = Literal["cached", "waiting", "running", "done", "failed", "not selected"]
SIGNS = {
    "cached": "[dim green]✓[/]",
    "done": "[green]✓[/]",
    "running": "[cyan]▶[/]",
    "failed": "[bold red]✗[/]",
    "waiting": "[dim]·[/]",
    "not selected": "[dim]–[/]",
}
FIRST_STATES: Mapping[str, State] = {
    "cached": "cached",
    "run": "waiting",
    "skip": "not selected",
}


@dataclass
class StageRow:
    """One stage's state and progress."""

    name: str
    state: State
    reason: str
    began: float = 0.0  # by the display's clock
    duration_s: float = 0.0
    progress: Progress | None = None
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=200))
    shown_at: float = 0.0  # time of the last plain line
    shown: str = ""  # its text

    def advance(self, progress: Progress, now: float) -> None:
        """Record the stage's progress at the time `now`."""
        if self.progress is not None and progress.done < self.progress.done:
            self.samples.clear()  # the stage went back to an earlier point: no rate yet
        self.progress = progress
        self.samples.append((now, progress.done))
        while self.samples[-1][0] - self.samples[0][0] > RATE_OVER_S:
            self.samples.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second over the last minute; None if unknown."""
        if len(self.samples) < 2:
            return None
        (t0, done0), (t1, done1) = self.samples[0], self.samples[-1]
        return (done1 - done0) / (t1 - t0) if t1 > t0 and done1 > done0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the stage is done at this rate; None if unknown."""
        if self.progress is None or self.rate is None:
            return None
        return max(0, self.progress.total - self.progress.done) / self.rate

    def message(self) -> str:
        """Such as "120/400 shards, 3.2 shards/s, 1:28 left, loss 0.12"."""
        p = self.progress
        if p is None:
            return "starts"
        parts = [f"{p.done:,}/{p.total:,} {p.unit}"]
        if self.rate is not None:
            parts.append(readable_rate(self.rate, p.unit))
        if self.left_s:
            parts.append(f"{clock_time(self.left_s)} left")
        return ", ".join([*parts, *([p.note] if p.note else [])])


class ProgressDisplay:
    """A `Listener` that shows the progress of a run. Use it as a context manager."""

    def __init__(
        self,
        plan: Plan,
        *,
        out: IO[str] | None = None,
        live: bool | None = None,  # None: live if `out` is a terminal
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out or sys.stdout
        self.clock = clock
        self.rows = {
            s.stage.name: StageRow(s.stage.name, FIRST_STATES[s.action], s.reason)
            for s in plan.steps
        }
        self.live_wanted = self.out.isatty() if live is None else live
        self.live: Live | None = None
        self.began = clock()

    def __enter__(self) -> "ProgressDisplay":
        self.began = self.clock()
        if self.live_wanted:
            console = Console(file=self.out, force_terminal=True)
            self.live = Live(
                console=console, get_renderable=lambda: self._table(console), refresh_per_second=4
            )
            self.live.start()
        else:
            self._print_idle_rows()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def started(self, step: Step) -> Mapping[str, str]:
        """Show that the stage runs; returns no links."""
        row = self.rows[step.stage.name]
        row.state, row.began = "running", self.clock()
        self._line(row.name, f"starts ({step.reason})")
        return {}

    def event(self, event: Event) -> None:
        """Move the bar, or show a note above the table."""
        row = self.rows[event.stage]
        match event:
            case Progress():
                row.advance(event, self.clock())
                self._line_if_due(row)
            case Note():
                self.say(f"{event.stage}: {event.text}")
            case Metrics() | Output():
                pass  # for the tracking server; the note of a progress event has the main numbers

    def finished(self, manifest: Manifest) -> None:
        """Show that the stage is done."""
        row = self.rows[manifest.stage]
        row.state, row.duration_s = "done", manifest.duration_s
        self._line(row.name, f"done in {clock_time(row.duration_s)}")

    def failed(self, step: Step, error: BaseException) -> None:
        """Show that the stage failed."""
        row = self.rows[step.stage.name]
        row.state, row.duration_s = "failed", self.clock() - row.began
        self._line(row.name, f"FAILED after {clock_time(row.duration_s)}: {error}")

    def say(self, text: str) -> None:
        """Show a message, above the live table if there is one."""
        if self.live is not None:
            self.live.console.print(f"  {text}", markup=False, highlight=False, style="yellow")
        else:
            self._print(text)

    def _print_idle_rows(self) -> None:
        for row in self.rows.values():
            if row.state != "waiting":
                idle = row.reason if row.state == "not selected" else f"cached ({row.reason})"
                self._line(row.name, idle)

    def _line_if_due(self, row: StageRow) -> None:
        message, now = row.message(), self.clock()
        if message != row.shown and (not row.shown or now - row.shown_at >= LINE_EVERY_S):
            row.shown, row.shown_at = message, now
            self._line(row.name, message)

    def _line(self, stage: str, text: str) -> None:
        if self.live is None:
            self._print(f"{stage}: {text}")

    def _print(self, text: str) -> None:
        print(f"[{clock_time(self.clock() - self.began)}] {text}", file=self.out, flush=True)

    def _table(self, console: Console) -> Table:
        counts = [row.state for row in self.rows.values()]
        done = sum(state in ("done", "cached") for state in counts)
        table = Table(
            box=None,
            title=f"{done} of {len(counts)} stages, {clock_time(self.clock() - self.began)}",
            title_justify="left",
            title_style="bold",
            show_header=False,
            padding=(0, 1),
        )
        wide = console.width >= 100
        for row in self.rows.values():
            sign = SIGNS[row.state]
            table.add_row(sign, self._name(row), *self._cells(row, wide))
        return table

    def _name(self, row: StageRow) -> str:
        style = {"running": "bold", "failed": "bold red", "done": "none"}.get(row.state, "dim")
        return f"[{style}]{row.name}[/]"

    def _cells(self, row: StageRow, wide: bool) -> Sequence[RenderableType]:
        if row.state != "running":
            took = clock_time(row.duration_s)
            ended = {"done": took, "failed": f"failed, {took}"}
            bar: RenderableType = Text(ended.get(row.state, row.state), style="dim")
            return [bar, Text("" if row.state == "done" else row.reason, "dim", no_wrap=True)]
        message = Text(row.message(), no_wrap=True, overflow="ellipsis")
        p = row.progress
        total = float(p.total) if p and p.total else None
        pulse = total is None
        width = BAR_WIDTH if wide else BAR_WIDTH // 2
        done = float(p.done) if p else 0.0
        return [ProgressBar(total=total, completed=done, width=width, pulse=pulse), message]


def print_plan(plan: Plan, outlooks: Mapping[str, Outlook], out: IO[str] | None = None) -> None:
    """Print stage, action and reason in columns, and the number of stages that would run.

    outlooks: by stage, how much of it would be new.
    """
    wide = max((len(s.stage.name) for s in plan.steps), default=0)
    for step in plan.steps:
        row = f"{step.stage.name:<{wide}}  {step.action:<6}  {step.reason}"
        print(row, file=out or sys.stdout)
        if step.action == "run" and step.stage.name in outlooks:
            print(f"{'':<{wide}}          {outlooks[step.stage.name]}", file=out or sys.stdout)
    run, cached = len(plan.to_run), sum(s.action == "cached" for s in plan.steps)
    print(f"\n{run} to run, {cached} cached, {len(plan.steps)} in total.", file=out or sys.stdout)


def readable_rate(per_second: float, unit: str) -> str:
    """Such as "3.2 shards/s"; slow rates are given per minute."""
    if per_second >= 1:
        return f"{per_second:,.3g} {unit}/s" if per_second < 1000 else f"{per_second:,.0f} {unit}/s"
    return f"{per_second * 60:.2g} {unit}/min"


def clock_time(seconds: float) -> str:
    """Seconds as "0:07", "12:05" or "3:20:00"."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
