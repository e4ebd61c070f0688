"""Changes of rooms that must not be lost: they are repeated, and a request waits for them only so long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import structlog

from signal_manager.errors import UnavailableError

__all__ = ["PATIENCE", "persist", "wait_for"]

log = structlog.get_logger(__name__)

# How long (s) a request waits for a background task; after that the task goes on alone.
PATIENCE = 10.0
# The pauses (s) between attempts at a change that must not be lost; the last one repeats.
_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)


async def persist(change: Callable[[], Awaitable[None]]) -> None:
    """Repeat a change that must not be lost until storage accepts it."""
    for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
        try:
            await change()
        except UnavailableError as error:
            log.warning("storage unavailable, trying again", reason=error.message)
            await asyncio.sleep(pause)
        else:
            return


async def wait_for(task: asyncio.Task[None]) -> None:
    """Wait for a task, which goes on in any case.

    Raises:
        UnavailableError: the task takes too long.
    """
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    if not done:
        raise UnavailableError("storage cannot change the room's record now; the change is retried until it can")
