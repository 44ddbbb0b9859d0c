"""Degradations of an upsampler's low-resolution input during training.

At inference the input is a generated image, which is imperfect. Training on degraded inputs keeps
the upsampler from relying on detail that generated images do not have (section 2.1 of the paper).
"""

from unclip.degradations.blur import gaussian_blur, gaussian_kernel
from unclip.degradations.registry import DEGRADATIONS, check_degradation, degrade

__all__ = ["DEGRADATIONS", "check_degradation", "degrade", "gaussian_blur", "gaussian_kernel"]
