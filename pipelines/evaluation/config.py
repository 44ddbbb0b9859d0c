"""How a cascade is evaluated."""

from dataclasses import dataclass
from typing import ClassVar

from unclip.config import Config, ConfigError
from unclip.generation import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """How many captions are drawn, and what is made of each."""

    tag: ClassVar[str] = "evaluate"

    held_out_samples: int  # captions at most, of pairs that no training saw
    training_samples: int  # captions at most, of pairs that training saw
    probe_samples: int  # of either, those that are also decoded from true and shuffled embeddings
    variations: int  # pictures of one true embedding and other noise, for each probe
    reference_rows: int  # training pairs at most, for the mean embedding and the Fréchet floor
    batch_size: int  # captions of a shard
    seed: int
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        """Refuse counts that leave nothing to measure."""
        least = {
            "held_out_samples": 2,  # one caption has no other to be compared with
            "training_samples": 2,
            "probe_samples": 1,
            "variations": 0,
            "reference_rows": 2,
            "batch_size": 1,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(
                    f"evaluate.{name}={getattr(self, name)} is too few; give {minimum} or more"
                )
