"""The choice between the code for a CPU and that for a GPU, where they differ."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_assumed: str | None = None


def uses_cpu_code(x: Tensor) -> bool:
    """Whether to take the code that is faster on a CPU for x."""
    return (_assumed or x.device.type) == "cpu"


@contextmanager
def code_for(device_type: str) -> Iterator[None]:
    """Take the code for "cpu" or "cuda", wherever the tensors are; for estimates without a GPU."""
    global _assumed
    before, _assumed = _assumed, device_type
    try:
        yield
    finally:
        _assumed = before
