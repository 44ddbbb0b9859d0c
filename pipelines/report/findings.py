"""Findings about a run, and the evidence that they are read from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.evaluation.samples import HELD_OUT
from pipelines.report.page import number

Records = Mapping[str, dict[str, Any]]  # metrics.json
Level = Literal["good", "fair", "bad"]


@dataclass(frozen=True)
class Finding:
    """One statement about a run."""

    level: Level
    subject: str
    text: str
    advice: str = ""
    brief: str = ""  # the same in one line, of the finding about all images


@dataclass(frozen=True)
class Evidence:
    """What the findings are read from."""

    records: Records
    judge: str  # the first one
    prior: str  # the first one
    components: Mapping[str, Any]  # of the image embeddings, from the data report
    steps: Mapping[str, int] = field(default_factory=dict)  # of each training
    near_duplicates: float = 0.0  # share of the pairs that the selection dropped as such

    def figure(self, name: str, part: str = "value", split: str = HELD_OUT) -> dict[str, float]:
        """A figure of a metric: its value, low and high. Raises `KeyError` if not measured."""
        found: dict[str, float] | None = self.records[f"{split}/{name}"][part]
        if found is None:
            raise KeyError(name)
        return found

    def is_better(self, name: str) -> bool:
        """Whether a metric is better than its baseline. Raises `KeyError` if not measured."""
        return bool(self.records[f"{HELD_OUT}/{name}"]["comparison"] == "better")


def interval(figure: Mapping[str, float], text: Callable[[float], str] = number) -> str:
    """A value with its confidence interval."""
    return f"{text(figure['value'])} [{text(figure['low'])} to {text(figure['high'])}]"
