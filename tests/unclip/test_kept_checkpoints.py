"""Which checkpoints are kept, and whose weights are the result."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unclip.process_groups import group, run_workers
from tests.unclip.training_toys import CONFIG, CPU, Data, StopAfter, denoising_loss, fit, make_model
from unclip.config import ConfigError
from unclip.training import Keep, LocalCheckpoints, Parallel, train

BEST = replace(CONFIG, checkpoint_every_steps=2, validate_every_steps=2, result="best")
LOSSES = {2: 0.5, 4: 0.2, 6: 0.3, 8: 0.2, 10: 0.4, 12: 0.6}
SHARINGS = {"replicated": Parallel(), "sharded": Parallel(shard_workers=2)}


class Judge:
    """Answers with the given losses, and keeps the averaged weights of each step."""

    def __init__(self, losses: Mapping[int, float]) -> None:
        self.losses = losses
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def __call__(self, step: int, model: nn.Module) -> float:
        self.weights[step] = {name: t.clone() for name, t in model.state_dict().items()}
        return self.losses[step]


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


@pytest.mark.parametrize(
    ("every", "kept"), [(None, [8, 10, 12]), (4, [4, 8, 10, 12]), (6, [6, 8, 10, 12])]
)
def test_the_newest_checkpoints_are_kept_and_those_at_multiples(
    tmp_path: Path, every: int | None, kept: list[int]
) -> None:
    config = replace(CONFIG, checkpoint_every_steps=2, keep_checkpoints=3, keep_every_steps=every)
    fit(tmp_path, config)
    assert steps_in(tmp_path) == kept


def test_the_result_is_the_average_with_the_least_validation_loss(tmp_path: Path) -> None:
    judge = Judge(LOSSES)
    best = fit(tmp_path, BEST, on_validation=judge)
    assert best.step == 12
    assert best.weights_of_step == 4  # of two equal ones the first
    torch.testing.assert_close(best.ema_weights, judge.weights[4], rtol=0, atol=0)
    assert steps_in(tmp_path) == [4, 10, 12]


def test_the_last_step_is_judged_even_between_validations(tmp_path: Path) -> None:
    config = replace(BEST, steps=11)
    judge = Judge({**LOSSES, 11: 0.1})
    assert fit(tmp_path, config, on_validation=judge).weights_of_step == 11


@pytest.mark.parametrize("cut", [3, 5, 9])
def test_the_best_weights_do_not_depend_on_where_the_run_was_stopped(
    tmp_path: Path, cut: int
) -> None:
    whole = fit(tmp_path / "whole", BEST, on_validation=Judge(LOSSES))
    part = fit(tmp_path / "parts", BEST, on_validation=Judge(LOSSES), stop=StopAfter(cut))
    assert part.weights_of_step == cut
    resumed = fit(tmp_path / "parts", BEST, on_validation=Judge(LOSSES))
    assert resumed.weights_of_step == 4
    torch.testing.assert_close(resumed.ema_weights, whole.ema_weights, rtol=0, atol=0)


def test_losses_that_are_no_numbers_are_never_the_best(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(LOSSES, float("nan"))
    assert fit(tmp_path / "1", BEST, on_validation=Judge(nowhere)).weights_of_step == 12
    one = Judge({**nowhere, 6: 9.0})
    assert fit(tmp_path / "2", BEST, on_validation=one).weights_of_step == 6


def test_a_best_checkpoint_that_is_torn_leaves_the_second_best(tmp_path: Path) -> None:
    fit(tmp_path, BEST, on_validation=Judge(LOSSES))
    (tmp_path / "step-00000004" / "0.bin").write_bytes(b"")
    again = fit(tmp_path, BEST, on_validation=Judge(LOSSES))
    assert again.weights_of_step == 10


def train_shared(rank: int, folder: Path) -> None:
    for name, parallel in SHARINGS.items():
        with group(rank, 2, folder / f"{name}.store"):
            result = train(
                make_model(),
                denoising_loss,
                Data(),
                BEST,
                checkpoints=LocalCheckpoints(folder / name, Keep.of(BEST)),
                device=CPU,
                rank=rank,
                world_size=2,
                parallel=parallel,
                on_validation=lambda step, model: LOSSES[step],
            )
            if rank == 0:
                torch.save((result.weights_of_step, result.ema_weights), folder / f"{name}.pt")


def test_workers_agree_on_the_best_weights(tmp_path: Path) -> None:
    run_workers(2, train_shared, tmp_path)
    alone = fit(tmp_path / "alone", BEST, on_validation=Judge(LOSSES))
    for name in SHARINGS:
        step, weights = torch.load(tmp_path / f"{name}.pt")
        assert step == alone.weights_of_step == 4
        torch.testing.assert_close(weights, alone.ema_weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"keep_every_steps": 7},
            "keep_every_steps=7 is not a .* try keep_every_steps=10",
        ),
        ({"keep_every_steps": 0}, "keep_every_steps=0 must be at least 1, or null"),
        ({"result": "best"}, "validate_every_steps=None; try validate_every_steps=5"),
        ({"result": "best", "validate_every_steps": 3}, "try validate_every_steps=5"),
    ],
)
def test_settings_under_which_nothing_is_kept_or_judged_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)


def test_best_without_held_out_rows_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='hold rows out, or set result="last"'):
        fit(tmp_path, BEST)
    assert list(tmp_path.iterdir()) == []


def test_the_default_result_leaves_the_digest_as_it_was() -> None:
    assert replace(CONFIG, validate_every_steps=5, result="last").digest() == CONFIG.digest()
    assert replace(BEST, keep_every_steps=4).digest() == BEST.digest() != CONFIG.digest()
