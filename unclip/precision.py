"""Full precision inside autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the precision of the inputs; the meta device has no autocast anyway."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
