"""How a training does, part by part: gradients, relative updates, distance of the averaged weights.

A part is the parameters whose names begin with the same two names, such as "unet.down".
"""

# P parts

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip.training.sharding import local, shard_group

NAMES = 2  # of modules, which make the name of a part


@torch.no_grad()
def health(
    model: nn.Module, optimizer: torch.optim.AdamW, average: Mapping[str, Tensor]
) -> dict[str, float]:
    """Values of the last step, by part of the model; {} before the first step.

    - `grad_norm/<part>`: the norm of the clipped gradients.
    - `update_ratio/<part>`: the norm of AdamW's last update without weight decay (Loshchilov and
      Hutter 2019, algorithm 2), over that of the weights.
    - `ema_distance/<part>`: the norm of weights minus averaged weights, over that of the weights.

    average: the averaged weights by parameter, of sharded ones this worker's part. If weights are
    sharded, every worker that shares them must call this.
    """
    sums: dict[str, Tensor] = {}
    group = None
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.requires_grad:
            group = shard_group(parameter)
            update = _update(parameter, optimizer)
            weight = local(parameter)
            of_parameter = (local(parameter.grad), update, weight - average[name], weight)
            norms = torch.stack([torch.linalg.vector_norm(t) for t in of_parameter])
            squares = norms.double().square()
            part = _part(name)
            sums[part] = sums[part] + squares if part in sums else squares
    if not sums:
        return {}
    totals = torch.stack(list(sums.values()))  # (P, 4)
    if group is not None:
        dist.all_reduce(totals, group=group)
    grads, updates, distances, weights = totals.sqrt().unbind(dim=1)
    ratios = {
        "grad_norm": grads,
        "update_ratio": updates / weights.clamp(min=1e-12),
        "ema_distance": distances / weights.clamp(min=1e-12),
    }
    return {
        f"{kind}/{part}": value
        for kind, values in ratios.items()
        for part, value in zip(sums, values.tolist(), strict=True)
    }


def _update(parameter: nn.Parameter, optimizer: torch.optim.AdamW) -> Tensor:
    """AdamW's last update of this worker's part of a parameter, without weight decay."""
    settings = optimizer.param_groups[0]  # all groups differ in weight decay only
    (beta1, beta2), state = settings["betas"], optimizer.state[parameter]
    step = float(state["step"])
    # In place where possible: this passes over the memory of all weights.
    deviation = local(state["exp_avg_sq"]).sqrt().div_(math.sqrt(1 - beta2**step))
    update = local(state["exp_avg"]).div(deviation.add_(settings["eps"]))
    return update.mul_(settings["lr"] / (1 - beta1**step))


def _part(name: str) -> str:
    modules = name.split(".")[:-1]
    return ".".join(modules[:NAMES]) or "model"
