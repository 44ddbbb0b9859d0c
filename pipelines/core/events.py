"""What running stages tell the driver, and the only way they do.

Workers know no tracking server and no terminal: they emit events to one small actor, and the driver
takes them from there, shows them and logs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` `unit`s, and a word on how it goes."""

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
    """A file in the stage's folder that people want to see: a picture, a plot, the report."""

    stage: str
    file: str


@dataclass(frozen=True)
class Note:
    """Something a person should read, such as a worker that died and was replaced."""

    stage: str
    text: str


Event = Progress | Metrics | Output | Note


class Emit(Protocol):
    """Sends an event; never raises and never waits."""

    def __call__(self, event: Event) -> None: ...


class _Mailbox:
    def __init__(self) -> None:
        self._events: list[Any] = []

    def put(self, event: Any) -> None:
        self._events.append(event)

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class EventBus:
    """A handle that travels to any worker."""

    mailbox: Any = field(repr=False)

    @classmethod
    def start(cls) -> "EventBus":
        """Start the actor; it holds no CPU."""
        import ray  # here: events are imported by commands that must start without Ray

        actor = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=-1)
        return cls(actor.remote())

    def emit(self, event: Event) -> None:
        """Send without waiting; what a dying mailbox loses is a progress line, no result."""
        self.mailbox.put.remote(event)

    def take(self) -> list[Event]:
        """All that came since the last call, in the order of arrival.

        Nothing while the mailbox is started again elsewhere, because its node was lost.
        """
        import ray
        from ray.exceptions import RayActorError

        try:
            events: list[Event] = ray.get(self.mailbox.take.remote())
        except RayActorError:
            return []
        return events
