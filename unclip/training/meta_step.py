"""The cost of a training step without taking it: a pass on tensors that have no data.

`measure_step` runs forward and backward of the loss on torch's meta device. A dispatch mode sees
every operator: it counts the FLOPs, and the bytes of storages while they live. Random draws come
from a generator on the CPU, so losses can read their values.

Autocast does not act on the meta device, so a function mode makes the same casts. For a GPU the
models take their GPU code. Attention is fused in any case.
"""

# B rows of a microbatch

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from unclip.meta_device import build_empty
from unclip.models.kernels import code_for
from unclip.training.logical_ranks import Batch, Loss
from unclip.training.meta_shards import ShardedUnits, Whole
from unclip.training.meta_tensors import FastShapes
from unclip.training.recompute import recompute_blocks
from unclip.training.sharding import blocks_of

Recomputed = bool | Literal["selective"]  # of `Parallel.checkpoint_activations`
CASTS_DOWN = {
    F.linear,
    F.conv2d,
    F.conv_transpose2d,
    F.scaled_dot_product_attention,
    torch.bmm,
    torch.einsum,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
}
CASTS_UP = {F.layer_norm, F.group_norm}  # on a GPU only


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One microbatch, forward and backward, on one device. Sizes are in bytes."""

    parameters: int  # number
    trained: int  # number of those that are trained
    blocks: tuple[int, ...]  # number in each block that is sharded and checkpointed
    buffers: int
    flops: int
    activations: int  # most that is alive besides weights, their casts and gradients
    casts: int  # what copies of the weights in the precision of the computation add to that
    gathered: int  # what whole parameters and gradients add to that, if weights are sharded


def measure_step(
    build: Callable[[], nn.Module],
    loss: Loss[Any],
    batch: Batch,
    *,
    device_type: str,
    precision: str,
    checkpoint_activations: Recomputed = False,
    sharded: bool = False,
) -> StepCost:
    """Count what a microbatch costs; allocates no memory for the model.

    build: the untrained model. batch: on the meta device, from `meta_batch`. device_type: "cpu" or
    "cuda". precision: "float32" or "bfloat16".
    """
    with FastShapes():  # type: ignore[no-untyped-call]
        model = build_empty(build).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    if not sharded:
        for parameter in trained:  # gradients exist already, as in any microbatch but the first
            parameter.grad = torch.zeros_like(parameter)
    blocks, ledger, casts = (
        blocks_of(model),
        _Ledger(model),
        _Autocast(device_type, keeps=not sharded),
    )
    if checkpoint_activations:
        for block in blocks:
            block.forward = _with_casts(block.forward, casts)
        recompute_blocks(model, selective=checkpoint_activations == "selective")
    units = ShardedUnits(model, blocks, ledger.gather) if sharded else None
    with code_for(device_type), ledger:
        with (
            units.forward() if units else nullcontext(),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
            casts,
        ):
            result = loss(model, batch, torch.Generator().manual_seed(0))
        casts.weights.clear()
        with units.backward() if units else nullcontext():
            torch.autograd.backward(result)
    return StepCost(
        parameters=_count(model),
        trained=sum(p.numel() for p in trained),
        blocks=tuple(map(_count, blocks)),
        buffers=sum(b.nbytes for b in model.buffers()),
        flops=ledger.flops,
        activations=ledger.most_activations,
        casts=ledger.most_whole - ledger.most_activations,
        gathered=ledger.most - ledger.most_whole,
    )


def meta_batch(shapes: Mapping[str, tuple[int, ...]], rows: int) -> Batch:
    """A microbatch of B = `rows` rows without data; shapes: of one row, by field."""
    batch: dict[str, Any] = {"keys": [""] * rows}
    for name, shape in shapes.items():
        dtype = torch.int64 if name == "tokens" else torch.float32
        batch[name] = torch.empty(rows, *shape, dtype=dtype, device="meta")
    return batch


class _Ledger(FastShapes):  # type: ignore[no-untyped-call]
    """Counts FLOPs, and the bytes that are alive on the meta device besides the model's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        held = [*model.parameters(), *model.buffers()]
        held += [p.grad for p in model.parameters() if p.grad is not None]
        self._own = [t.untyped_storage() for t in held]
        self._own_ids = {id(storage) for storage in self._own}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._activations = self._casts = self._gathered = 0
        self.flops = self.most = self.most_whole = self.most_activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        is_cast = func is torch.ops.aten._to_copy.default and self._is_own(args[0])
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._hold(tensor.untyped_storage(), is_cast=is_cast)
        return out

    def _is_own(self, tensor: Tensor) -> bool:
        return id(tensor.untyped_storage()) in self._own_ids

    def _hold(self, storage: Any, *, is_cast: bool) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._own_ids or key in self._alive:
            return

        def forget(_: object) -> None:
            del self._alive[key]
            self._add(-size, is_cast)

        self._alive[key] = weakref.ref(storage, forget)
        self._add(size, is_cast)

    def gather(self, whole: Whole) -> None:
        """Count what is gathered as long as it lives."""
        self._gathered += whole.nbytes
        weakref.finalize(whole, self._forget_gathered, whole.nbytes)
        self._note()

    def _forget_gathered(self, size: int) -> None:
        self._gathered -= size

    def _add(self, size: int, is_cast: bool) -> None:
        if is_cast:
            self._casts += size
        else:
            self._activations += size
        self._note()

    def _note(self) -> None:
        whole = self._activations + self._casts
        self.most_activations = max(self.most_activations, self._activations)
        self.most_whole = max(self.most_whole, whole)
        self.most = max(self.most, whole + self._gathered)


class _Autocast(TorchFunctionMode):
    """Casts the arguments of some functions where autocast is enabled, and fuses attention.

    weights: the cast parameters. keeps: whether each is cast once, and not in each use; those that
    FSDP2 gathers are not kept.
    """

    def __init__(self, device_type: str, *, keeps: bool) -> None:
        super().__init__()
        self.keeps = keeps
        self.casts_up = CASTS_UP if device_type == "cuda" else set()
        self.weights: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu"):
            if func in CASTS_DOWN:
                args, kwargs = tree_map(self._down, (args, kwargs))
            elif func in self.casts_up:
                args = [a.float() if isinstance(a, Tensor) else a for a in args]
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _down(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (self.keeps and value.is_leaf and value.requires_grad):
            return value.bfloat16()
        if id(value) not in self.weights:
            self.weights[id(value)] = value.bfloat16()
        return self.weights[id(value)]


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **settings: Any
) -> Tensor:
    """The fused kernel of a CPU; those of a GPU keep as much for the backward pass."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype)
    causal = settings.get("is_causal", False)
    out: Tensor = attend(q, k, v, 0.0, causal, attn_mask=attn_mask, scale=settings.get("scale"))[0]
    return out


def _with_casts(forward: Callable[..., Any], casts: _Autocast) -> Callable[..., Any]:
    """The same; its casts are also made when it is computed again, in the backward pass."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with casts:
            return forward(*args, **kwargs)

    return call


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
