"""The benchmarks run, at sizes that measure nothing."""

import re
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import (
    checkpoint_stall,
    data_report,
    duplicates,
    embedding,
    estimates,
    gpu,
    lists,
    steps,
    trainers,
)
from benchmarks.contest import random_inputs
from benchmarks.loader import main as time_loaders
from benchmarks.sizes import CPU, TINY
from benchmarks.timing import Seconds, median, ratio
from benchmarks.training_rows import Case, wide_embeddings, write_files
from tests.pipelines.test_loader import shards_of, store

__all__ = ["store"]  # a fixture


@pytest.fixture(autouse=True)
def _threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


def test_steps_are_timed_beside_diffusers(capsys: pytest.CaptureFixture[str]) -> None:
    steps.main(["--tiny", "--rounds", "1", "--against", "diffusers"])
    rows = [line for line in capsys.readouterr().out.splitlines() if "| diffusers |" in line]
    assert len(rows) == 2 * len(steps.OURS)
    assert all("**" in row for row in rows)


def test_a_profile_names_the_operators_of_a_training_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps.main(["--tiny", "--profile", "--models", "upsampler", "--against", "diffusers"])
    message = capsys.readouterr().out
    assert "unclip, " in message
    assert "diffusers, " in message
    assert "convolution_backward" in message


def test_utilisation_is_counted_without_a_gpu_too(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--tiny", "--eager"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("% |")]
    assert len(rows) == sum(len(makers) for makers in gpu.MAKERS.values())


def test_the_stall_of_a_checkpoint_is_shown_beside_the_save(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint_stall.main(["--tiny"])
    assert capsys.readouterr().out.count("%**") == 2


def test_rivals_have_as_many_parameters_as_ours() -> None:
    with torch.device("meta"):
        for name in steps.OURS:
            inputs = random_inputs(CPU)
            counts = [
                c.parameters() for c in steps.contestants_of(name, ["diffusers"], inputs, CPU)
            ]
            assert max(counts) < 1.01 * min(counts)


def test_a_ratio_is_taken_within_a_round() -> None:
    ours = [Seconds(1.0, 1.0), Seconds(10.0, 10.0), Seconds(2.0, 2.0)]  # a slow second round
    theirs = [Seconds(2.0, 3.0), Seconds(20.0, 30.0), Seconds(4.0, 6.0)]
    assert ratio(theirs, ours) == (2.0, 3.0)
    assert median(ours) == (2.0, 2.0)


def test_lists_are_read_in_processes_of_their_own() -> None:
    shown: list[str] = []
    lists.main(["--rows", "50", "100"], shown.append)
    rows = [line.split(" | ") for line in shown[1:]]
    assert [row[1] for row in rows] == ["50", "100"] * len(lists.WRITERS)


def test_the_data_report_is_made_in_a_process_of_its_own() -> None:
    shown: list[str] = []
    data_report.main(["--rows", "60"], shown.append)
    assert [row.split(" | ")[0] for row in shown[1:]] == ["| 60"]


@pytest.mark.parametrize("search", ["exact", "semantic"])
def test_duplicates_are_found_in_processes_of_their_own(
    search: str, capsys: pytest.CaptureFixture[str]
) -> None:
    duplicates.main([search, "--rows", "1000", "2000", "--width", "32"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 1,000", "| 2,000"]
    assert all("_mb" in row for row in rows)


def test_embedding_is_timed_beside_a_bare_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "red.txt").write_text("a red picture")
    embedding.main([str(tmp_path), "--model", "tiny", "--rows", "3", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if "**" in line]
    assert [row.split("|")[1].strip() for row in rows] == [
        "unclip",
        "bare loop",
        "bare loop, padded captions",
    ]


def test_the_loader_is_timed_beside_the_earlier_one_and_its_memory_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    time_loaders(["--tiny", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if "**" in line]
    assert [row.count("**") for row in rows] == [4, 4, 2]


@pytest.mark.parametrize("model", trainers.MODELS)
def test_trainings_with_their_loading_are_timed_beside_diffusers(
    model: str, store: Path, tmp_path: Path
) -> None:
    shards = wide_embeddings(shards_of(store), TINY.embed_dim, tmp_path / "wide")
    write_files(shards, tmp_path)
    counted = 2
    steps = trainers.WARM_UP + counted + 1
    case = Case(model, TINY, tmp_path, shards, steps, trainers.WARM_UP + 1, padded=True)
    entered = trainers.race(case, ["diffusers"], rounds=1)
    assert [len(contestant.rounds[0]) for contestant in entered] == [counted, counted]
    assert [row.count("**") for row in trainers.rows(case, entered)] == [0, 4]


def test_memory_that_another_thread_frees_is_not_counted_twice() -> None:
    held: list[Tensor] = []

    def allocate() -> None:
        for _ in range(4):
            held.append(torch.ones(1 << 20))
            thread = Thread(target=held.clear)
            thread.start()
            thread.join()

    before = torch.ones(1 << 20)
    assert estimates.allocated(allocate) == before.nbytes


@pytest.mark.slow
@pytest.mark.ray
def test_goodput_is_computed_from_a_replay_on_two_nodes() -> None:
    replay = [sys.executable, "-m", "benchmarks.preemptions", "--nodes", "2", "--minutes", "0.5"]
    shown = subprocess.run(replay, check=True, capture_output=True, text=True).stdout
    rows = dict(re.findall(r"^\| (\w.*) \| (.*) \|$", shown, re.MULTILINE))
    assert int(rows["steps taken"]) > 0
    assert rows["steps taken twice"] == "0"
    assert 0 < float(rows["goodput"].strip("*")) <= 1
