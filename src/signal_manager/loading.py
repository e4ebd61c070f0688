"""Large libraries, imported while the service runs already.

Their import holds the interpreter's lock for a few milliseconds at a time, so that the event loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["load"]

T = TypeVar("T")

# Two threads that import what imports each other in circles could see half of it.
_alone = threading.Lock()


async def load(function: Callable[[], T]) -> T:
    """Return what `function`, which imports, returns; it runs in a thread, and no other such function meanwhile."""

    def run() -> T:
        with _alone:
            return function()

    return await asyncio.to_thread(run)
