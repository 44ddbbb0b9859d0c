from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unclip.training_toys import CONFIG, fit
from unclip.config import ConfigError
from unclip.training import (
    Ema,
    adamw,
    learning_rate,
)


def test_ema_follows_its_definition_and_leaves_the_weights_as_they_were() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, decay=0.5)
    expected = model.weight.detach().clone()
    for t in range(20):
        with torch.no_grad():
            model.weight.add_(1.0)
        ema.update()
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with ema.applied() as averaged:
        torch.testing.assert_close(averaged.weight, expected)
        assert not averaged.training
    assert torch.equal(model.weight, own)
    assert model.training
    torch.testing.assert_close(ema.weights()["weight"], expected)


def test_learning_rate_warms_up_in_a_line_and_falls_as_half_a_cosine() -> None:
    config = replace(CONFIG, steps=110, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(config, s) for s in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 110) == pytest.approx(0.0)
    constant = replace(config, lr_schedule="constant", warmup_steps=0)
    assert {learning_rate(constant, s) for s in (0, 50, 109)} == {1.0}


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    groups = adamw(model, CONFIG).param_groups
    decaying = [p for g in groups if g["weight_decay"] > 0 for p in g["params"]]
    assert [id(p) for p in decaying] == [id(model[1].weight)]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_callbacks_are_called_when_due_and_samples_come_from_averaged_weights(
    tmp_path: Path,
) -> None:
    calls: list[tuple[str, int]] = []

    def on_sample(step: int, model: nn.Module) -> None:
        assert not model.training
        calls.append(("sample", step))

    def on_log(step: int, values: dict[str, float]) -> None:
        assert values["loss"] > 0
        assert 0 <= values["data_wait_fraction"] < 1
        calls.append(("log", step))

    fit(
        tmp_path,
        replace(CONFIG, sample_every_steps=6),
        on_log=on_log,
        on_sample=on_sample,
        on_checkpoint=lambda step, values: calls.append(("checkpoint", step)),
    )
    assert [s for name, s in calls if name == "log"] == [4, 8, 12]
    assert [s for name, s in calls if name == "sample"] == [6, 12]
    assert [s for name, s in calls if name == "checkpoint"] == [5, 10, 12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_size": 18},
            "batch_size=18 is not divisible by logical_ranks=4; try batch_size=16",
        ),
        ({"ema_decay": 1.0}, r"ema_decay=1.0 must be in \[0, 1\)"),
        ({"warmup_steps": 13}, r"warmup_steps=13 must be in \[0, 12\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)
