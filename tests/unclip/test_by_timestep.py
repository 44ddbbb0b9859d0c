"""The training loss by timestep, beside the mean that it is a part of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unclip.sharded_toys import MODEL, Images
from tests.unclip.test_objectives import MODELS, batch_for
from tests.unclip.toys import AR_PRIOR, ECLIPSE_PRIOR, perturb, seeded
from tests.unclip.training_toys import CONFIG, StopAfter, fit
from unclip.config import Config
from unclip.kinds import build, training_loss
from unclip.objectives.row_losses import collected_rows
from unclip.training import Batch, TrainingResult

SHORT = replace(CONFIG, steps=6, batch_size=8, log_every_steps=3, checkpoint_every_steps=2)
Curve = dict[int, dict[str, float]]


class AtTimesteps(Images):
    """Images whose timesteps are the same in each microbatch."""

    def __init__(self, *timesteps: int) -> None:
        super().__init__(poisoned=False)
        self.timesteps = torch.tensor(timesteps)

    def batch(self, step: int, logical_rank: int) -> Batch:
        return {**super().batch(step, logical_rank), "timesteps": self.timesteps}


def train_decoder(folder: Path, curve: Curve, **options: Any) -> TrainingResult:
    torch.manual_seed(0)
    options = {"data": Images(poisoned=False), "config": SHORT, **options}

    def log(step: int, values: dict[str, float]) -> None:
        losses = {name: value for name, value in values.items() if name.startswith("loss")}
        assert curve.setdefault(step, losses) == losses

    model = perturb(build(MODEL))
    return fit(folder, model=model, loss=training_loss, on_log=log, **options)


@pytest.mark.parametrize("config", MODELS)
def test_the_mean_of_the_reported_rows_is_the_loss(config: Config) -> None:
    model = perturb(build(config)).train()
    with collected_rows() as reports:
        loss = training_loss(model, batch_for(config), seeded(1))
    if config in (AR_PRIOR, ECLIPSE_PRIOR):
        assert reports == []
        return
    ((timesteps, losses),) = reports
    assert timesteps.shape == losses.shape == (4,)
    assert float(losses.mean()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert not losses.requires_grad


def test_a_loss_reports_nothing_where_nobody_collects() -> None:
    with collected_rows() as reports:
        pass
    training_loss(build(MODEL).train(), Images(poisoned=False).batch(0, 0), seeded(1))
    assert reports == []


def test_rows_at_two_timesteps_are_shown_apart(tmp_path: Path) -> None:
    last = build(MODEL).config.train_timesteps
    low, high, both = Curve(), Curve(), Curve()
    for number, (curve, timesteps) in enumerate(
        ((low, (0, 0)), (high, (last - 1, last - 1)), (both, (0, last - 1)))
    ):
        config = replace(SHORT, steps=1, log_every_steps=1, warmup_steps=0)
        data = AtTimesteps(*timesteps)
        train_decoder(tmp_path / str(number), curve, data=data, config=config)
    first, final = f"loss/t{last // 16:04d}", f"loss/t{15 * last // 16:04d}"
    assert low[1].keys() == {"loss", first}
    assert high[1].keys() == {"loss", final}
    assert low[1][first] == pytest.approx(low[1]["loss"])
    assert high[1][final] == pytest.approx(high[1]["loss"])
    assert both[1].keys() == {"loss", first, final}
    assert both[1]["loss"] == pytest.approx((both[1][first] + both[1][final]) / 2)
    assert both[1][first] != both[1][final]


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_the_curves_do_not_depend_on_where_the_run_was_stopped(tmp_path: Path, cut: int) -> None:
    whole, parts = Curve(), Curve()
    train_decoder(tmp_path / "whole", whole)
    train_decoder(tmp_path / "parts", parts, stop=StopAfter(cut))
    train_decoder(tmp_path / "parts", parts)
    assert parts == whole
    assert all(len(entry) > 3 for entry in whole.values())  # several parts of the timesteps


def test_a_checkpoint_without_losses_by_timestep_resumes_with_the_other_curves(
    tmp_path: Path,
) -> None:
    whole, parts = Curve(), Curve()
    train_decoder(tmp_path / "whole", whole)
    train_decoder(tmp_path / "parts", parts, stop=StopAfter(4))
    (manifest,) = (tmp_path / "parts").glob("step-00000004/checkpoint.json")
    content = json.loads(manifest.read_text())
    del content["values"]["meter"]["by_timestep"]  # as of an earlier version
    manifest.write_text(json.dumps(content))
    train_decoder(tmp_path / "parts", parts)
    assert parts.keys() == whole.keys() == {3, 6}
    assert parts[3] == whole[3]
    assert parts[6]["loss"] == whole[6]["loss"]
