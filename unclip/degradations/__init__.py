"""What the low-resolution input of an upsampler goes through in training.

The generator before it does not make perfect images; corrupted inputs keep the upsampler from
relying on detail that will not be there (section 2.1 of the paper).
"""

from unclip.degradations.blur import gaussian_blur, gaussian_kernel
from unclip.degradations.registry import DEGRADATIONS, check_degradation, degrade

__all__ = ["DEGRADATIONS", "check_degradation", "degrade", "gaussian_blur", "gaussian_kernel"]
