"""Microbatches on their way to the device."""

# B batch, S image size

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from unclip.training.logical_ranks import Batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device, and uint8 images as float32 in [-1, 1]."""
    return {
        name: _to_device(value, device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _to_device(value: Tensor, device: torch.device) -> Tensor:
    moved = value.to(device, non_blocking=True)
    return as_float(moved) if moved.dtype == torch.uint8 else moved


def as_float(pixels: Tensor) -> Tensor:
    """Images (B, 3, S, S) uint8, in any memory format, as contiguous float32 in [-1, 1]."""
    # A divisor on the device: CUDA multiplies by the reciprocal of a number, which rounds
    # differently from a division.
    half = torch.full((), 127.5, device=pixels.device)
    floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(half).sub_(1.0)


def copied_ahead(
    batches: Iterator[Sequence[Batch]], device: torch.device
) -> Iterator[Sequence[Batch]]:
    """The same batches; on CUDA, those of the next step are copied while a step is computed.

    Pinned tensors are copied on a stream of their own. Images stay uint8, which are a quarter of
    the bytes. Closing the iterator closes `batches`.
    """
    return _copied_ahead(batches, device) if device.type == "cuda" else batches


def _copied_ahead(
    batches: Iterator[Sequence[Batch]], device: torch.device
) -> Generator[Sequence[Batch], None, None]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy_next() -> tuple[list[Batch], torch.cuda.Event]:
        given = next(batches)
        with torch.cuda.stream(stream):
            copied = [_copied(batch, device) for batch in given]
            return copied, stream.record_event()

    with ThreadPoolExecutor(1, "copy") as thread:
        try:
            coming = thread.submit(copy_next)
            while True:
                copied, done = coming.result()
                coming = thread.submit(copy_next)
                current = torch.cuda.current_stream(device)
                current.wait_event(done)
                for tensor in (t for batch in copied for t in batch.values()):
                    if isinstance(tensor, Tensor):
                        tensor.record_stream(current)  # it was allocated on another stream
                yield copied
        finally:
            thread.submit(close, batches).result()  # after the copy that is under way


def _copied(batch: Batch, device: torch.device) -> Batch:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def close(batches: Iterator[Sequence[Batch]]) -> None:
    """Close a generator now, so that its threads end before it is garbage-collected."""
    close = getattr(batches, "close", None)
    if close is not None:
        close()
