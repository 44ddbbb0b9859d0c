"""Processes of a sharded training are killed again and again, and no byte of its result changes."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from pipelines.artifacts import MODEL_FILE
from pipelines.core.errors import EXIT_WORK_LOST
from pipelines.core.store import Store
from tests.core.processes import ROOT, until
from tests.pipelines.local import context, make
from tests.pipelines.training import TrainingContext
from tests.pipelines.training_driver import TRAINING, stage_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]
VICTIMS = ("rank",) * 10 + ("controller",) * 4 + ("raylet",) * 3 + ("driver",) * 3
TITLES = {"rank": "ray::RayTrainWorker", "controller": "ray::TrainController", "raylet": "raylet"}


def processes(driver: "subprocess.Popen[str]", victim: str) -> Iterator[psutil.Process]:
    """The run's processes of one kind."""
    try:
        children = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in children:
        try:
            title = (process.cmdline() or [""])[0]
        except psutil.Error:
            continue
        if TITLES[victim] in title:
            yield process


def last_checkpoint(folder: Path) -> int:
    """The step of the newest complete checkpoint; -1 if there is none."""
    complete = folder.glob(".checkpoints/step-*/checkpoint.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in complete), default=-1)


def await_progress(driver: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait until the training has saved another checkpoint, or has ended."""
    before = last_checkpoint(folder)
    until(lambda: driver.poll() is not None or last_checkpoint(folder) > before, timeout_s=300)


@pytest.mark.timeout(1800)
def test_twenty_kills_in_one_sharded_training_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, rng = Store(str(tmp_path / "store")), random.Random(5)
    for dependency in stage_of(1).dependencies.values():
        make(store, dependency)
    torch.set_num_threads(1)
    stage = stage_of(1)
    elsewhere = store.folder("undisturbed", stage.key)
    wanted = stage.run(context(store, stage, folder=elsewhere, kind=TrainingContext))
    folder = Path(store.folder("decoder", stage.key).url.removeprefix("file://"))

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.pipelines.training_driver", store.root]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)

    driver = start()
    for victim in rng.sample(VICTIMS, len(VICTIMS)):
        await_progress(driver, folder)
        assert driver.poll() is None, f"the training ended at step {last_checkpoint(folder)}"
        if victim == "driver":
            driver.kill()
        else:
            rng.choice(list(processes(driver, victim))).kill()
        if victim in ("driver", "raylet"):
            assert driver.wait(timeout=300) in (EXIT_WORK_LOST, -signal.SIGKILL)
            driver = start()
    assert driver.wait(timeout=600) == 0
    made = (folder / MODEL_FILE).read_bytes()
    assert made == Path(wanted.folder.local(MODEL_FILE)).read_bytes()
    assert last_checkpoint(folder) == -1  # checkpoints are removed at the end
    assert (folder / f"state/step-{TRAINING.steps:08d}").is_dir()
