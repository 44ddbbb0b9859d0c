"""Longer drills: many kills in one run, and two runs that extend one store."""

import random
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from pipelines.core.errors import EXIT_WORK_LOST
from pipelines.core.stage import load_artifact
from pipelines.core.store import Store
from tests.core.driver import TOYS
from tests.core.processes import start, until
from tests.core.toys import traces
from tests.pipelines.local import make

pytestmark = pytest.mark.ray

VICTIMS = ("worker",) * 16 + ("driver", "raylet") * 2


def files(root: Path | str, stage: str) -> dict[str, bytes]:
    """The shards of a stage."""
    return {path.name: path.read_bytes() for path in Path(root).glob(f"{stage}/shards/*.parquet")}


def belonging(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        return psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find(driver: "subprocess.Popen[str]", victim: str) -> psutil.Process | None:
    """A process of the run to kill; None if there is none at the moment."""
    if victim == "driver":
        return psutil.Process(driver.pid)
    for process in belonging(driver):
        try:
            words = process.cmdline() or [""]
        except psutil.Error:
            continue
        if words[0].startswith("ray::_ShardActor") if victim == "worker" else "raylet" in words[0]:
            return process
    return None


def kill_one(driver: "subprocess.Popen[str]", root: Path, victim: str) -> bool:
    """Kill a process of the run once it has made another shard; returns whether it did."""
    before = len(list(root.glob("*/shards/*.parquet")))

    def has_gone_on() -> bool:
        made = len(list(root.glob("*/shards/*.parquet")))
        return driver.poll() is not None or made > before

    until(has_gone_on)
    process = find(driver, victim) if driver.poll() is None else None
    if process is None:
        return False
    process.send_signal(signal.SIGKILL)
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_in_one_run_change_no_byte(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, root = Store(str(tmp_path / "undisturbed")), tmp_path / "store"
    (toy,) = TOYS["drill"]()
    make(undisturbed, toy)
    for stage in ("GROW", "ADD"):
        monkeypatch.setenv(f"TOY_{stage}", "pause_s=0.5")
    victims = random.Random(3).sample(VICTIMS, len(VICTIMS))
    driver = start(root, "drill")
    while driver.poll() != 0:
        if driver.poll() is not None:
            assert driver.returncode in (EXIT_WORK_LOST, -signal.SIGKILL), driver.communicate()
            driver = start(root, "drill")
        elif victims:
            processes = belonging(driver)
            if kill_one(driver, root, victims[-1]) and victims.pop() == "driver":
                driver.wait()
                psutil.wait_procs(processes, timeout=30)
        else:
            driver.wait(timeout=120)
    assert not victims
    for stage in ("grow", "add"):
        assert files(root, stage) == files(undisturbed.root, stage)
    assert load_artifact(Store(str(root)), toy).metadata() == make(undisturbed, toy).metadata()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("kind", ["grow", "draw"])
def test_two_runs_that_extend_one_store_share_their_shards(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv(f"TOY_{kind.upper()}", "pause_s=0.5")
    store, undisturbed = Store(str(tmp_path / "store")), Store(str(tmp_path / "undisturbed"))
    drivers = [start(store.root, f"{kind} {shards}") for shards in (6, 9)]
    for driver in drivers:
        _, err = driver.communicate(timeout=200)
        assert driver.returncode == 0, err
    made = traces(trace, kind)
    assert set(made) == {f"{number:05d}" for number in range(9)}
    if kind == "draw":
        assert set(made.values()) == {1}
    for shards in (6, 9):
        (toy,) = TOYS[f"{kind} {shards}"]()
        manifest = store.manifest(toy.name, toy.key)
        assert manifest is not None
        assert store.missing_outputs(manifest) == []
        assert load_artifact(store, toy).metadata() == make(undisturbed, toy).metadata()
    assert files(store.root, kind) == files(undisturbed.root, kind)
