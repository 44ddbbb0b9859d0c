"""Models on the meta device: their tensors have shapes, and take no memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

SCALINGS = (torch.Tensor.mul, torch.Tensor.div)
IN_PLACE = (torch.Tensor.mul_, torch.Tensor.div_)


def build_empty(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that `build` makes, on the meta device."""
    with torch.device("meta"), _WithoutValues():
        return build()


class _WithoutValues(TorchFunctionMode):
    """Skips what only gives weights their first values, because a meta tensor has none.

    On the meta device they would import torch's compiler and sympy, which takes a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in IN_PLACE and isinstance(args[1], int | float):
            return args[0]
        if func in SCALINGS and isinstance(args[1], int | float) and args[0].is_floating_point():
            return torch.empty_like(args[0])
        if func is torch.randn:
            kwargs.pop("generator", None)
            func = torch.empty
        return func(*args, **kwargs)
