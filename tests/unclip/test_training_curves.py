"""Log entries of a run that was cut, beside those of an undisturbed one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unclip.training_toys import CONFIG, Data, StopAfter, fit, same
from unclip.training import TrainingConfig, TrainingResult

VALUES = ("loss", "grad_norm", "learning_rate")  # the others are times
Curve = dict[int, tuple[float, ...]]  # values by step


class Killed(BaseException):
    pass


class Recorder:
    """Keeps log entries as a stage does: those after the resumed step are made again."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.curve: Curve = {}
        self.kill_at = kill_at

    def __call__(self, step: int, values: dict[str, float]) -> None:
        entry = tuple(values[name] for name in VALUES)
        assert self.curve.setdefault(step, entry) == entry
        if step == self.kill_at:
            raise Killed


def record(
    folder: Path, recorder: Recorder, config: TrainingConfig = CONFIG, **options: Any
) -> TrainingResult:
    return fit(folder, config, on_log=recorder, **options)


@pytest.mark.parametrize("cuts", [(1,), (3,), (5, 6), (7,), (2, 9, 11)])
def test_curves_and_final_loss_do_not_depend_on_where_a_run_was_stopped(
    tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    whole, parts = Recorder(), Recorder()
    expected = record(tmp_path / "whole", whole)
    done = 0
    for cut in cuts:
        part = record(tmp_path / "parts", parts, stop=StopAfter(cut - done))
        assert part.step == cut
        done = cut
    resumed = record(tmp_path / "parts", parts)
    assert sorted(whole.curve) == [4, 8, 12]
    assert parts.curve == whole.curve
    assert resumed.loss == expected.loss == whole.curve[12][0]


@pytest.mark.parametrize("log_every_steps", [1, 2, 3, 4])
def test_curves_after_a_kill_between_checkpoints_equal_those_of_the_undisturbed_run(
    tmp_path: Path, log_every_steps: int
) -> None:
    config = replace(CONFIG, log_every_steps=log_every_steps)
    whole = Recorder()
    expected = record(tmp_path / "whole", whole, config)
    parts = Recorder(kill_at=max(step for step in whole.curve if step < 12))
    with pytest.raises(Killed):
        record(tmp_path / "parts", parts, config)
    parts.kill_at = None
    resumed = record(tmp_path / "parts", parts, config)
    assert parts.curve == whole.curve
    assert resumed.loss == expected.loss


def test_curves_after_a_rollback_do_not_depend_on_where_the_run_was_stopped(
    tmp_path: Path,
) -> None:
    data = Data(poisoned=(6,))
    whole, parts = Recorder(), Recorder()
    record(tmp_path / "whole", whole, data=data)
    record(tmp_path / "parts", parts, data=data, stop=StopAfter(9))
    record(tmp_path / "parts", parts, data=data)
    assert parts.curve == whole.curve


def test_steps_that_were_all_skipped_make_no_log_entry(tmp_path: Path) -> None:
    recorder = Recorder()
    record(tmp_path, recorder, replace(CONFIG, log_every_steps=1), data=Data(poisoned=(6,)))
    assert sorted(recorder.curve) == [step for step in range(1, 13) if step != 7]


def test_loss_of_a_finished_run_is_that_of_its_last_log_entry_however_often_it_is_asked(
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    config = replace(CONFIG, steps=10)
    first = record(tmp_path, recorder, config)
    again = record(tmp_path, recorder, config)
    assert first.loss == again.loss == recorder.curve[8][0]


def test_training_for_longer_takes_only_the_further_steps_and_equals_the_straight_run(
    tmp_path: Path,
) -> None:
    short = replace(CONFIG, lr_schedule="constant", steps=6)
    longer = replace(short, steps=10)
    whole, parts = Recorder(), Recorder()
    straight = record(tmp_path / "straight", whole, longer)
    assert record(tmp_path / "parts", parts, short).step == 6
    taken: list[int] = []
    batches = Data()

    def counted(start_step: int, logical_ranks: tuple[int, ...]) -> Any:
        for step, batch in enumerate(batches(start_step, logical_ranks), start_step):
            taken.append(step)
            yield batch

    resumed = record(tmp_path / "parts", parts, longer, data=counted)
    assert taken == [6, 7, 8, 9]
    assert resumed.finished
    assert same(resumed.ema_weights, straight.ema_weights)
    assert parts.curve == whole.curve
    assert resumed.loss == straight.loss


def test_settings_that_change_no_step_are_not_in_the_digest() -> None:
    changed = replace(
        CONFIG,
        log_every_steps=1,
        checkpoint_every_steps=1,
        keep_checkpoints=5,
        sample_every_steps=3,
        max_rollbacks=9,
    )
    assert changed.digest() == CONFIG.digest()
    assert replace(CONFIG, seed=8).digest() != CONFIG.digest()
    assert replace(CONFIG, steps=13).digest() != CONFIG.digest()
    constant = replace(CONFIG, lr_schedule="constant")
    assert replace(constant, steps=13).digest() == constant.digest()
