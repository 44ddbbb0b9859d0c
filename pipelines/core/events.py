"""Events: the only messages that running stages send to the driver.

Workers use neither the tracking server nor the terminal. They emit events, and the driver shows and
logs them (`event_bus`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` units, with a short note such as the loss."""

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Metrics:
    """Numbers of a stage at a step; a later event of the same step replaces an earlier one."""

    stage: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Output:
    """A file in the stage's folder for people to look at: an image, a plot, the report."""

    stage: str
    file: str


@dataclass(frozen=True)
class Note:
    """A message for the user, such as that a worker died and was replaced."""

    stage: str
    text: str


@dataclass(frozen=True)
class Model:
    """A model for the registry: a small file in the stage's folder, and how it is loaded."""

    stage: str
    file: str
    loader: str  # a module whose `_load_pyfunc(path)` gives an object with `predict(table, params)`
    inputs: Mapping[str, str]  # columns of the table and their MLflow types
    outputs: Mapping[str, str]  # the same, of the result
    params: Mapping[str, int]  # parameters of a prediction and their defaults
    example: Mapping[str, list[str]]  # a table
    metric: str  # by which the best version is chosen
    value: float  # of the metric; lower is better


Event = Progress | Metrics | Output | Note | Model


class Emit(Protocol):
    """Sends an event; never raises and never waits."""

    def __call__(self, event: Event) -> None: ...
