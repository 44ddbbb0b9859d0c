import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unclip.training_toys import CONFIG, fit, same
from unclip.training import Checkpoints, Keep, LocalFiles

FOLDER = "step-00000012"  # of the last checkpoint


def resume(folder: Path) -> tuple[bool, list[str]]:
    """Whether training ends with the weights of an undisturbed run, and its notices."""
    notices: list[str] = []
    resumed = fit(folder, on_notice=notices.append)
    return same(resumed.ema_weights, fit(folder / "whole").ema_weights), notices


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("0.bin", r"its file 0.bin has \d+ of \d+ bytes"),
        ("checkpoint.json", r"its checkpoint.json is damaged: JSONDecodeError.*"),
    ],
)
def test_a_torn_file_is_reported_with_the_step_that_training_goes_on_from(
    tmp_path: Path, file: str, reason: str
) -> None:
    fit(tmp_path)
    path = tmp_path / FOLDER / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / FOLDER / "1.bin.partial").write_bytes(b"killed while writing")
    equal, (notice,) = resume(tmp_path)
    assert equal
    assert re.fullmatch(
        rf"checkpoint of step 12 cannot be read \({reason}\); "
        "training goes on from step 10 instead",
        notice,
    )


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    fit(tmp_path)
    (tmp_path / FOLDER / "0.bin").unlink()
    equal, (notice,) = resume(tmp_path)
    assert equal
    assert "its file 0.bin is missing" in notice


def test_a_run_without_any_readable_checkpoint_says_so_and_starts_again(tmp_path: Path) -> None:
    fit(tmp_path)
    for file in tmp_path.glob("*/checkpoint.json"):
        file.write_bytes(b"[]")
    equal, notices = resume(tmp_path)
    assert equal
    assert [n.split(" cannot")[0] for n in notices] == [f"checkpoint of step {s}" for s in (12, 10)]
    assert all("starts again from step 0" in notice for notice in notices)


class KillsItself(LocalFiles):
    """Is killed in the middle of the checkpoint of step 10."""

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        with super().write(name) as path:
            yield path
            if name == "step-00000010/0.bin":
                path.write_bytes(path.read_bytes()[:100])
                os.kill(os.getpid(), signal.SIGKILL)


def _train_until_killed(folder: Path) -> None:
    fit(folder, checkpoints=Checkpoints(KillsItself(folder), keep=Keep(2)))


def test_a_run_killed_while_it_writes_in_the_background_goes_on_from_the_checkpoint_before(
    tmp_path: Path,
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_train_until_killed, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "step-00000010").exists()
    equal, (notice,) = resume(tmp_path)
    assert equal
    assert notice == (
        "checkpoint of step 10 cannot be read (it was interrupted while it was written); training "
        "goes on from step 5 instead"
    )


class FullDisk(LocalFiles):
    """Has no room for the checkpoints of some steps; `writes` counts the attempts."""

    writes = 0

    def __init__(self, folder: Path, *steps: int, recovers_after: int = 100) -> None:
        super().__init__(folder)
        self.full_for = {f"step-{step:08d}/0.bin" for step in steps}
        self.recovers_after = recovers_after

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        with super().write(name) as path:
            yield path
            self.writes += name in self.full_for
            if name in self.full_for and self.writes <= self.recovers_after:
                raise OSError("no space left")


def test_a_checkpoint_that_cannot_be_written_is_a_notice_and_training_goes_on(
    tmp_path: Path,
) -> None:
    notices: list[str] = []
    checkpoints = Checkpoints(FullDisk(tmp_path, 5), keep=Keep(2))
    disturbed = fit(tmp_path, checkpoints=checkpoints, on_notice=notices.append)
    assert same(disturbed.ema_weights, fit(tmp_path / "whole").ema_weights)
    assert notices == [
        "the checkpoint of step 5 could not be written; training goes on and writes the next one. "
        "no space left"
    ]


def test_the_second_checkpoint_in_a_row_that_cannot_be_written_ends_training(
    tmp_path: Path,
) -> None:
    with pytest.raises(OSError, match="no space left"):
        fit(tmp_path, checkpoints=Checkpoints(FullDisk(tmp_path, 5, 10), keep=Keep(2)))
    equal, notices = resume(tmp_path)
    assert equal
    assert ["goes on from step 0" in notice for notice in notices] == [True, True]


def test_the_last_checkpoint_is_written_again_if_it_fails(tmp_path: Path) -> None:
    files = FullDisk(tmp_path, CONFIG.steps, recovers_after=1)
    fit(tmp_path, checkpoints=Checkpoints(files, keep=Keep(2)))
    assert files.writes == 2
    assert (tmp_path / FOLDER / "checkpoint.json").exists()


class Unreachable(LocalFiles):
    """A network disk that does not answer."""

    def read(self, name: str, start: int, end: int) -> bytes:
        raise OSError("does not answer")


def test_a_store_that_does_not_answer_is_an_error_and_not_an_older_checkpoint(
    tmp_path: Path,
) -> None:
    fit(tmp_path)
    with pytest.raises(OSError, match="does not answer"):
        fit(tmp_path, checkpoints=Checkpoints(Unreachable(tmp_path), keep=Keep(2)))


def test_only_the_last_checkpoints_are_kept_and_no_partial_file(tmp_path: Path) -> None:
    fit(tmp_path, replace(CONFIG, checkpoint_every_steps=2))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        f"step-000000{step}/{file}" for step in (10, 12) for file in ("0.bin", "checkpoint.json")
    ]
