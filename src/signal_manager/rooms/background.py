"""Background tasks: cleaning up and changes that must not be lost outlive the request that caused them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import structlog

from signal_manager.errors import UnavailableError

__all__ = ["PATIENCE", "BackgroundTasks"]

log = structlog.get_logger(__name__)

# How long (s) a request waits for a background task; after that the task goes on alone.
PATIENCE = 10.0
# The pauses (s) between attempts at a change that must not be lost; the last one repeats.
_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)


class BackgroundTasks:
    """Run work in the background, and keep the references that asyncio does not keep."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Run work once; an error is logged."""
        task = asyncio.get_running_loop().create_task(_at_the_edge(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def persist(self, change: Callable[[], Awaitable[None]]) -> None:
        """Repeat a change that must not be lost until storage accepts it."""
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                await change()
            except UnavailableError as error:
                log.warning("storage unavailable, trying again", reason=error.message)
                await asyncio.sleep(pause)
            else:
                return

    async def wait_for(self, task: asyncio.Task[None]) -> None:
        """Wait for a task; UnavailableError when that takes too long. The task goes on in any case."""
        done, _ = await asyncio.wait({task}, timeout=PATIENCE)
        if not done:
            raise UnavailableError("the room's record cannot be changed at present; it will be when it can")

    async def done(self) -> None:
        """Wait until all tasks are done; the caller sets the time limit."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Cancel the tasks that are not done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _at_the_edge(work: Callable[[], Awaitable[None]], name: str) -> None:
    try:
        await work()
    except Exception:
        log.exception("background work failed", work=name)
