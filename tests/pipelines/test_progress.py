import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli.progress import ProgressDisplay, StageRow, clock_time, print_plan, readable_rate
from pipelines.core.events import Metrics, Note, Progress
from pipelines.core.stage import Outlook, ShardEntry
from pipelines.core.store import Store
from tests.pipelines.fake_run import finish, plan_of, tell


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    return Store(str(tmp_path / "store"))


def shown_plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_without_a_terminal_a_run_is_shown_as_plain_lines(store: Store) -> None:
    finish(store, plan_of(store), "pairs", {})
    plan, out, clock = plan_of(store), io.StringIO(), Clock()
    with ProgressDisplay(plan, out=out, clock=clock) as display:
        assert display.started(plan["fit"]) == {}
        display.event(Progress("fit", 0, 100, "steps"))
        clock.now += 10
        display.event(Metrics("fit", 50, {"loss": 0.5}))
        display.event(Progress("fit", 50, 100, "steps", note="loss 0.5"))
        display.event(Note("fit", "a worker died"))
        clock.now += 10
        display.finished(finish(store, plan, "fit", {}))
        display.started(plan["check"])
        clock.now += 3
        display.failed(plan["check"], ValueError("the disk is full"))
    assert out.getvalue().splitlines() == [
        "[0:00] pairs: cached (made 2026-03-01 12:00)",
        "[0:00] fit: starts (never run)",
        "[0:00] fit: 0/100 steps",
        "[0:10] fit: 50/100 steps, 5 steps/s, 0:10 left, loss 0.5",
        "[0:10] fit: a worker died",
        "[0:20] fit: done in 1:02",
        "[0:20] check: starts (never run)",
        "[0:23] check: FAILED after 0:03: the disk is full",
    ]


def test_plain_progress_comes_at_most_every_few_seconds_and_only_when_it_changed(
    store: Store,
) -> None:
    plan, out, clock = plan_of(store), io.StringIO(), Clock()
    with ProgressDisplay(plan, out=out, clock=clock) as display:
        display.started(plan["fit"])
        for done in range(100):
            clock.now += 0.25
            display.event(Progress("fit", done, 100, "steps"))
        lines = len(out.getvalue().splitlines())
        assert 5 <= lines <= 7
        clock.now += 60
        for _ in range(3):
            display.event(Progress("fit", 99, 100, "steps", note="saving"))
            clock.now += 60
    assert len(out.getvalue().splitlines()) <= lines + 2


def test_the_live_table_shows_every_stage_a_bar_and_notes_above(store: Store) -> None:
    finish(store, plan_of(store), "pairs", {})
    plan, out, clock = plan_of(store), io.StringIO(), Clock()
    with ProgressDisplay(plan, out=out, live=True, clock=clock) as display:
        display.started(plan["fit"])
        display.event(Progress("fit", 0, 100, "steps"))
        clock.now += 10
        display.event(Progress("fit", 25, 100, "steps", note="loss 0.123"))
        display.event(Note("fit", "the worker of [shard 3] died"))
        assert display.live is not None
        display.live.refresh()
        running = shown_plain(out.getvalue())
        tell(display, store, plan, "check")
    assert "fit: the worker of [shard 3] died" in running
    assert re.search(r"✓ +pairs +cached +made 2026-03-01", running)
    assert re.search(r"▶ +fit +━.* 25/100 steps, 2.5 steps/s, 0:30 left, loss", running)
    assert re.search(r"· +check +waiting", running)
    assert "1 of 3 stages" in running
    assert re.search(r"✓ +check +1:02", shown_plain(out.getvalue()))


def test_a_rate_follows_the_last_minute_and_starts_again_after_a_setback() -> None:
    row = StageRow("fit", "running", "")
    for second in range(0, 200, 10):  # one a second at first, ten a second in the last minute
        done = second if second < 120 else 120 + (second - 120) * 10
        row.advance(Progress("fit", done, 2000, "steps"), float(second))
    assert row.rate == pytest.approx(10)
    row.advance(Progress("fit", 50, 2000, "steps"), 200.0)
    assert row.rate is None
    assert row.left_s is None
    assert row.message() == "50/2,000 steps"


def test_a_plan_is_printed_in_aligned_columns_with_its_reasons(store: Store) -> None:
    finish(store, plan_of(store, width=8), "pairs", {})
    finish(store, plan_of(store, width=8), "fit", {})
    out = io.StringIO()
    known = {"00000": ShardEntry(3)}
    some = Outlook({"00000": 3, "00001": 1200}, known, {}, "5 to fetch")
    print_plan(plan_of(store, width=16), {"pairs": some, "fit": some}, out)
    assert out.getvalue().splitlines() == [
        "pairs  cached  made 2026-03-01 12:00",
        "fit    run     fit.config.width: 8 → 16",
        "               1 of 2 shards are new, with at most 1,200 rows; 5 to fetch",
        "check  run     never run",
        "",
        "2 to run, 1 cached, 3 in total.",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (67, "1:07"), (12000, "3:20:00"), (-1, "0:00")]
)
def test_times_read_like_a_clock(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (3.25, "3.25 rows/s"),
        (0.05, "3 rows/min"),
        (12345.6, "12,346 rows/s"),
        (950.4, "950 rows/s"),
    ],
)
def test_rates_keep_to_three_digits(rate: float, shown: str) -> None:
    assert readable_rate(rate, "rows") == shown
