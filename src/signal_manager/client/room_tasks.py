"""Background tasks of one room: their references, and the one loop that works off what is left to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

__all__ = ["CALLBACKS", "Job", "RoomTasks", "Worker"]

logger = logging.getLogger(__name__)

# The task that calls the application back. It ends by itself with the queue of events.
CALLBACKS = "callbacks"

Job: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class RoomTasks:
    """Start tasks, and wait for their end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Run work in the background under a name."""
        task = asyncio.create_task(work, name=f"room {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait(self) -> None:
        """Wait for all tasks but the caller's own and the one of callbacks, since a callback may leave the room."""
        current = asyncio.current_task()
        waiting = [task for task in self._tasks if task is not current and task.get_name() != f"room {CALLBACKS}"]
        if waiting:
            await asyncio.wait(waiting)


class Worker:
    """Do one job after another until none is left. Only one such loop runs at a time.

    Args:
        next_job: returns the next job, or None.
        on_idle: called when no job is left.
        on_fault: called with an unexpected error, which ends the loop.
    """

    def __init__(
        self,
        tasks: RoomTasks,
        *,
        next_job: Callable[[], Job | None],
        on_idle: Callable[[], None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._tasks = tasks
        self._next_job = next_job
        self._on_idle = on_idle
        self._on_fault = on_fault
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    @property
    def is_busy(self) -> bool:
        """Whether the loop runs."""
        return self._task is not None and not self._task.done()

    def wake(self) -> None:
        """Run the loop, unless it runs already."""
        if not self._is_stopped and not self.is_busy:
            self._task = self._tasks.start(self._work(), "work")

    def stop(self) -> None:
        """Cancel the loop for good. A job that stops its own loop runs to its end."""
        self._is_stopped = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                await job()
        except Exception as error:  # the background task's edge
            logger.exception("the room ends by an internal error")
            self._on_fault(error)
        self._task = None
        self._on_idle()
