from typing import Any

import pytest
import torch

from tests.unclip.process_groups import run_workers
from tests.unclip.sharded_toys import POISONED, RUNS, run_all
from tests.unclip.training_toys import same

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("sharded")
    run_workers(4, run_all, folder)
    return {name: torch.load(folder / f"{name}.pt") for name in RUNS}


def names(start: str) -> list[str]:
    return [name for name in RUNS if name.startswith(start) and name != f"{start}1"]


@pytest.mark.parametrize("name", names("fixed-"))
def test_fixed_summation_gives_equal_bits_on_any_number_of_workers_sharded_or_not(
    results: Results, name: str
) -> None:
    alone, shared = results["fixed-1"], results[name]
    assert same(shared["weights"], alone["weights"])
    assert shared["loss"] == alone["loss"]
    assert shared["curve"] == alone["curve"]
    assert any(name.startswith("loss/t") for name in alone["curve"][1])


@pytest.mark.parametrize("name", names("fast-"))
def test_sharded_and_uneven_runs_equal_the_run_of_one_worker_up_to_rounding(
    results: Results, name: str
) -> None:
    for parameter, weight in results["fast-1"]["weights"].items():
        shared = results[name]["weights"][parameter]
        torch.testing.assert_close(shared, weight, rtol=1e-4, atol=1e-6)
    assert results[name]["loss"] == pytest.approx(results["fast-1"]["loss"], rel=1e-5)


def test_fixed_summation_changes_the_result_by_rounding_only(results: Results) -> None:
    for name, weight in results["fast-1"]["weights"].items():
        torch.testing.assert_close(
            results["fixed-1"]["weights"][name], weight, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", [name for name in RUNS if "sharded" in name or "groups" in name])
def test_a_sharded_model_samples_with_the_averaged_weights(results: Results, name: str) -> None:
    alone = "poisoned-1" if "poisoned" in name else "fixed-1"
    samples, wanted = results[name]["samples"], results[alone]["samples"]
    assert samples.keys() == wanted.keys()
    assert 2 in samples
    for step, images in wanted.items():
        torch.testing.assert_close(samples[step], images, rtol=1e-3, atol=1e-4)


def test_a_run_that_two_four_and_one_workers_share_ends_where_that_of_one_does(
    results: Results,
) -> None:
    assert same(results["part-1"]["weights"], results["whole-1"]["weights"])


def test_a_worker_reads_no_more_of_a_checkpoint_than_its_part(results: Results) -> None:
    whole, quarter = (results[name]["read_bytes"] for name in ("part-1", "part-4"))
    assert results["part-2"]["read_bytes"] == 0  # starts afresh
    assert 0.2 < quarter / whole < 0.3


@pytest.mark.parametrize("name", ["poisoned-2", "poisoned-3-sharded"])
def test_workers_roll_a_spike_back_as_one_does(results: Results, name: str) -> None:
    alone, shared = results["poisoned-1"], results[name]
    assert shared["skipped"] == alone["skipped"] == [POISONED]
    assert shared["keys"] == alone["keys"] == [["11-0", "11-1"]]
    for parameter, weight in alone["weights"].items():
        torch.testing.assert_close(shared["weights"][parameter], weight, rtol=1e-4, atol=1e-6)
    assert name == "poisoned-2" or same(shared["weights"], alone["weights"])
