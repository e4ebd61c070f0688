"""The application's callbacks, called one at a time in the order of the events.

`client.py` and `room.py` ask `wants` which of their events belong here; `events.py` has the queue in which they wait.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection
from typing import Any, Generic, Protocol, TypeVar

from signal_manager.client.arguments import a_function, one_of
from signal_manager.client.events import EVENT_NAMES, EventQueue

__all__ = ["Callbacks"]

logger = logging.getLogger(__name__)


class Named(Protocol):
    """An event that knows what it is called."""

    @property
    def name(self) -> str: ...


Happening = TypeVar("Happening", bound=Named)


class Callbacks(Generic[Happening]):
    """Callbacks by event name, and the queue of events that they are still to be called with."""

    def __init__(self, names: Collection[str] = EVENT_NAMES) -> None:
        self.queue: EventQueue[Happening] = EventQueue()
        self._names = names
        self._by_name: dict[str, list[Callable[[Any], object]]] = {}

    def add(self, name: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Register a callback; return a function that takes it away again.

        Raises:
            InvalidRequestError: there is no event of that name, or what is to be called cannot be.
        """
        one_of(self._names)(name, "the event's name")
        a_function(callback, "callback")
        callbacks = self._by_name.setdefault(name, [])
        callbacks.append(callback)

        def remove() -> None:
            if callback in callbacks:
                callbacks.remove(callback)

        return remove

    def clear(self) -> None:
        """Take all callbacks away."""
        self._by_name = {}

    def wants(self, event: Happening) -> bool:
        """Tell whether a callback is registered for this event."""
        return bool(self._by_name.get(event.name))

    async def run(self) -> None:
        """Call back for every event of the queue until its end; what a callback raises is logged."""
        while (event := await self.queue.get()) is not None:
            for callback in tuple(self._by_name.get(event.name, ())):
                await self._call(callback, event)

    async def _call(self, callback: Callable[[Any], object], event: Happening) -> None:
        try:
            result = callback(event)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError:
            # Either this task is being stopped, or the callback awaited something that was cancelled.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            logger.warning("a callback for %r was cancelled", event.name)
        except Exception:  # the edge to the application, whose faults must not end the client
            logger.exception("a callback for %r failed", event.name)
