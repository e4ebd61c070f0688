"""Where a client's token comes from, and that the token of a live connection is renewed in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from signal_manager.client import tokens
from signal_manager.client.tokens import Renewal, TokenSource, is_expiry
from signal_manager.errors import (
    TOKEN_EXPIRED,
    AuthenticationError,
    ForbiddenError,
    RateLimitedError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.protocol.messages import Heartbeat, HeartbeatAck, TokenRenew, TokenRenewAck
from tests.client.fake_service import ManualClock, within
from tests.client.fakes import FakeRequester

EXPIRED = AuthenticationError("the token has expired", details={"reason": TOKEN_EXPIRED})
# The service's time (ms since the epoch), which differs from this machine's.
NOW = 1_000_000_000_000


# Fetching


async def _fetch_later() -> str:
    return "later"


@pytest.mark.parametrize(
    ("token", "fetched", "renews"),
    [("fixed", "fixed", False), (lambda: "at once", "at once", True), (_fetch_later, "later", True)],
)
async def test_a_token_is_a_string_or_comes_from_a_function(token: Any, fetched: str, renews: bool) -> None:
    source = TokenSource(token)

    assert await source.fetch(timeout=1.0) == fetched
    assert source.can_renew is renews


async def _fail() -> str:
    raise ZeroDivisionError("no tokens today")


async def _hang() -> str:
    await asyncio.Event().wait()
    return ""


@pytest.mark.parametrize(
    ("token", "limit", "complaint"),
    [
        (_fail, 30.0, "failed: ZeroDivisionError"),
        (_hang, 0.01, "took longer than 0.01 s"),
        (lambda: None, 30.0, "NoneType"),
        (lambda: b"bytes", 30.0, "bytes"),
    ],
)
async def test_a_function_that_gives_no_token_is_a_failure_that_may_pass(
    token: Any, limit: float, complaint: str
) -> None:
    with pytest.raises(UnavailableError, match=complaint):
        await TokenSource(token).fetch(timeout=limit)


async def test_cancelling_a_fetch_is_no_failure_of_the_function() -> None:
    fetching = asyncio.create_task(TokenSource(_hang).fetch(timeout=30.0))
    await asyncio.sleep(0)

    fetching.cancel()

    with pytest.raises(asyncio.CancelledError):
        await fetching


@pytest.mark.parametrize(
    ("error", "expiry"),
    [
        (EXPIRED, True),
        (AuthenticationError("wrong"), False),
        (AuthenticationError("wrong", details={"reason": "revoked"}), False),
        (ForbiddenError("no", details={"reason": TOKEN_EXPIRED}), False),
    ],
)
def test_a_new_token_is_the_cure_for_an_expired_one_only(error: SignalManagerError, expiry: bool) -> None:
    assert is_expiry(error) is expiry


def test_a_client_with_a_fixed_token_is_told_about_functions() -> None:
    explained = TokenSource("fixed").explain(EXPIRED)

    assert "given a function in place of a token" in explained.message
    assert is_expiry(explained)
    assert TokenSource(lambda: "t").explain(EXPIRED) is EXPIRED
    wrong = AuthenticationError("wrong")
    assert TokenSource("fixed").explain(wrong) is wrong


# Renewing


class Connection(FakeRequester):
    """A connection whose token lives for 100 s after each renewal."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        self.answers[Heartbeat] = HeartbeatAck(timestamp=0, server_time=NOW)
        self.answers[TokenRenew] = TokenRenewAck(status=200, expires_at=NOW + 100_000)


class Scene:
    """A token's renewal under a clock that the test moves."""

    def __init__(self, token: Any = lambda: "new") -> None:
        self.connection = Connection()
        self.clock = ManualClock()
        self.failures: list[SignalManagerError] = []
        self.renewal = Renewal(TokenSource(token), self.connection, clock=self.clock, on_failure=self.failures.append)

    @asynccontextmanager
    async def running(self, expires_at: int | None) -> AsyncIterator[asyncio.Task[None]]:
        """Renew meanwhile a token that ends then."""
        task = asyncio.create_task(self.renewal.run(expires_at))
        yield task
        task.cancel()
        await asyncio.wait([task])

    async def next_pause(self) -> float:
        """Return how long the renewal waits next."""
        return await within(self.clock.asked.get())

    async def pass_pause(self) -> float:
        """Let the next pause pass, and return its length."""
        seconds = await self.next_pause()
        self.clock.advance(seconds)
        return seconds

    def renewed(self) -> list[str]:
        """Return the tokens that were sent."""
        return [message.auth_token for message in self.connection.asked_for(TokenRenew)]


@pytest.mark.parametrize(("token", "expires_at"), [("fixed", NOW), (lambda: "new", None)])
async def test_a_token_that_cannot_be_renewed_or_never_ends_is_left_alone(token: Any, expires_at: int | None) -> None:
    scene = Scene(token)

    await within(scene.renewal.run(expires_at))

    assert scene.connection.asked == []


async def test_a_token_is_renewed_in_good_time_by_the_services_clock_again_and_again() -> None:
    fetched = iter(["first", "second", "third"])
    scene = Scene(lambda: next(fetched))

    async with scene.running(NOW + 100_000):
        pauses = [await scene.pass_pause() for _ in range(2)]
        await scene.next_pause()

    assert all(70.0 <= seconds <= 80.0 for seconds in pauses)
    assert scene.renewed() == ["first", "second"]
    assert scene.failures == []


async def test_a_service_that_does_not_tell_the_time_is_taken_to_have_this_machines() -> None:
    scene = Scene()
    left = (time.time() + 100) * 1000
    for answer in (HeartbeatAck(timestamp=0), RateLimitedError("not now")):
        scene.connection.answers[Heartbeat] = answer
        async with scene.running(int(left)):
            assert 60.0 <= await scene.next_pause() <= 80.0


async def test_a_token_without_life_is_not_renewed_in_a_hurry() -> None:
    scene = Scene()

    async with scene.running(NOW - 100_000):
        assert await scene.next_pause() == 5.0


async def test_a_failed_renewal_is_told_and_tried_again_later() -> None:
    scene = Scene()
    scene.connection.answers[TokenRenew] = failure = RateLimitedError("not now")

    async with scene.running(NOW + 100_000) as task:
        await scene.pass_pause()
        pauses = [await scene.pass_pause() for _ in range(8)]
        scene.connection.answers[TokenRenew] = TokenRenewAck(status=200, expires_at=None)
        await within(task)

    assert scene.failures == [failure] * 8
    assert all(5.0 <= seconds <= 65.0 for seconds in pauses)


async def test_a_token_that_never_ends_any_more_ends_the_renewing() -> None:
    scene = Scene()
    scene.connection.answers[TokenRenew] = TokenRenewAck(status=200, expires_at=None)

    async with scene.running(NOW + 100_000) as task:
        await scene.pass_pause()
        await within(task)

    assert scene.renewed() == ["new"]


async def test_the_end_of_the_connection_ends_the_renewing_without_a_word() -> None:
    scene = Scene()
    scene.connection.answers[TokenRenew] = UnavailableError("the connection was lost")

    async with scene.running(NOW + 100_000) as task:
        scene.connection.is_closed = True
        await scene.pass_pause()
        await within(task)

    assert scene.failures == []


async def test_a_service_that_never_answers_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_ANSWER_TIME", 0.05)
    scene = Scene()
    hang: Callable[[Any], Any] = lambda _: asyncio.Event().wait()  # noqa: E731
    scene.connection.answers |= {Heartbeat: hang, TokenRenew: hang}

    async with scene.running(int((time.time() + 100) * 1000)):
        await scene.pass_pause()
        await scene.next_pause()

    assert [error.message for error in scene.failures] == ["no TokenRenewAck within 0.05 s"]
