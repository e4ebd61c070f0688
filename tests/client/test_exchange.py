"""What outlives a connection: requests without a reply, and the journal that lets the next one resume the session."""

from __future__ import annotations

import pytest

from signal_manager.client.exchange import KEPT_BYTES, Exchange
from signal_manager.errors import ForbiddenError, InvalidRequestError, UnavailableError
from signal_manager.protocol.messages import HeartbeatAck, Resume

REQUEST, OTHER = b"r" * 16, b"o" * 16
REPLY = HeartbeatAck(timestamp=1)


@pytest.fixture
async def exchange() -> Exchange:
    exchange = Exchange()
    exchange.begin("s-1", "token")
    return exchange


def send(exchange: Exchange, *frames: bytes) -> None:
    assert exchange.journal is not None
    for frame in frames:
        exchange.journal.keep(frame)


# Replies


async def test_a_reply_reaches_the_request_that_waits_for_it(exchange: Exchange) -> None:
    future = exchange.expect(REQUEST)

    assert exchange.is_waiting
    assert exchange.resolve(REQUEST, REPLY)
    assert await future == REPLY


async def test_a_refusal_is_raised_at_the_caller(exchange: Exchange) -> None:
    future = exchange.expect(REQUEST)

    exchange.resolve(REQUEST, ForbiddenError("no"))

    with pytest.raises(ForbiddenError):
        await future


async def test_a_reply_that_is_not_waited_for_is_not_taken(exchange: Exchange) -> None:
    """The caller logs such replies: to no request, a second one, and one after the caller gave up."""
    answered, cancelled, forgotten = (exchange.expect(bytes((number,)) * 16) for number in range(3))
    exchange.resolve(bytes((0,)) * 16, REPLY)
    cancelled.cancel()
    exchange.forget(bytes((2,)) * 16)
    exchange.forget(OTHER)

    assert not any(exchange.resolve(message_id, REPLY) for message_id in (OTHER, *(bytes((n,)) * 16 for n in range(3))))
    assert answered.result() == REPLY
    assert not forgotten.done()


async def test_a_new_session_fails_the_requests_of_the_former_one(exchange: Exchange) -> None:
    waiting, cancelled = exchange.expect(REQUEST), exchange.expect(OTHER)
    cancelled.cancel()

    exchange.begin("s-2", "token")

    with pytest.raises(UnavailableError, match="begun a new session"):
        await waiting


# Resuming


async def test_nothing_is_offered_before_the_first_session() -> None:
    exchange = Exchange()

    assert (exchange.offer, exchange.former, exchange.resume(0)) == (None, None, None)
    exchange.confirm(7)  # without a journal there is nothing to confirm


async def test_a_session_is_offered_with_its_token_and_count(exchange: Exchange) -> None:
    assert exchange.journal is not None
    exchange.journal.take(10)

    assert exchange.offer == exchange.former == Resume(session_id="s-1", resume_token="token", received=1)


async def test_a_session_that_cannot_go_on_is_only_named(exchange: Exchange) -> None:
    """So that a newer device keeps the client."""
    named = Resume(session_id="s-1", resume_token="", received=0)

    exchange.abandon()
    assert (exchange.offer, exchange.former) == (None, named)

    exchange.begin("s-1", None)
    assert (exchange.offer, exchange.former) == (None, named)


async def test_resuming_sends_again_what_the_service_misses(exchange: Exchange) -> None:
    send(exchange, b"one", b"two", b"three")

    missing = exchange.resume(1)

    assert missing == (b"two", b"three")
    assert exchange.resume(3) == ()


@pytest.mark.parametrize("received", [4, 2**63])
async def test_a_service_that_has_received_more_than_was_sent_cannot_resume(exchange: Exchange, received: int) -> None:
    send(exchange, b"one")

    assert exchange.resume(received) is None
    with pytest.raises(InvalidRequestError):
        exchange.confirm(received)


async def test_a_service_that_has_forgotten_confirmed_messages_cannot_resume(exchange: Exchange) -> None:
    send(exchange, b"one", b"two")
    exchange.confirm(2)

    assert exchange.resume(0) is None


async def test_a_session_with_more_unconfirmed_bytes_than_are_kept_is_not_offered(exchange: Exchange) -> None:
    send(exchange, bytes(KEPT_BYTES), b"more")

    assert exchange.offer is None
    exchange.confirm(2)
    assert exchange.offer is not None
