"""The application's callbacks, called one at a time in the order of the events.

`client.py` asks `wants` which events belong here; `events.py` has the events and the queue in which they wait.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from signal_manager.client.events import EVENT_NAMES, Event, EventName, EventQueue

__all__ = ["Callbacks"]

logger = logging.getLogger(__name__)


class Callbacks:
    """Callbacks by event name, and the queue of events that they are still to be called with."""

    def __init__(self) -> None:
        self.queue = EventQueue()
        self._by_name: dict[EventName, list[Callable[[Any], object]]] = {}

    def add(self, name: EventName, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Register a callback; return a function that takes it away again.

        Raises:
            ValueError: there is no event of that name.
        """
        if name not in EVENT_NAMES:
            raise ValueError(f"no event is called {name!r}, expected one of {', '.join(sorted(EVENT_NAMES))}")
        callbacks = self._by_name.setdefault(name, [])
        callbacks.append(callback)

        def remove() -> None:
            if callback in callbacks:
                callbacks.remove(callback)

        return remove

    def clear(self) -> None:
        """Take all callbacks away."""
        self._by_name = {}

    def wants(self, event: Event) -> bool:
        """Tell whether a callback is registered for this event."""
        return bool(self._by_name.get(event.name))

    async def run(self) -> None:
        """Call back for every event of the queue until its end; what a callback raises is logged."""
        while (event := await self.queue.get()) is not None:
            for callback in tuple(self._by_name.get(event.name, ())):
                await self._call(callback, event)

    async def _call(self, callback: Callable[[Any], object], event: Event) -> None:
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
