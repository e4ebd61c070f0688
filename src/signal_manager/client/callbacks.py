"""How events reach the application: by callbacks, one at a time in the order of the events, or by iteration."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection
from typing import Any, Generic, Protocol, TypeVar

from signal_manager.client.arguments import a_function, one_of
from signal_manager.client.events import EVENT_NAMES, EventQueue

__all__ = ["Callbacks", "EventStream"]

logger = logging.getLogger(__name__)


class Named(Protocol):
    """An event with a name."""

    @property
    def name(self) -> str: ...


Happening = TypeVar("Happening", bound=Named)


class Callbacks(Generic[Happening]):
    """Callbacks by event name, and the queue of the events that wait for them."""

    def __init__(self, names: Collection[str] = EVENT_NAMES) -> None:
        self.queue: EventQueue[Happening] = EventQueue()
        self._names = names
        self._by_name: dict[str, list[Callable[[Any], object]]] = {}

    def add(self, name: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Register a callback; return a function that removes it.

        Raises:
            InvalidRequestError: there is no event of that name, or the callback is no function.
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
        """Remove all callbacks."""
        self._by_name = {}

    def wants(self, event: Happening) -> bool:
        """Tell whether a callback is registered for this event."""
        return bool(self._by_name.get(event.name))

    async def run(self) -> None:
        """Call back for every event of the queue until its end. A callback's error is logged."""
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


class EventStream(Generic[Happening]):
    """One object's events for the application: an event with a callback goes there, the others are iterated.

    Args:
        names: the events that callbacks can be registered for.
    """

    def __init__(self, names: Collection[str] = EVENT_NAMES) -> None:
        self.callbacks: Callbacks[Happening] = Callbacks(names)
        self._iterated: EventQueue[Happening] = EventQueue()

    @property
    def dropped(self) -> int:
        """The number of events that were dropped because the application did not keep up."""
        return self._iterated.dropped + self.callbacks.queue.dropped

    def emit(self, event: Happening) -> None:
        """Queue an event for its callbacks, or for iteration if it has none."""
        (self.callbacks.queue if self.callbacks.wants(event) else self._iterated).put(event)

    def emit_to_callbacks(self, event: Happening) -> None:
        """Queue an event for its callbacks, if it has any."""
        if self.callbacks.wants(event):
            self.callbacks.queue.put(event)

    def end(self) -> None:
        """End iteration and the calling of callbacks after the queued events."""
        self._iterated.end()
        self.callbacks.queue.end()

    async def next(self) -> Happening:
        """Return the next event to iterate; StopAsyncIteration after the end."""
        event = await self._iterated.get()
        if event is None:
            raise StopAsyncIteration
        return event
