"""The event bus: one small actor that collects events of all workers for the driver."""

import logging
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from pipelines.core.events import Event

log = logging.getLogger(__name__)


class _Mailbox:
    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class EventBus:
    """A picklable handle, through which any worker can send events."""

    mailbox: Any = field(repr=False)

    @classmethod
    def start(cls) -> "EventBus":
        """Start the actor; it holds no CPU."""
        actor = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=-1)
        return cls(actor.remote())

    def emit(self, event: Event) -> None:
        """Send without waiting. If the mailbox dies, progress lines are lost, never results."""
        self.mailbox.put.remote(event)

    def take(self) -> list[Event]:
        """All events since the last call, in the order of arrival.

        Empty while the mailbox restarts on another node because its own was lost.
        """
        try:
            events: list[Event] = ray.get(self.mailbox.take.remote())
        except RayActorError as error:
            log.debug("the mailbox is restarting: %s", error)
            return []
        return events
