"""The values that show how a training does, against what they mean."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unclip.training_toys import CONFIG, fit
from unclip.training import adamw
from unclip.training.ema import Ema
from unclip.training.health import health


def make_model() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
    return nn.ModuleDict({"body": nn.ModuleDict({"down": inner, "up": nn.Linear(16, 6)})})


def norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def test_values_are_what_the_last_step_did_to_each_part() -> None:
    model = make_model()
    body = model["body"]
    optimizer = adamw(model, replace(CONFIG, weight_decay=0.0))
    average = Ema(model, decay=0.9)
    for _ in range(3):
        model.zero_grad()
        body["up"](body["down"](torch.randn(4, 6))).square().mean().backward()
        before = [p.detach().clone() for p in body["down"].parameters()]
        optimizer.step()
        average.update()
    found = health(model, optimizer, average.parts)
    weights = [p.detach() for p in body["down"].parameters()]
    changes = [after - b for after, b in zip(weights, before, strict=True)]
    averages = [average.parts[f"body.down.0.{name}"] for name in ("weight", "bias")]
    distances = [w - a for w, a in zip(weights, averages, strict=True)]
    gradients = [p.grad for p in body["down"].parameters() if p.grad is not None]
    assert found["grad_norm/body.down"] == pytest.approx(norm(gradients))
    assert found["update_ratio/body.down"] == pytest.approx(norm(changes) / norm(weights), rel=1e-4)
    assert found["ema_distance/body.down"] == pytest.approx(norm(distances) / norm(weights))
    assert {name.split("/")[1] for name in found} == {"body.down", "body.up"}


def test_each_log_entry_has_the_gradients_of_all_parts(tmp_path: Path) -> None:
    entries: list[dict[str, float]] = []
    config = replace(CONFIG, log_every_steps=1, max_grad_norm=None)
    fit(tmp_path, config, on_log=lambda step, values: entries.append(values))
    assert len(entries) == CONFIG.steps
    for entry in entries:
        of_parts = [v for name, v in entry.items() if name.startswith("grad_norm/")]
        assert norm([torch.tensor(of_parts)]) == pytest.approx(entry["grad_norm"], rel=1e-4)
        assert all(value > 0 for name, value in entry.items() if name.startswith("update_ratio/"))


def test_values_are_the_same_after_a_stop(tmp_path: Path) -> None:
    def entries(folder: Path, *stops: int) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {}
        for steps in (*stops, CONFIG.steps):
            config = replace(CONFIG, lr_schedule="constant", steps=steps)
            fit(folder, config, on_log=lambda step, values: found.update({step: values}))
        return found

    whole, parts = entries(tmp_path / "whole"), entries(tmp_path / "parts", 5, 9)
    names = [n for n in whole[4] if "/" in n]
    assert names
    assert {s: [v[n] for n in names] for s, v in whole.items()} == {
        s: [v[n] for n in names] for s, v in parts.items()
    }
