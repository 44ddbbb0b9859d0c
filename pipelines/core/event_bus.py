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
    """A handle that travels to any worker."""

    mailbox: Any = field(repr=False)

    @classmethod
    def start(cls) -> "EventBus":
        """Start the actor; it holds no CPU."""
        actor = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=-1)
        return cls(actor.remote())

    def emit(self, event: Event) -> None:
        """Send without waiting; a mailbox that dies loses progress lines, never results."""
        self.mailbox.put.remote(event)

    def take(self) -> list[Event]:
        """All events since the last call, in the order of arrival.

        Empty while the mailbox is started again elsewhere because its node was lost.
        """
        try:
            events: list[Event] = ray.get(self.mailbox.take.remote())
        except RayActorError as error:
            log.debug("the mailbox is being started again: %s", error)
            return []
        return events
