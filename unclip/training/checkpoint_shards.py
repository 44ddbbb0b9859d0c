"""The storage behind torch's distributed checkpoints (DCP): one file of each worker.

DCP decides which worker writes which part of a tensor, and which parts a worker reads if the
weights are shared in another way. The files hold the bytes of tensors, one after the other, and the
manifest says in JSON where each part is. Nothing is pickled.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from unclip.training.checkpoint_files import (
    MANIFEST,
    CheckpointFiles,
    CheckpointUnreadableError,
    Manifest,
)

READ_AT_ONCE = 64 << 20  # bytes of one read, at most, unless a part of a tensor is larger


class ShardWriter(StorageWriter):
    """Writes one checkpoint: each rank its parts into one file, the coordinator the manifest."""

    def __init__(self, files: CheckpointFiles, folder: str, values: Mapping[str, Any]) -> None:
        self.files = files
        self.folder = folder
        self.values = values

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name each rank's file, and remove what an interrupted writer left, the manifest first."""
        left = [name for name in self.files.sizes() if name.startswith(f"{self.folder}/")]
        self.files.remove(sorted(left, key=lambda name: not name.endswith(MANIFEST)))
        return [replace(plan, storage_data=f"{rank}.bin") for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's parts one after the other."""
        results: list[WriteResult] = []
        if plan.items:
            name = f"{self.folder}/{plan.storage_data}"
            with self.files.write(name) as path, path.open("wb") as file:
                for item in plan.items:
                    tensor = planner.resolve_data(item)
                    assert isinstance(tensor, Tensor)
                    start = file.tell()
                    file.write(_bytes(tensor))
                    where = (plan.storage_data, start)
                    results.append(WriteResult(item.index, file.tell() - start, where))
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Publish the manifest. Raises `CheckpointUnreadableError` if a rank's file is not here."""
        written = {r.index: r for of_rank in results for r in of_rank}
        sizes: dict[str, int] = {}
        for result in written.values():
            name, start = result.storage_data
            sizes[name] = max(sizes.get(name, 0), start + result.size_in_bytes)
        tensors = {
            name: _describe(name, tensor, written)
            for name, tensor in metadata.state_dict_metadata.items()
            if isinstance(tensor, TensorStorageMetadata)
        }
        content = {"files": sizes, "values": self.values, "tensors": tensors}
        Manifest(self.files, self.folder, content).check(self.files.sizes())
        with self.files.write(f"{self.folder}/{MANIFEST}") as path:
            path.write_text(json.dumps(content))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Not used: checkpoints are named by their files."""
        return False


class ShardReader(StorageReader):
    """Reads the parts of one checkpoint that a worker needs."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.metadata = _metadata(manifest.content["tensors"])

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to do: a reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        """Shapes and parts of the tensors."""
        return self.metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing to do."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the items' bytes, neighbours at once, into the tensors of the worker."""
        for name, spans in self._by_file(plan.items).items():
            for group in _neighbours(spans):
                start, end = group[0].start, max(span.end for span in group)
                content = self.manifest.files.read(f"{self.manifest.folder}/{name}", start, end)
                if len(content) != end - start:
                    raise CheckpointUnreadableError(f"its file {name} ends before byte {end}")
                for span in group:
                    own = bytearray(content[span.start - start : span.end - start])
                    target = planner.resolve_tensor(span.item).detach()
                    read = torch.frombuffer(own, dtype=target.dtype) if own else target
                    target.copy_(read.view(span.item.lengths))
                    planner.commit_tensor(span.item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _by_file(self, items: Iterable[ReadItem]) -> dict[str, list["_Span"]]:
        found: dict[str, list[_Span]] = {}
        for item in items:
            name, start = self.metadata.storage_data[item.storage_index]
            tensor = self.metadata.state_dict_metadata[item.storage_index.fqn]
            assert isinstance(tensor, TensorStorageMetadata)
            assert item.lengths[1:] == tensor.size[1:], "parts are cut along the first dimension"
            row = math.prod(tensor.size[1:]) * tensor.properties.dtype.itemsize
            if item.storage_offsets:
                start += item.storage_offsets[0] * row
            end = start + math.prod(item.lengths) * tensor.properties.dtype.itemsize
            found.setdefault(name, []).append(_Span(start, end, item))
        return found

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Not used: checkpoints are named by their files."""
        return False


@dataclass(frozen=True)
class _Span:
    """The bytes of a file that one item needs."""

    start: int
    end: int
    item: ReadItem


def _neighbours(spans: list[_Span]) -> Iterator[list[_Span]]:
    """The spans in groups without gaps, of at most `READ_AT_ONCE` bytes."""
    group: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if group and (span.start > group[-1].end or span.end - group[0].start > READ_AT_ONCE):
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def _describe(
    name: str, tensor: TensorStorageMetadata, written: Mapping[MetadataIndex, WriteResult]
) -> dict[str, Any]:
    """A tensor's entry in the manifest: type, shape, and [offsets, sizes, file, byte] of parts."""
    parts = []
    for chunk in tensor.chunks:
        where = written[MetadataIndex(name, chunk.offsets)].storage_data
        parts.append([list(chunk.offsets), list(chunk.sizes), *where])
    dtype = str(tensor.properties.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(tensor.size), "parts": parts}


def _metadata(tensors: Mapping[str, Any]) -> Metadata:
    """The inverse of `_describe` for all tensors."""
    described: dict[str, STORAGE_TYPES] = {}
    stored = {}
    for name, entry in tensors.items():
        chunks = []
        for offsets, sizes, file, start in entry["parts"]:
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            stored[MetadataIndex(name, offsets)] = (file, start)
        properties = TensorProperties(dtype=getattr(torch, entry["dtype"]))
        described[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
    return Metadata(state_dict_metadata=described, storage_data=stored)
