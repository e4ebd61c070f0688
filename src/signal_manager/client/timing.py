"""When the client tries again, and where its time comes from.

A test passes a clock that it moves itself, and a `random` that it knows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from signal_manager.client.arguments import a_function, a_time_limit, maybe, whole
from signal_manager.errors import InvalidRequestError

__all__ = ["Alarm", "Backoff", "Clock", "ReconnectDelays", "RetryPolicy"]

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
    """Count failures in a row, and wait between attempts."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._has_ended = asyncio.Event()

    @property
    def failures(self) -> int:
        """The number of failures in a row."""
        return self._failures

    def fail(self) -> bool:
        """Count one more failure; return whether the policy allows no further attempt."""
        self._failures += 1
        return self._policy.attempts is not None and self._failures >= self._policy.attempts

    def recover(self) -> None:
        """Forget the failures."""
        self._failures = 0

    def end(self) -> None:
        """End the present pause and all later ones."""
        self._has_ended.set()

    async def pause(self, failures: int | None = None) -> None:
        """Wait the longer the more failures came before, or as after `failures`; `end` ends the wait early."""
        delay = self._policy.delay(self._failures if failures is None else failures)
        if delay:
            try:
                async with asyncio.timeout(delay):
                    await self._has_ended.wait()
            except TimeoutError:
                pass


class ReconnectDelays:
    """The delays before attempts to connect.

    Attributes:
        named: the delay that the service named for the next connection, in seconds.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.named: float | None = None
        self._policy = policy
        self._failures = 0  # in a row

    def first(self) -> float:
        """Return the delay after a connection was lost."""
        return self.next() if self.named is None else self.named

    def next(self) -> float:
        """Return the delay after one more failure."""
        delay = self._policy.delay(self._failures)
        self._failures += 1
        return delay

    def recover(self) -> None:
        """Forget the failures."""
        self._failures = 0


class Alarm:
    """A wait that ends early when something happens.

    Attributes:
        is_urgent: whether a new connection is to be opened at once.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_urgent = False
        self._clock = clock
        self._rings = asyncio.Event()
        self._ends_at = 0.0  # when the present wait ends by itself

    async def wait(self, seconds: float) -> None:
        """Wait for so long, or until the alarm rings."""
        self._rings.clear()
        self._ends_at = self._clock.now() + seconds
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        ring = asyncio.ensure_future(self._rings.wait())
        try:
            await asyncio.wait({sleep, ring}, return_when=asyncio.FIRST_COMPLETED)
            if sleep.done():
                sleep.result()
        finally:
            sleep.cancel()
            ring.cancel()

    async def pause(self, seconds: float) -> None:
        """Wait before an attempt to connect, unless one is urgent, and take that urgency."""
        until = self._clock.now() + seconds
        while (left := until - self._clock.now()) > 0 and not self.is_urgent:
            await self.wait(left)
        self.is_urgent = False

    def ring_before(self, seconds: float) -> None:
        """End the present wait if it would last longer than this."""
        if self._ends_at > self._clock.now() + seconds:
            self._rings.set()

    def ring_urgently(self) -> None:
        """End the present wait, since a new connection is wanted at once."""
        self.is_urgent = True
        self._rings.set()

    def take_urgency(self) -> bool:
        """Return whether a new connection is urgent, and forget it."""
        is_urgent, self.is_urgent = self.is_urgent, False
        return is_urgent
