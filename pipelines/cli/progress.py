"""What a person sees of a run: a live table in a terminal, plain lines where there is none."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal

from pipelines.core.events import Event, Metrics, Note, Output, Progress
from pipelines.core.plan import Plan, Step
from pipelines.core.store import Manifest

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

LINE_EVERY_S = 5.0  # of a stage's progress where there is no terminal
RATE_OVER_S = 60.0  # the rate is that of the last minute
BAR_WIDTH = 24
State = Literal["cached", "waiting", "running", "done", "failed", "left alone"]
SIGNS = {
    "cached": "[dim green]✓[/]",
    "done": "[green]✓[/]",
    "running": "[cyan]▶[/]",
    "failed": "[bold red]✗[/]",
    "waiting": "[dim]·[/]",
    "left alone": "[dim]–[/]",
}
FIRST: Mapping[str, State] = {"cached": "cached", "run": "waiting", "skip": "left alone"}


@dataclass
class Row:
    """One stage as it stands."""

    name: str
    state: State
    reason: str
    began: float = 0.0
    took_s: float = 0.0
    progress: Progress | None = None
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=200))
    shown_at: float = 0.0  # its last plain line
    shown: str = ""

    def advance(self, progress: Progress, now: float) -> None:
        """Take note of how far the stage is."""
        if self.progress is not None and progress.done < self.progress.done:
            self.samples.clear()  # it was set back: a rate over that says nothing
        self.progress = progress
        self.samples.append((now, progress.done))
        while self.samples[-1][0] - self.samples[0][0] > RATE_OVER_S:
            self.samples.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second over the last minute."""
        if len(self.samples) < 2:
            return None
        (t0, done0), (t1, done1) = self.samples[0], self.samples[-1]
        return (done1 - done0) / (t1 - t0) if t1 > t0 and done1 > done0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds until it is done at that rate."""
        if self.progress is None or self.rate is None:
            return None
        return max(0, self.progress.total - self.progress.done) / self.rate

    def message(self) -> str:
        """As in "120/400 shards, 3.2 shards/s, 1:28 left, loss 0.12"."""
        p = self.progress
        if p is None:
            return "starts"
        parts = [f"{p.done:,}/{p.total:,} {p.unit}"]
        if self.rate is not None:
            parts.append(readable_rate(self.rate, p.unit))
        if self.left_s:
            parts.append(f"{clock_time(self.left_s)} left")
        return ", ".join([*parts, *([p.note] if p.note else [])])


class View:
    """A `Listener` that shows a plan being carried out. Use it as a context manager."""

    def __init__(
        self,
        plan: Plan,
        *,
        out: IO[str] | None = None,
        live: bool | None = None,  # None: whether `out` is a terminal
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out or sys.stdout
        self.clock = clock
        self.rows = {s.stage.name: Row(s.stage.name, FIRST[s.action], s.reason) for s in plan.steps}
        self.live_wanted = self.out.isatty() if live is None else live
        self.live: Live | None = None
        self.began = clock()

    def __enter__(self) -> "View":
        self.began = self.clock()
        if self.live_wanted:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.out, force_terminal=True)
            self.live = Live(
                console=console, get_renderable=lambda: self._table(console), refresh_per_second=4
            )
            self.live.start()
        else:
            self._say_kept_rows()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def started(self, step: Step) -> Mapping[str, str]:
        """Show that the stage runs; it has no links to add."""
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
                self._line_now_and_then(row)
            case Note():
                self.say(f"{event.stage}: {event.text}")
            case Metrics() | Output():
                pass  # for the tracking server; what matters here is in the progress' note

    def finished(self, manifest: Manifest) -> None:
        """Show that the stage is done."""
        row = self.rows[manifest.stage]
        row.state, row.took_s = "done", manifest.duration_s
        self._line(row.name, f"done in {clock_time(row.took_s)}")

    def failed(self, step: Step, error: BaseException) -> None:
        """Show that the stage failed; the error itself is told at the end."""
        row = self.rows[step.stage.name]
        row.state, row.took_s = "failed", self.clock() - row.began
        self._line(row.name, f"FAILED after {clock_time(row.took_s)}: {error}")

    def say(self, text: str) -> None:
        """Show a sentence, above the table where there is one."""
        if self.live is not None:
            self.live.console.print(f"  {text}", markup=False, highlight=False, style="yellow")
        else:
            self._print(text)

    def _say_kept_rows(self) -> None:
        for row in self.rows.values():
            if row.state != "waiting":
                said = row.reason if row.state == "left alone" else f"cached ({row.reason})"
                self._line(row.name, said)

    def _line_now_and_then(self, row: Row) -> None:
        message, now = row.message(), self.clock()
        if message != row.shown and (not row.shown or now - row.shown_at >= LINE_EVERY_S):
            row.shown, row.shown_at = message, now
            self._line(row.name, message)

    def _line(self, stage: str, text: str) -> None:
        if self.live is None:
            self._print(f"{stage}: {text}")

    def _print(self, text: str) -> None:
        print(f"[{clock_time(self.clock() - self.began)}] {text}", file=self.out, flush=True)

    def _table(self, console: "Console") -> "Table":
        from rich.table import Table

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

    def _name(self, row: Row) -> str:
        style = {"running": "bold", "failed": "bold red", "done": "none"}.get(row.state, "dim")
        return f"[{style}]{row.name}[/]"

    def _cells(self, row: Row, wide: bool) -> "Sequence[RenderableType]":
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        if row.state != "running":
            said = {"done": clock_time(row.took_s), "failed": f"failed, {clock_time(row.took_s)}"}
            bar: RenderableType = Text(said.get(row.state, row.state), style="dim")
            return [bar, Text("" if row.state == "done" else row.reason, "dim", no_wrap=True)]
        message = Text(row.message(), no_wrap=True, overflow="ellipsis")
        p = row.progress
        total = float(p.total) if p and p.total else None
        pulse = total is None
        width = BAR_WIDTH if wide else BAR_WIDTH // 2
        done = float(p.done) if p else 0.0
        return [ProgressBar(total=total, completed=done, width=width, pulse=pulse), message]


def print_plan(plan: Plan, out: IO[str] | None = None) -> None:
    """Stage, action and reason in aligned columns, and how many stages would run."""
    wide = max((len(s.stage.name) for s in plan.steps), default=0)
    for step in plan.steps:
        row = f"{step.stage.name:<{wide}}  {step.action:<6}  {step.reason}"
        print(row, file=out or sys.stdout)
    run, cached = len(plan.to_run), sum(s.action == "cached" for s in plan.steps)
    print(f"\n{run} to run, {cached} cached, {len(plan.steps)} in all.", file=out or sys.stdout)


def readable_rate(per_second: float, unit: str) -> str:
    """As in "3.2 shards/s", or per minute where that is easier to read."""
    if per_second >= 1:
        return f"{per_second:,.3g} {unit}/s" if per_second < 1000 else f"{per_second:,.0f} {unit}/s"
    return f"{per_second * 60:.2g} {unit}/min"


def clock_time(seconds: float) -> str:
    """0:07, 12:05, 3:20:00."""
    pipeline = max(0, round(seconds))
    hours, minutes, rest = pipeline // 3600, pipeline % 3600 // 60, pipeline % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
