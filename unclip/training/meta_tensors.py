"""Operators on the meta device, in a fraction of the time that torch takes.

For most operators torch finds the shapes in Python. Some take milliseconds, and the first one
imports torch's compiler, which takes a second: too much for a command that shows a plan.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
TO_BOOL = {aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.isnan}


class FastShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes the shapes of elementwise operators and norms; leaves all else to torch."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in args if isinstance(a, Tensor)]
        if all(t.is_meta for t in tensors):
            if func in SHAPES:
                return SHAPES[func](*args, **kwargs)
            if tensors and torch.Tag.pointwise in func.tags and func is not aten.clone.default:
                return tensors[0] if func._schema.is_mutable else _elementwise(func, tensors)
        return func(*args, **kwargs)


def _elementwise(func: Any, tensors: list[Tensor]) -> Tensor:
    """What an operator on these tensors returns, in the layout of one that is not broadcast."""
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    dtype = torch.bool if func.overloadpacket in TO_BOOL else _common_dtype(tensors)
    if func.overloadpacket is aten.div and not dtype.is_floating_point:
        dtype = torch.float32
    like = next((t for t in tensors if t.shape == shape), None)
    if like is None:
        return torch.empty(shape, dtype=dtype, device="meta")
    return torch.empty_like(like, dtype=dtype)


def _common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The widest one; those of scalars count only beside scalars."""
    counted = [t for t in tensors if t.ndim] or tensors
    return reduce(torch.promote_types, (t.dtype for t in counted))


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x)


def _scalar(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.new_empty(())


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    is_nhwc = len(shape) == 4 and tensors[0].is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_nhwc else torch.contiguous_format
    dtype = _common_dtype(tensors)
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def _stack(tensors: list[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return tensors[0].new_empty(shape)


def _where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(condition.shape, x.shape, y.shape)  # type: ignore[no-untyped-call]
    return x.new_empty(shape, dtype=_common_dtype([x, y]))


def _addmm(_bias: Tensor, x: Tensor, y: Tensor, **_: Any) -> Tensor:
    return x.new_empty(x.shape[0], y.shape[1])


def _cumsum(x: Tensor, _dim: int) -> Tensor:
    return torch.empty_like(x) if x.is_floating_point() else x.new_empty(x.shape, dtype=torch.int64)


def _mean(x: Tensor, dims: list[int], keepdim: bool = False) -> Tensor:
    reduced = {d % x.ndim for d in dims}
    shape = [1 if i in reduced else n for i, n in enumerate(x.shape) if keepdim or i not in reduced]
    return x.new_empty(shape)


def _mse_loss(x: Tensor, _y: Tensor, reduction: int = 1) -> Tensor:
    return x.new_empty(()) if reduction else torch.empty_like(x)


def _mse_loss_backward(_grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _resize(x: Tensor, size: list[int], *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:2], *size)


def _layer_norm(x: Tensor, shape: list[int], *_: Any) -> tuple[Tensor, ...]:
    statistics = x.new_empty(*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


def _group_norm(x: Tensor, *settings: Any) -> tuple[Tensor, ...]:
    rows, groups = settings[2], settings[5]
    return torch.empty_like(x), x.new_empty(rows, groups), x.new_empty(rows, groups)


def _norm_backward(_grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    """Of either norm; the last argument tells which gradients are wanted."""
    weight = next((t for t in rest if isinstance(t, Tensor) and t.ndim == 1), None)
    like = (x, weight, weight)
    wanted = zip(like, rest[-1], strict=True)
    return tuple(torch.empty_like(t) if t is not None and w else None for t, w in wanted)


SHAPES: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _addmm,
    aten.cat.default: _cat,
    aten.cumsum.default: _cumsum,
    aten.mean.default: _scalar,
    aten.mean.dim: _mean,
    aten.mse_loss.default: _mse_loss,
    aten.mse_loss_backward.default: _mse_loss_backward,
    aten.stack.default: _stack,
    aten.tril.default: _like,
    aten.upsample_bicubic2d.default: _resize,
    aten.where.self: _where,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _norm_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _norm_backward,
}
