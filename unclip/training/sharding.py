"""Weights that several workers share: fully_shard (FSDP2) by block.

Each worker holds a part of every parameter, of its gradient, optimiser state and average. The
parameters of a block are gathered for its forward and backward pass, and freed afterwards. With
fewer workers than the world in a group, each group has a copy of the weights (HSDP).

A block is an element of a `torch.nn.ModuleList`. A block whose parameters are read outside of its
`forward` names the methods that read them in its attribute `forward_methods`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

REPLICATE, SHARD = "replicate", "shard"  # dimensions of the mesh


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, the inner ones last."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if not isinstance(block, nn.ModuleList)]


def shard(module: nn.Module, device: torch.device, *, world_size: int, group_size: int) -> None:
    """Shard the parameters of `module` on `device` in groups of `group_size` workers; in place.

    Buffers get the values of rank 0, and parameters too, block by block. The module of another
    worker may be on the meta device.
    """
    mesh = make_mesh(device, world_size=world_size, group_size=group_size)
    _take_from_rank_0([part._buffers for part in module.modules()], device)
    for block in reversed(blocks_of(module)):
        if any(True for _ in block.parameters()):
            _take_from_rank_0([part._parameters for part in block.modules()], device)
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
            for method in getattr(block, "forward_methods", ()):
                register_fsdp_forward_method(block, method)
    _take_from_rank_0([part._parameters for part in module.modules()], device)
    # The root's parameters are freed too: sampling changes the weights between steps.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _take_from_rank_0(held: Sequence[dict[str, Any]], device: torch.device) -> None:
    """Set the tensors that modules hold, by name, to rank 0's, except those sharded already."""
    taken: dict[Tensor, Tensor] = {}  # by identity: tied ones stay tied
    for tensors in held:
        for name, tensor in tensors.items():
            if tensor is None or isinstance(tensor, DTensor):
                continue
            if tensor not in taken:
                taken[tensor] = _of_rank_0(tensor, device)
            tensors[name] = taken[tensor]


def _of_rank_0(tensor: Tensor, device: torch.device) -> Tensor:
    """Rank 0's value of a tensor, contiguous, because FSDP refuses channels_last."""
    value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    if dist.get_rank() == 0:
        value.copy_(tensor.detach())
    dist.broadcast(value, 0)
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value


def make_mesh(device: torch.device, *, world_size: int, group_size: int) -> DeviceMesh:
    """The workers as a mesh; with two dimensions if there are several groups."""
    if group_size == world_size:
        return init_device_mesh(device.type, (world_size,), mesh_dim_names=(SHARD,))
    shape = (world_size // group_size, group_size)
    return init_device_mesh(device.type, shape, mesh_dim_names=(REPLICATE, SHARD))


def local(tensor: Tensor) -> Tensor:
    """The worker's part of a sharded tensor; a tensor that is not sharded itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, gathered from the workers; a tensor that is not sharded itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """`part` as this worker's part of a tensor that is sharded like `tensor`."""
    if not isinstance(tensor, DTensor):
        return part
    return DTensor.from_local(
        part,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def shard_group(tensor: Tensor) -> ProcessGroup | None:
    """The workers that share a tensor; None if it is not sharded."""
    return tensor.device_mesh.get_group(SHARD) if isinstance(tensor, DTensor) else None


def replicas(tensor: Tensor) -> ProcessGroup | None:
    """The workers that hold the same part of a sharded tensor; None if there is no other."""
    if not isinstance(tensor, DTensor) or REPLICATE not in (
        tensor.device_mesh.mesh_dim_names or ()
    ):
        return None
    return tensor.device_mesh.get_group(REPLICATE)


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's parameters are sharded."""
    return isinstance(module, FSDPModule)
