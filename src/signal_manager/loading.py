"""Large libraries, imported while the service runs already.

Their import holds the interpreter's lock for a few milliseconds at a time, so that the event loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Loader"]

T = TypeVar("T")

# Two threads that import what imports each other in circles could see half of it.
_alone = threading.Lock()


class Loader:
    """Calls functions that import, one after another, in threads.

    Args:
        waits: whether the first call waits for `begin`: imports would delay a start that does not need them.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self._begun = asyncio.Event()
        if not waits:
            self._begun.set()

    def begin(self) -> None:
        """Let the calls begin."""
        self._begun.set()

    async def load(self, function: Callable[[], T]) -> T:
        """Return what the function returns."""
        await self._begun.wait()

        def run() -> T:
            with _alone:
                return function()

        return await asyncio.to_thread(run)
