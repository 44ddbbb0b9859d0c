"""Settings of the evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from unclip.config import Config, ConfigError
from unclip.generation import SamplingConfig
from unclip.judges import JudgeConfig

MINIMUM = {
    "held_out_samples": 2,  # baselines compare each caption with another one
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

    held_out_samples: int  # at most this many captions of held-out pairs
    training_samples: int  # at most this many captions of training pairs
    probe_samples: int  # captions of each split also decoded from true and shuffled embeddings
    variations: int  # for each probe, images of its true embedding with different noise
    reference_rows: int  # training pairs at most, for the mean embedding and the Fréchet reference
    # Captions of a shard. It is in the key, although the noise of a row does not depend on it:
    # analytic_dpm is fitted on the first shard, and a resumed run must not mix shards of two sizes.
    batch_size: int
    seed: int
    sampling: SamplingConfig
    judges: Mapping[str, JudgeConfig]  # by name; the first one decides the report's verdict

    def __post_init__(self) -> None:
        """Raise `ConfigError` for counts that leave nothing to measure."""
        for name, minimum in MINIMUM.items():
            if getattr(self, name) < minimum:
                raise ConfigError(
                    f"evaluate.{name}={getattr(self, name)} is too few; give {minimum} or more"
                )
        if not self.judges:
            raise ConfigError(
                "evaluate.judges is empty, so nothing independent would judge the images; give "
                "efficientnet: {kind: efficientnet_lite0}"
            )
