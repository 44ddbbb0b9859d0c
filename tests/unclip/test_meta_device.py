"""Models without values, and how workers that share weights get those of rank 0."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unclip.process_groups import group, run_workers
from tests.unclip.toys import seeded
from unclip.kinds import SPECS, build
from unclip.meta_device import build_empty
from unclip.training.parallel import Parallel, Workers, wrap
from unclip.training.sharding import whole

CPU = torch.device("cpu")
KINDS = {f"{spec.role} {spec.kind}": spec for spec in SPECS if "tiny" in spec.presets}
WORKERS = 2


def described(model: nn.Module) -> dict[str, Any]:
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: (t.shape, t.dtype, t.requires_grad, t.stride()) for name, t in named}


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_model_has_the_tensors_of_a_full_one(name: str) -> None:
    config: Any = KINDS[name].presets["tiny"]()
    empty, full = build_empty(partial(build, config)), build(config)
    assert described(empty) == described(full)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_an_empty_tensor_has_the_type_that_arithmetic_gives_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            count = torch.arange(4)
            drawn = torch.randn(4, generator=torch.Generator())
            for name, tensor in {
                "halved": count * 0.5,
                "twice": count * 2,
                "share": count / 4,
                "drawn": drawn,
                "third": drawn / 3.0,
                "sixth": drawn.mul_(0.5),
            }.items():
                self.register_buffer(name, tensor)

    assert described(build_empty(Scaled)) == described(Scaled())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 3)
        self.frozen = nn.Linear(3, 5).requires_grad_(requires_grad=False)
        self.tied = nn.Linear(5, 3, bias=False)
        self.tied.weight = self.one.weight
        self.register_buffer("shift", torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift + self.frozen(self.one(x) + self.tied(x))


class Odd(nn.Module):
    """Tied and frozen parameters, an unusual layout, and buffers of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv2d(5, 3, 2).to(memory_format=torch.channels_last)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False]))
        self.register_buffer("count", torch.tensor(7), persistent=False)
        self.register_buffer("scale", torch.full((3,), 0.5, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) * self.mask * self.count
        return self.conv(x[..., None, None].expand(-1, -1, 2, 2)).flatten(1) * self.scale


def odd(seed: int) -> Odd:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Odd()


def share(rank: int, folder: Path, *, empty: bool) -> None:
    """Each rank saves its tensors, gathered, and the gradients of a pass."""
    with group(rank, WORKERS, folder / "store"):
        model = build_empty(Odd) if rank and empty else odd(seed=rank)
        workers = Workers(rank=rank, world_size=WORKERS, device=CPU)
        objective = wrap(model, Parallel(shard_workers=WORKERS), workers)
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        found = {name: whole(tensor.detach()).clone() for name, tensor in tensors.items()}
        objective(lambda it: it(rows())).square().mean().backward()
        gradients = {
            f"gradient of {name}": whole(p.grad)
            for name, p in tensors.items()
            if p.grad is not None
        }
        torch.save(found | gradients, folder / f"{rank}.pt")


@pytest.mark.parametrize("empty", [True, False])
def test_workers_that_share_weights_have_those_of_rank_0(tmp_path: Path, empty: bool) -> None:
    run_workers(WORKERS, partial(share, empty=empty), tmp_path)
    model = odd(seed=0)
    model(rows()).square().mean().backward()
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    wanted = {name: tensor.detach() for name, tensor in tensors.items()} | {
        f"gradient of {name}": p.grad for name, p in tensors.items() if p.grad is not None
    }
    assert "blocks.0.tied.weight" not in wanted
    for rank in range(WORKERS):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def rows() -> Tensor:
    return torch.randn(4, 5, generator=seeded(0))
