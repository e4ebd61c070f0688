"""A store whose operations are counted and timed, whichever adapter it is.

`service/app.py` wraps the store that it has opened; the other modules see a `Storage` as before.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, cast

from signal_manager.errors import UnavailableError
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.base import Storage

__all__ = ["measured"]

_OPERATIONS = [
    name for name, member in vars(Storage).items() if inspect.iscoroutinefunction(member) and not name.startswith("_")
]


def measured(storage: Storage, metrics: Metrics) -> Storage:
    """Return `storage`, which is open, with every operation reported to `metrics`."""
    return cast("Storage", _Measured(storage, metrics))


class _Measured:
    """One attribute for each operation of `Storage`: the operation itself, timed."""

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        for name in _OPERATIONS:
            setattr(self, name, _timed(getattr(storage, name), name, metrics))


def _timed(operation: Callable[..., Awaitable[Any]], name: str, metrics: Metrics) -> Callable[..., Awaitable[Any]]:
    seconds = metrics.storage_seconds.labelled(name)
    answered = metrics.storage_calls.labelled(name, "answered")
    unavailable = metrics.storage_calls.labelled(name, "unavailable")

    async def run(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        outcome = answered  # a refusal, such as "no such room", is an answer
        try:
            return await operation(*args, **kwargs)
        except UnavailableError:
            outcome = unavailable
            raise
        finally:
            outcome.add()
            seconds.observe(perf_counter() - began)

    return run
