"""When the client tries again, and where its time comes from.

`client.py` and `room.py` ask; a test hands in a clock that it moves itself and a `random` that it knows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from signal_manager.client.arguments import a_function, a_time_limit, maybe, whole
from signal_manager.errors import InvalidRequestError

__all__ = ["Backoff", "Clock", "RetryPolicy"]

# 2**32 times any base delay is past every `max_delay`; larger powers only risk an overflow.
_LARGEST_EXPONENT = 32


class Clock:
    """The time of the machine and the event loop; a test passes a subclass that it moves by hand."""

    def now(self) -> float:
        """Return a time in seconds that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a client tries to connect.

    Delays grow exponentially with full jitter: the n-th is anything between 0 and `base_delay * 2**n`, so that the
    clients of a service that restarts do not all return at the same moment. A connection that lasted longer than
    `max_delay` starts the growth again.

    Attributes:
        first_attempts: how often the first connect is tried before it raises; None is until it succeeds.
        attempts: how often a lost connection is tried again before the client ends; None is until `close()`,
            0 is never.
        base_delay: seconds, the upper end of the first delay.
        max_delay: seconds, the upper end of every delay.
        random: returns a number from 0 up to 1.
    """

    first_attempts: int | None = 1
    attempts: int | None = None
    base_delay: float = 0.5
    max_delay: float = 30.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        maybe(whole(1), self.first_attempts, "first_attempts")
        maybe(whole(0), self.attempts, "attempts")
        a_function(self.random, "random")
        base, longest = a_time_limit(self.base_delay, "base_delay"), a_time_limit(self.max_delay, "max_delay")
        if not 0 < base <= longest:
            raise InvalidRequestError(f"expected 0 < base_delay <= max_delay, got {base} and {longest}")

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after `failures` failures in a row."""
        ceiling = min(self.max_delay, self.base_delay * 2.0 ** min(failures, _LARGEST_EXPONENT))
        return self.random() * ceiling


class Backoff:
    """How patient something is that is tried again: what went wrong in a row, and the waits between."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._has_ended = asyncio.Event()

    @property
    def failures(self) -> int:
        """How often it went wrong in a row."""
        return self._failures

    def fail(self) -> bool:
        """Count one more failure; tell whether it is one too many."""
        self._failures += 1
        return self._policy.attempts is not None and self._failures >= self._policy.attempts

    def recover(self) -> None:
        """Forget the failures."""
        self._failures = 0

    def end(self) -> None:
        """Let nobody wait any more."""
        self._has_ended.set()

    async def pause(self, failures: int | None = None) -> None:
        """Wait the longer the more went wrong before, in all or in `failures` times; `end` ends it early."""
        delay = self._policy.delay(self._failures if failures is None else failures)
        if delay:
            try:
                async with asyncio.timeout(delay):
                    await self._has_ended.wait()
            except TimeoutError:
                pass
