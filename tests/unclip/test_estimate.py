"""Estimates of a training step, against arithmetic by hand and against what torch does."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from unclip.clip.config import ClipArchitecture
from unclip.clip.stand_in import ClipStandIn, stand_in_loss
from unclip.clip.training import build_clip
from unclip.config import Config
from unclip.kinds import SPECS, spec_of
from unclip.kinds.spec import ModelSpec
from unclip.meta_device import build_empty
from unclip.presets import tiny
from unclip.training.estimate import estimate_memory
from unclip.training.meta_shards import ShardedUnits, Whole
from unclip.training.meta_step import StepCost, measure_step, meta_batch
from unclip.training.meta_tensors import FastShapes
from unclip.training.parallel import Parallel
from unclip.training.remedies import Layout, smallest_change

ROWS = 6
MODELS = {"prior": tiny().prior, "decoder": tiny().decoder, **tiny().upsamplers}
KINDS = {f"{spec.role} {spec.kind}": spec for spec in SPECS if "tiny" in spec.presets}
CLIP = ClipArchitecture(
    embed_dim=32,
    image_size=32,
    patch_size=8,
    vision_width=48,
    vision_layers=2,
    vision_heads=3,
    text_context_length=12,
    text_width=64,
    text_layers=2,
    text_heads=2,
    init_temperature=0.07,
)


def shapes(model: Any, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    known = {
        "pixels": lambda: (3, model.image_size, model.image_size),
        "tokens": lambda: (model.text_encoder.context_length,),
        "image_norm": lambda: (),
    }
    return {f: known.get(f, lambda: (model.embed_dim,))() for f in spec.batch_fields}


def cost(model: Config, *, device_type: str = "cpu", **settings: Any) -> StepCost:
    spec = spec_of(model)
    batch = meta_batch(shapes(model, spec), settings.pop("rows", ROWS))
    settings = {"precision": "float32", **settings}
    build = lambda: spec.network(model)  # noqa: E731
    return measure_step(build, spec.loss, batch, device_type=device_type, **settings)


def real_step(model: Config, precision: str) -> Callable[[], None]:
    """Forward and backward on the CPU, with gradients that exist already."""
    torch.manual_seed(0)
    spec = spec_of(model)
    network = spec.network(model).train()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = {
        name: torch.ones(ROWS, *shape, dtype=torch.int64)
        if name == "tokens"
        else torch.randn(ROWS, *shape)
        for name, shape in shapes(model, spec).items()
    }

    def step() -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = spec.loss(network, batch, generator)
        torch.autograd.backward(loss)

    return step


def allocated(step: Callable[[], None]) -> int:
    """The peak of what torch's allocator hands out during a step, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    held = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak


def test_a_linear_layer_costs_what_arithmetic_says() -> None:
    wide, narrow = 50, 30

    def loss(model: nn.Module, batch: Any, _: object) -> Tensor:
        out: Tensor = model(batch["x"])
        return out.sum()

    found = measure_step(
        lambda: nn.Linear(wide, narrow, bias=False),
        loss,
        meta_batch({"x": (wide,)}, ROWS),
        device_type="cpu",
        precision="float32",
    )
    product = 2 * ROWS * wide * narrow
    assert found.flops == 2 * product  # the output, and the gradient of the weights
    assert found.parameters == found.trained == wide * narrow
    assert found.casts == 0
    output, gradient = 4 * ROWS * narrow, 4 * wide * narrow
    assert found.activations in range(gradient, gradient + 2 * output + 100)


def test_in_bfloat16_each_weight_is_copied_at_most_once() -> None:
    def loss(model: nn.Module, batch: Any, _: object) -> Tensor:
        hidden = batch["x"]
        for _ in range(3):
            hidden = model(hidden)
        return hidden.float().sum()

    found = measure_step(
        lambda: nn.Linear(200, 200, bias=False),
        loss,
        meta_batch({"x": (200,)}, 1000),
        device_type="cpu",
        precision="bfloat16",
    )
    assert 0 < found.casts <= 2 * found.parameters


@pytest.mark.parametrize("name", MODELS)
def test_the_flops_are_those_that_torch_counts_in_a_real_step(name: str) -> None:
    step = real_step(MODELS[name], "float32")
    with FlopCounterMode(display=False) as counter:
        step()
    assert cost(MODELS[name]).flops == counter.get_total_flops()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_the_activations_are_within_a_tenth_of_those_of_a_real_step(
    name: str, precision: str
) -> None:
    found = cost(MODELS[name], precision=precision)
    measured = allocated(real_step(MODELS[name], precision))
    assert found.activations + found.casts == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_can_be_sized_for_a_gpu_too(name: str) -> None:
    found = cost(KINDS[name].presets["tiny"](), device_type="cuda", precision="bfloat16")
    assert found.flops > 2 * ROWS * found.trained or "vocab" in name or found.blocks
    assert found.activations > 0


@pytest.mark.parametrize("name", KINDS)
def test_the_shapes_of_operators_are_those_of_torch(name: str) -> None:
    compared = 0

    class Compared(FastShapes):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal compared
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if not func._schema.is_mutable:
                expected = func(*args, **(kwargs or {}))
                assert described(out) == described(expected), func
                compared += 1
            return out

    model: Any = KINDS[name].presets["tiny"]()
    spec = KINDS[name]
    network = build_empty(lambda: spec.network(model))
    with Compared():
        loss = spec.loss(network, meta_batch(shapes(model, spec), ROWS), torch.Generator())
        torch.autograd.backward(loss)
    assert compared > 10


def described(out: Any) -> list[Any]:
    values = out if isinstance(out, tuple | list) else [out]
    return [(tuple(v.shape), v.dtype) if isinstance(v, Tensor) else None for v in values]


def test_recomputed_activations_take_less_memory_and_more_flops() -> None:
    model = tiny().upsamplers["upsampler_1"]
    kept, again = cost(model), cost(model, checkpoint_activations=True)
    selected = cost(model, checkpoint_activations="selective")
    assert again.activations < selected.activations < kept.activations
    assert kept.flops <= selected.flops < again.flops
    assert again.activations < 0.7 * kept.activations
    assert 1.1 * kept.flops < again.flops < 4 / 3 * kept.flops


def test_a_microbatch_of_twice_the_rows_costs_twice_as_much() -> None:
    once, twice = (cost(tiny().decoder, device_type="cuda", rows=n) for n in (64, 128))
    assert twice.flops == pytest.approx(2 * once.flops, rel=0.01)
    assert twice.activations == pytest.approx(2 * once.activations, rel=0.01)


def test_without_shards_a_parameter_takes_twenty_bytes() -> None:
    step = cost(tiny().decoder)
    memory = estimate_memory(step, workers=2, shards=1, batch_bytes=0)
    held = memory.weights + memory.gradients + memory.optimizer + memory.ema
    assert held == 20 * step.parameters + step.buffers


def test_ddp_takes_twenty_four_bytes_where_activations_are_small() -> None:
    step = replace(cost(tiny().decoder), activations=10)
    alone, one_of_two = (
        estimate_memory(step, workers=n, shards=1, batch_bytes=0).total for n in (1, 2)
    )
    assert alone == 20 * step.parameters + step.buffers + 10
    assert one_of_two == 24 * step.parameters + step.buffers


def test_memory_falls_with_the_number_of_shards_down_to_what_is_not_sharded() -> None:
    step = cost(tiny().decoder, sharded=True)
    totals = [estimate_memory(step, workers=n, shards=n, batch_bytes=0) for n in (2, 4, 8, 10**7)]
    sizes = [memory.total for memory in totals]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(step.activations + step.gathered, rel=1e-3)


def test_what_is_gathered_is_bounded_by_the_blocks() -> None:
    whole, sharded = cost(tiny().decoder), cost(tiny().decoder, sharded=True)
    assert whole.gathered == 0
    assert sharded.flops == whole.flops
    outside = whole.parameters - sum(whole.blocks)
    assert 4 * outside <= sharded.gathered <= 4 * (2 * outside + 4 * max(whole.blocks))


class Chain(nn.Module):
    """Two blocks and a head outside of them, of 9 parameters each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(2))
        self.head = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


def test_what_fsdp_holds_is_what_arithmetic_says() -> None:
    held: dict[str, list[int]] = {"forward": [], "backward": []}
    alive: weakref.WeakSet[Whole] = weakref.WeakSet()
    phase = "forward"

    def note(whole: Whole) -> None:
        alive.add(whole)
        held[phase].append(sum(w.numel for w in alive) // 9)

    chain = Chain()
    units = ShardedUnits(chain, list(chain.blocks), note)
    with units.forward():
        out = chain(torch.ones(2, 3, requires_grad=True))
    phase = "backward"
    with units.backward():
        out.sum().backward()
    # The head's flat buffer and parameters; then a block's beside it. While a buffer replaces the
    # one before, there are both.
    assert held["forward"] == [1, 2, 3, 3, 3, 3]
    assert held["backward"] == [
        *(1, 2, 2),  # the head: buffer and parameters, then the buffer of block 2
        3,  # the head's gradients
        *(4, 4),  # block 2's parameters; block 1's buffer in place of that of block 2
        5,  # block 2's gradients
        5,  # their flat copy, in place of block 2's parameters
        *(5, 5),  # block 1's parameters, then its gradients in place of its buffer
        4,  # their flat copy, in place of its parameters and the flat copy before
        2,  # the head's flat copy beside its gradients; all else is freed
    ]
    assert all(p.grad is None for p in chain.parameters())


def test_the_smallest_change_comes_first() -> None:
    step = cost(tiny().decoder)
    layout = Layout(parallel=Parallel(), logical_ranks=8)

    @cache
    def microbatch(rows: int, recomputed: Any, sharded: bool) -> StepCost:
        return cost(tiny().decoder, rows=rows, checkpoint_activations=recomputed, sharded=sharded)

    def within(limit: int) -> Any:
        def fits(candidate: Layout) -> Any:
            parallel = candidate.parallel
            rows, shards = 48 // candidate.logical_ranks, parallel.shard_workers
            again = microbatch(rows, parallel.checkpoint_activations, shards > 1)
            memory = estimate_memory(again, workers=8, shards=shards, batch_bytes=0)
            return memory if memory.total <= limit else None

        found = smallest_change(layout, workers=8, batch_size=48, fits=fits)
        return found[0] if found else None

    whole = estimate_memory(step, workers=8, shards=1, batch_bytes=0).total
    assert within(whole) == layout
    assert within(whole - 1).parallel == Parallel(shard_workers=2)
    assert within(0) is None
    least = within(int(0.2 * whole))
    assert least is None or least.parallel.checkpoint_activations


def test_the_stand_in_of_clip_is_as_large_and_as_slow_as_the_real_one() -> None:
    batch = meta_batch({"pixels": (3, 32, 32), "tokens": (12,)}, ROWS)
    settings: dict[str, Any] = {"device_type": "cuda", "precision": "float32"}
    ours = measure_step(lambda: ClipStandIn(CLIP), stand_in_loss, batch, **settings)
    theirs = measure_step(lambda: build_clip(CLIP), stand_in_loss, batch, **settings)
    assert ours.parameters == theirs.parameters
    assert ours.flops == pytest.approx(theirs.flops, rel=0.02)


def test_code_for_a_gpu_keeps_more_than_that_for_a_cpu() -> None:
    unet = replace(tiny().decoder.unet, attention_resolutions=())
    model = replace(tiny().decoder, image_size=32, unet=unet)
    assert cost(model, device_type="cuda").activations > cost(model).activations
