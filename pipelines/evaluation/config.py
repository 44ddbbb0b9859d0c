"""Settings of the evaluation."""

from dataclasses import dataclass
from typing import ClassVar

from unclip.config import Config, ConfigError
from unclip.generation import SamplingConfig

MINIMUM = {
    "held_out_samples": 2,  # baselines compare a caption with another one
    "training_samples": 2,
    "probe_samples": 1,
    "variations": 0,
    "reference_rows": 2,
    "batch_size": 1,
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """How many captions are evaluated, and what is generated for each."""

    tag: ClassVar[str] = "evaluate"

    held_out_samples: int  # captions at most, of pairs that no training saw
    training_samples: int  # captions at most, of pairs that training saw
    probe_samples: int  # of each split: also decoded from true and from shuffled embeddings
    variations: int  # images of one true embedding with fresh noise, for each probe
    reference_rows: int  # training pairs at most, for the mean embedding and the Fréchet reference
    # Captions of a shard. In the key although noise belongs to the row: the shards' contents follow
    # from it, so a resumed run would mix two layouts, and analytic_dpm is fitted on the first one.
    batch_size: int
    seed: int
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        """Refuse counts that leave nothing to measure."""
        for name, minimum in MINIMUM.items():
            if getattr(self, name) < minimum:
                raise ConfigError(
                    f"evaluate.{name}={getattr(self, name)} is too few; give {minimum} or more"
                )
