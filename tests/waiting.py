"""Waiting for something that has no event of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["until"]


async def until(condition: Callable[[], bool], *, limit: float = 30.0) -> None:
    """Wait until `condition` holds, and fail after `limit` seconds."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the service, which tells nobody
            await asyncio.sleep(0.005)
