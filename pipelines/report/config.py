"""Settings of the report."""

from dataclasses import dataclass
from typing import ClassVar

from unclip.config import Config, ConfigError

HEADLINE = (
    "efficientnet/kid",
    "gradients/kid",
    "efficientnet/precision",
    "efficientnet/recall",
    "colour/closer_to_own",
    "prior/cosine",
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """What the report shows. The section `evaluate` sets what is measured."""

    tag: ClassVar[str] = "report"

    title: str  # at the top of the page
    samples: int = 24  # captions to show of each split
    headline: tuple[str, ...] = HEADLINE  # metrics of the summary, from the held-out split

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a report without samples."""
        if self.samples < 1:
            raise ConfigError(f"report.samples={self.samples} shows nothing; give 1 or more")
