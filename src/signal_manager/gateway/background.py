"""Work that the gateway does beside the event that caused it: sign-in, answers, cleaning up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from signal_manager.errors import SignalManagerError

__all__ = ["BackgroundWork"]

log = structlog.get_logger(__name__)


class BackgroundWork:
    """Run coroutines as tasks, keep the tasks' references, and log what fails.

    Attributes:
        tasks: the tasks that run now.
    """

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run `work` as a task."""
        task = asyncio.get_running_loop().create_task(_logged(work, name), name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def stop(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except SignalManagerError as error:
        log.warning("background work failed", work=name, reason=error.message)
    except Exception:
        log.exception("background work failed", work=name)
