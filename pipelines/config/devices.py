"""The GPUs that a run may name, for estimates of memory and time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.core.resources import GIB
from unclip.config import Config, ConfigError
from unclip.extension import did_you_mean

HOUR_S = 3600


class Gpu(NamedTuple):
    """A kind of GPU."""

    memory_gib: float  # that torch reports
    bfloat16_tflops: float  # peak of dense products, from the data sheet
    float32_tflops: float  # the same in float32; torch uses no TF32 unless asked to


GPUS: Mapping[str, Gpu] = {
    "A10G-24GB": Gpu(22.0, 70.0, 31.2),
    "L4-24GB": Gpu(22.0, 121.0, 30.3),
    "L40S-48GB": Gpu(44.4, 362.0, 91.6),
    "A100-40GB": Gpu(39.4, 312.0, 19.5),
    "A100-80GB": Gpu(79.2, 312.0, 19.5),
    "H100-80GB": Gpu(79.1, 989.0, 66.9),
    "H200-141GB": Gpu(139.8, 989.0, 66.9),
    "B200-192GB": Gpu(178.4, 2250.0, 74.5),
}
USABLE = 0.94  # the rest is for the CUDA context, workspaces, NCCL and gaps between blocks


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Config):
    """The GPUs of a run: whether a training fits them, and what it takes."""

    gpu: str  # such as A100-80GB; docs/how-to/size.md lists them
    utilisation: float = 0.35  # share of the peak FLOP/s that a training reaches
    price_per_hour: float | None = None  # of one GPU, in any currency; null: no costs are shown

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            known = tuple(GPUS)
            raise ConfigError(
                f"gpu={self.gpu!r} is not known{did_you_mean(self.gpu, known) or ';'} choose one "
                f"of {', '.join(known)}, or one with less memory than yours"
            )
        if not 0 < self.utilisation <= 1:
            raise ConfigError(f"utilisation={self.utilisation} must be above 0, and at most 1")
        if self.price_per_hour is not None and self.price_per_hour < 0:
            raise ConfigError(f"price_per_hour={self.price_per_hour} must not be negative")

    @property
    def usable_bytes(self) -> int:
        """Memory for tensors."""
        return int(GPUS[self.gpu].memory_gib * USABLE * GIB)

    def flops_per_s(self, precision: str) -> float:
        """What a training is assumed to reach."""
        return self.peak_flops_per_s(precision) * self.utilisation

    def peak_flops_per_s(self, precision: str) -> float:
        """The most that the GPU can reach."""
        kind = GPUS[self.gpu]
        tflops = kind.bfloat16_tflops if precision == "bfloat16" else kind.float32_tflops
        return tflops * 1e12
