import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip.config import ConfigError
from unclip.training import (
    Batch,
    Ema,
    LocalCheckpoints,
    TrainingConfig,
    TrainingDiverged,
    TrainingResult,
    adamw,
    learning_rate,
    train,
)

CONFIG = TrainingConfig(
    steps=12,
    batch_size=16,
    lanes=4,
    learning_rate=1e-2,
    lr_schedule="cosine",
    warmup_steps=3,
    weight_decay=0.01,
    adam_beta1=0.9,
    adam_beta2=0.99,
    adam_eps=1e-8,
    max_grad_norm=1.0,
    ema_decay=0.9,
    precision="float32",
    log_every_steps=4,
    checkpoint_every_steps=5,
    keep_checkpoints=2,
    sample_every_steps=None,
    seed=7,
)
CPU = torch.device("cpu")


def make_model(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, 6))
    return nn.Sequential(*layers)


def denoising_loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    noise = torch.randn(batch["x"].shape, generator=generator)
    loss: Tensor = (model(batch["x"] + 0.1 * noise) - batch["x"]).square().mean()
    return loss


class Data:
    """Microbatches that follow from (step, lane); a `poisoned` step has a NaN in lane 2."""

    def __init__(self, *, poisoned: tuple[int, ...] = (), scaled: dict[int, float] | None = None):
        self.poisoned = poisoned
        self.scaled = scaled or {}

    def __call__(self, start_step: int, lanes: tuple[int, ...]) -> Iterator[Sequence[Batch]]:
        step = start_step
        while True:
            yield [self.batch(step, lane) for lane in lanes]
            step += 1

    def batch(self, step: int, lane: int) -> Batch:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(100 * step + lane))
        x = x * self.scaled.get(step, 1.0)
        if step in self.poisoned and lane == 2:
            x[1] = math.nan
        return {"x": x, "keys": [f"{step}-{lane}-{row}" for row in range(4)]}


def fit(folder: Path, config: TrainingConfig = CONFIG, **options: Any) -> TrainingResult:
    model = options.pop("model", None) or make_model()
    return train(
        model,
        options.pop("loss", denoising_loss),
        options.pop("data", Data()),
        config,
        checkpoints=LocalCheckpoints(folder, keep=config.keep_checkpoints),
        device=CPU,
        **options,
    )


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("steps", [1, 5, 11])
def test_run_stopped_anywhere_and_resumed_ends_bit_for_bit_where_the_uninterrupted_one_does(
    tmp_path: Path, steps: int, precision: Any
) -> None:
    config = replace(CONFIG, precision=precision)
    whole_model, resumed_model = make_model(), make_model()
    whole = fit(tmp_path / "whole", config, model=whole_model)
    part = fit(tmp_path / "parts", config, stop=StopAfter(steps))
    assert (part.step, part.finished) == (steps, False)
    torch.manual_seed(12345)  # nothing may depend on where the global generator stands
    resumed = fit(tmp_path / "parts", config, model=resumed_model)
    assert resumed.finished
    assert same(resumed_model.state_dict(), whole_model.state_dict())
    assert same(resumed.ema_weights, whole.ema_weights)


def test_run_killed_between_checkpoints_repeats_the_same_steps(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(step: int, values: dict[str, float]) -> None:
        if step == 8:
            raise KilledError

    whole = fit(tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(tmp_path / "parts", on_log=kill)
    first = LocalCheckpoints(tmp_path / "parts", keep=2).latest()
    assert first is not None
    assert first[0] == 5
    assert same(fit(tmp_path / "parts").ema_weights, whole.ema_weights)


def test_finished_run_takes_no_further_step(tmp_path: Path) -> None:
    first = fit(tmp_path)
    again = fit(tmp_path)
    assert same(first.ema_weights, again.ema_weights)
    assert math.isnan(again.loss)


def test_dropout_draws_differ_between_steps_and_lanes(tmp_path: Path) -> None:
    drawn: list[Tensor] = []

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        drawn.append(nn.functional.dropout(torch.ones(64), training=True))
        drawn.append(torch.rand(64, generator=generator))
        return denoising_loss(model, batch, generator)

    fit(tmp_path, replace(CONFIG, steps=3), loss=loss)
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn) == 3 * 4 * 2


def _worker(rank: int, world_size: int, folder: str, poisoned: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store-{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    result = fit(
        Path(folder) / f"workers-{world_size}",
        data=Data(poisoned=poisoned),
        rank=rank,
        world_size=world_size,
    )
    found = {"weights": result.ema_weights, "skipped": list(result.skipped_steps)}
    found["keys"] = [list(r.keys) for r in result.rollbacks]
    torch.save(found, f"{folder}/result-{world_size}-{rank}.pt")
    dist.barrier()  # a rank that leaves early takes the others' connections with it
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_workers_takes_the_same_steps_and_skips_the_same_one(
    tmp_path: Path, world_size: int
) -> None:
    alone = fit(tmp_path / "alone", data=Data(poisoned=(6,)))
    context = torch.multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_worker, args=(rank, world_size, str(tmp_path), (6,)))
        for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * world_size
    for rank in range(world_size):
        found = torch.load(tmp_path / f"result-{world_size}-{rank}.pt")
        assert found["skipped"] == list(alone.skipped_steps) == [6]
        assert found["keys"] == [["6-2-0", "6-2-1", "6-2-2", "6-2-3"]]
        for name, weight in alone.ema_weights.items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=1e-4, atol=1e-6)


def test_workers_that_cannot_share_the_lanes_are_refused_with_the_numbers_that_can(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"3 workers .* lanes=4 .* one of \[1, 2, 4\]"):
        fit(tmp_path, world_size=3)


def test_nan_is_rolled_back_and_reported_with_the_keys_of_its_lane(tmp_path: Path) -> None:
    told: list[str] = []
    result = fit(tmp_path, data=Data(poisoned=(7,)), on_rollback=lambda r: told.append(str(r)))
    (rollback,) = result.rollbacks
    assert (rollback.step, rollback.back_to, result.skipped_steps) == (7, 5, (7,))
    assert rollback.keys == ("7-2-0", "7-2-1", "7-2-2", "7-2-3")
    assert "step 7 refused (the loss is nan)" in told[0]
    assert "7-2-1" in told[0]
    assert result.finished
    assert all(w.isfinite().all() for w in result.ema_weights.values())


def test_run_resumed_after_a_rollback_skips_the_same_step(tmp_path: Path) -> None:
    data = Data(poisoned=(6,))
    whole = fit(tmp_path / "whole", data=data)
    fit(tmp_path / "parts", data=data, stop=StopAfter(10))
    resumed = fit(tmp_path / "parts", data=data)
    assert resumed.rollbacks == ()
    assert resumed.skipped_steps == (6,)
    assert same(resumed.ema_weights, whole.ema_weights)


def test_gradient_that_is_not_finite_is_rolled_back_though_the_loss_is(tmp_path: Path) -> None:
    class BrokenOnceError(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        value = denoising_loss(model, batch, generator)
        broken: Tensor = BrokenOnceError.apply(value)
        return broken if batch["keys"][0] == "2-1-0" else value

    result = fit(tmp_path, loss=loss)
    assert "gradient norm" in result.rollbacks[0].reason
    assert result.skipped_steps == (2,)


def test_loss_spike_is_rolled_back(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, lr_schedule="constant")
    result = fit(tmp_path, config, data=Data(scaled={30: 100.0}))
    assert result.skipped_steps == (30,)
    assert "times the running median" in result.rollbacks[0].reason


def test_too_many_rollbacks_to_one_checkpoint_end_training_with_the_way_out(tmp_path: Path) -> None:
    config = replace(CONFIG, max_rollbacks=2)
    with pytest.raises(TrainingDiverged, match=r"step 9 refused.*max_rollbacks=2.*learning_rate"):
        fit(tmp_path, config, data=Data(poisoned=(6, 8, 9)))
    spread = Data(poisoned=(1, 2, 6, 7))  # two before the checkpoint of step 5, and two after
    assert fit(tmp_path / "spread", config, data=spread).skipped_steps == (1, 2, 6, 7)


def test_checkpoint_of_other_settings_is_refused_and_of_a_longer_constant_run_is_not(
    tmp_path: Path,
) -> None:
    constant = replace(CONFIG, lr_schedule="constant")
    fit(tmp_path, constant)
    with pytest.raises(ConfigError, match="made with other settings"):
        fit(tmp_path, replace(constant, learning_rate=2e-2))
    assert fit(tmp_path, replace(constant, steps=15, log_every_steps=1)).step == 15


def test_torn_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(tmp_path)
    checkpoints = LocalCheckpoints(tmp_path, keep=2)
    newest = checkpoints.path(12)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    (tmp_path / "step-00000099.pt.partial").write_bytes(b"killed while writing")
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest()
    assert found is not None
    assert found[0] == 10
    assert newest.name in caplog.text
    assert same(fit(tmp_path).ema_weights, whole.ema_weights)


def test_only_the_last_checkpoints_are_kept_and_no_partial_file(tmp_path: Path) -> None:
    fit(tmp_path, replace(CONFIG, checkpoint_every_steps=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010.pt", "step-00000012.pt"]


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
        ({"batch_size": 18}, "batch_size=18 is not divisible by lanes=4; try batch_size=16"),
        ({"ema_decay": 1.0}, r"ema_decay=1.0 must be in \[0, 1\)"),
        ({"warmup_steps": 13}, r"warmup_steps=13 must be in \[0, 12\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)
