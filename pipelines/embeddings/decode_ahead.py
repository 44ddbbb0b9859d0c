"""Decode images and tokenize captions, here or in processes that work ahead."""

# B pairs of a batch, S image side, L text tokens

import io
import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pipelines.core.errors import PipelineError, WorkLostError, first_line
from unclip.clip.inputs import ClipInputs

log = logging.getLogger(__name__)

COLUMNS = ("key", "row", "caption", "image")
Place = tuple[str, int]  # a pair's key, and its row in the shard of pairs
AHEAD = 2  # batches per process that are being decoded, wait for it, or wait for the model


class UndecodableImageError(PipelineError):
    """A stored image cannot be decoded."""


@dataclass(frozen=True)
class EncodedPairs:
    """A batch of pairs as they are stored."""

    where: str  # the file, for error messages
    places: list[Place]
    captions: list[str]
    images: list[bytes]

    @classmethod
    def of(cls, table: pa.Table, where: str) -> "EncodedPairs":
        """From a table with columns key, row, caption and image."""
        keys, rows, captions, images = (table[name].to_pylist() for name in COLUMNS)
        return cls(where, list(zip(keys, rows, strict=True)), captions, images)


@dataclass(frozen=True)
class DecodedPairs:
    """A batch of pairs, ready for the model. Arrays, because tensors would use shared memory."""

    places: list[Place]
    pixels: np.ndarray  # (B, 3, S, S) uint8
    tokens: np.ndarray  # (B, L) int64


def decode(inputs: ClipInputs, batch: EncodedPairs) -> DecodedPairs:
    """Decode, resize and tokenize; raises `UndecodableImageError`."""
    keys = [key for key, _ in batch.places]
    images = map(_open, batch.images, keys, [batch.where] * len(keys))
    pixels = inputs.pixels(images)
    return DecodedPairs(batch.places, pixels.numpy(), inputs.tokenize(batch.captions).numpy())


def _open(content: bytes, key: str, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # PIL raises anything on broken data
        raise UndecodableImageError(
            f"The image of pair {key} in {where} cannot be decoded: {first_line(error)}. The stage "
            "that wrote the file checks every image, so the file was damaged later: delete it and "
            "run again, and it is made anew."
        ) from error


class Decoder:
    """Decodes batches; its processes live as long as it does."""

    def __init__(self, inputs: ClipInputs, workers: int) -> None:
        """workers: number of processes; 0: the caller's thread decodes."""
        self.inputs, self.workers = inputs, workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, batches: Iterator[EncodedPairs]) -> Iterator[DecodedPairs]:
        """The batches in their order.

        Raises `UndecodableImageError`, and `WorkLostError` if a process dies.
        """
        if not self.workers:
            return (decode(self.inputs, batch) for batch in batches)
        return self._in_processes(batches)

    def _in_processes(self, batches: Iterator[EncodedPairs]) -> Iterator[DecodedPairs]:
        self._pool = self._pool or self._new_pool()
        submitted: deque[Future[DecodedPairs]] = deque()
        try:
            while True:
                for batch in islice(batches, AHEAD * self.workers - len(submitted)):
                    submitted.append(self._pool.submit(_decode_here, batch))
                if not submitted:
                    return
                yield submitted.popleft().result()
        except BrokenProcessPool as error:
            self._pool = None  # the next shard starts another one
            raise WorkLostError(
                f"One of {self.workers} processes that decode images died. If memory ran out, "
                "lower embed.decode_workers or raise run.resources.embed.memory_gib. Run again to "
                "resume."
            ) from error
        finally:
            for future in submitted:
                future.cancel()

    def _new_pool(self) -> ProcessPoolExecutor:
        log.info("starting %d processes that decode images", self.workers)
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of torch and Ray
        return ProcessPoolExecutor(self.workers, context, _start, (self.inputs,))


_inputs: ClipInputs  # of this process, if it is one of a pool


def _start(inputs: ClipInputs) -> None:
    global _inputs
    _inputs = inputs
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its pool, whose processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _decode_here(batch: EncodedPairs) -> DecodedPairs:
    return decode(_inputs, batch)
