"""Where stages run, and the resources that they request. None of it is part of a key."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unclip.config import Config, ConfigError

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Resources(Config):
    """The resources of each worker of a stage, and how many workers it may have at once."""

    workers: int = 1  # at most; trainings start with all of them, unless min_workers is set
    min_workers: int | None = None  # a training starts with fewer, and takes in more as they come
    cpus: float = 1.0  # of each worker
    gpus: float = 0.0  # of each worker
    memory_gib: float = 0.0  # 0 reserves none
    loader_gib: float = 1.0  # of a training: for rows and batches in the memory of each worker
    custom: Mapping[str, float] = field(default_factory=dict)  # resources that nodes declare

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers={self.workers} leaves no worker; give 1 or more")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ConfigError(
                f"min_workers={self.min_workers} must be between 1 and workers={self.workers}"
            )
        if not self.loader_gib > 0:
            raise ConfigError(f"loader_gib={self.loader_gib} must be more than 0")
        for name, amount in self.per_worker().items():
            if amount < 0:
                raise ConfigError(f"{name}={amount} is negative; give 0 or more")

    def per_worker(self) -> dict[str, float]:
        """In Ray's names: CPU, GPU, memory (bytes), and the custom ones."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_gib * GIB}
        return {n: a for n, a in {**amounts, **self.custom}.items() if a}

    @property
    def is_elastic(self) -> bool:
        """Whether a training may have fewer workers than `workers`, and their number may change."""
        return self.min_workers is not None

    @property
    def fewest(self) -> int:
        """The fewest workers with which a training starts."""
        return self.workers if self.min_workers is None else self.min_workers

    def total(self) -> dict[str, float]:
        """The resources of all workers together."""
        return {n: a * self.workers for n, a in self.per_worker().items()}

    def actor_options(self) -> dict[str, object]:
        """The same as keyword arguments of Ray's `.options()`."""
        options: dict[str, object] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_gib:
            options["memory"] = int(self.memory_gib * GIB)
        if self.custom:
            options["resources"] = dict(self.custom)
        return options


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Config):
    """Where the work runs. Without an address, each run starts and ends a Ray on this machine."""

    address: str | None = None  # "auto" or "host:port"; by default RAY_ADDRESS, if that is set
    object_store_gib: float = 1.0  # of a Ray started here
    cpus: int | None = None  # of a Ray started here; None takes all CPUs


def fits(request: Mapping[str, float], free: Mapping[str, float]) -> bool:
    """Whether `free` has at least the requested amount of each resource."""
    return all(amount <= free.get(name, 0) + 1e-6 for name, amount in request.items())
