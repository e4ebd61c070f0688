"""Work beside the event that caused it: answers, cleaning up, and changes that must outlive their request."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import structlog

from signal_manager.errors import SignalManagerError

__all__ = ["BackgroundTasks"]

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """Run work as tasks, keep the references that asyncio does not keep, and log what fails.

    Attributes:
        tasks: the tasks that run now.
    """

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """Run `work` once, as a task."""
        return self._start(_logged(work, name), name)

    def run(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `work` now, without the cost of a task: it is not expected to wait for anything.

        If it waits nevertheless, a task runs the rest. Up to there it must not ask for its task, as `asyncio.timeout`
        does.
        """
        coroutine = _logged(work, name)
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return
        self._start(_rest(coroutine, awaited), name)

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def done(self) -> None:
        """Wait until all tasks are done, also those that they start; the caller sets the time limit."""
        while self.tasks:
            await asyncio.wait(self.tasks)

    async def stop(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _logged(work: Callable[[], Awaitable[None]], name: str) -> None:
    try:
        await work()
    except SignalManagerError as error:
        log.warning("background work failed", work=name, reason=error.message)
    except Exception:
        log.exception("background work failed", work=name)


async def _rest(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _continued(coroutine, awaited)


@types.coroutine
def _continued(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that waits for `awaited`."""
    while True:
        try:
            try:
                result = yield awaited
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(result)
        except StopIteration:
            return
