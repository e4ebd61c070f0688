"""Work that must be done whether or not somebody waits for it: cleaning up, and changes that must not be lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import structlog

from signal_manager.errors import UnavailableError

__all__ = ["PATIENCE", "BackgroundTasks"]

log = structlog.get_logger(__name__)

# How long (s) a request waits for a duty, which goes on without it.
PATIENCE = 10.0
# Between attempts at a change that must not be lost (s); the last one repeats.
_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)


class BackgroundTasks:
    """Run work in the background and keep its references; `finish` is the end of all of it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Do this once."""
        task = asyncio.get_running_loop().create_task(_at_the_edge(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def persist(self, change: Callable[[], Awaitable[None]]) -> None:
        """Make a change that must not be lost, again and again until storage takes it."""
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                await change()
            except UnavailableError as error:
                log.warning("storage unavailable, trying again", reason=error.message)
                await asyncio.sleep(pause)
            else:
                return

    async def wait_for(self, task: asyncio.Task[None]) -> None:
        """Wait for a task that goes on if the wait ends; UnavailableError when that takes too long."""
        done, _ = await asyncio.wait({task}, timeout=PATIENCE)
        if not done:
            raise UnavailableError("the room's record cannot be changed at present; it will be when it can")

    async def done(self) -> None:
        """Wait until nothing is left to do; the caller sets the time limit."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """End what is not done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _at_the_edge(work: Callable[[], Awaitable[None]], name: str) -> None:
    try:
        await work()
    except Exception:
        log.exception("background work failed", work=name)
