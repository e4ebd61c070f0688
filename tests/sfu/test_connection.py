"""One client's connection as the SFU sees it: what is refused, what restarts it, and when it is over; no sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from signal_manager.sfu.connection import Connection, Resources
from signal_manager.sfu.dtls import Certificate
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.secure_transport import Handshakes
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.transport import MediaPort
from signal_manager.sfu.wire import SessionDescription
from tests.sfu.sdps import answer_to, sdp, section

CERTIFICATE = Certificate()
SETTINGS = SfuSettings(connect_wait=0.01, max_sdp=20_000)
NOBODY: Any = None


def resources_of(settings: SfuSettings = SETTINGS) -> Resources:
    """Return what connections have in common, with a media port that is not open."""
    counters = Counters()
    return Resources(
        settings=settings,
        counters=counters,
        port=MediaPort(counters),
        certificate=CERTIFICATE,
        handshakes=Handshakes(8, time_limit=30.0),
        load=NOBODY,
    )


def connection_of(settings: SfuSettings = SETTINGS) -> tuple[Connection, list[str]]:
    """Return a connection, and what it tells its session."""
    told: list[str] = []
    return Connection(resources_of(settings), on_connected=lambda: told.append("connected")), told


@pytest.fixture
async def connection() -> Connection:
    return connection_of()[0]


def described(*sections: list[str], kind: Any = "offer", **more: str) -> SessionDescription:
    return SessionDescription(type=kind, sdp=sdp(*sections, **more))


def negotiate(connection: Connection, **more: str) -> str:
    """Apply a client's offer, and return the answer."""
    connection.apply_offer(connection.read_offer(described(section("0"), **more)), receive=["0"], send={})
    return connection.answer().sdp


def refused(caught: pytest.ExceptionInfo[RefusedError]) -> tuple[int, str]:
    """Return the status and the code of a refusal."""
    return caught.value.status, caught.value.error_code


# Descriptions


async def test_an_offer_is_answered_with_the_sfus_own_identity(connection: Connection) -> None:
    answer = negotiate(connection)

    assert "a=setup:passive" in answer
    assert f"a=fingerprint:sha-256 {CERTIFICATE.fingerprint}" in answer
    assert "a=recvonly" in answer


async def test_a_client_that_waits_for_the_handshake_is_greeted_first(connection: Connection) -> None:
    assert "a=setup:active" in negotiate(connection, setup="passive")


@pytest.mark.parametrize(
    "wrong",
    [
        described(section("0"), kind="answer"),
        SessionDescription(type="offer", sdp="hello"),
        SessionDescription(type="offer", sdp=""),
        described(section("0", more=["a=" + "x" * 20_000])),
    ],
    ids=["an answer", "noise", "nothing", "too large"],
)
async def test_what_is_no_offer_is_refused(connection: Connection, wrong: SessionDescription) -> None:
    with pytest.raises(RefusedError) as caught:
        connection.read_offer(wrong)

    assert refused(caught) == (406, "invalid_session_description")


async def test_another_identity_needs_another_session(connection: Connection) -> None:
    negotiate(connection)

    with pytest.raises(RefusedError) as caught:
        connection.read_offer(described(section("0"), fingerprint=":".join(["CD"] * 32)))

    assert refused(caught) == (406, "invalid_session_description")


async def test_new_credentials_of_the_client_restart_ice_and_the_same_do_not(connection: Connection) -> None:
    def ufrag(answer: str) -> str:
        return next(line for line in answer.splitlines() if line.startswith("a=ice-ufrag:"))

    first, same, other = (ufrag(negotiate(connection, ufrag=each)) for each in ("abcd", "abcd", "efgh"))

    assert first == same != other


async def test_while_an_offer_of_the_sfu_waits_only_its_answer_is_taken(connection: Connection) -> None:
    negotiate(connection)
    connection.check_stable()
    offer = connection.offer()

    with pytest.raises(RefusedError) as caught:
        connection.check_stable()
    assert refused(caught) == (406, "invalid_session_description")
    with pytest.raises(RefusedError):
        connection.apply_answer(SessionDescription(type="answer", sdp="noise"))

    answer = answer_to(offer.sdp, direction="sendonly")
    connection.apply_answer(SessionDescription(type="answer", sdp=answer["sdp"]))
    connection.check_stable()


# Life


async def test_the_first_negotiation_waits_for_no_transport(connection: Connection) -> None:
    await connection.ready()
    assert not connection.is_connected


async def test_a_transport_that_does_not_come_up_is_not_ready(connection: Connection) -> None:
    negotiate(connection)

    with pytest.raises(RefusedError) as caught:
        await connection.ready()

    assert refused(caught) == (425, "session_error")
    assert not connection.is_lost


async def test_a_transport_that_was_up_and_does_not_come_back_is_gone() -> None:
    connection, told = connection_of()
    negotiate(connection)
    connection.transport.on_connected()

    with pytest.raises(RefusedError) as caught:
        await connection.ready()

    assert refused(caught) == (410, "session_error")
    assert told == ["connected"]
    assert connection.is_lost


async def test_the_end_answers_a_request_that_waits() -> None:
    connection, _ = connection_of(SfuSettings(connect_wait=30.0))
    negotiate(connection)
    waiting = asyncio.create_task(connection.ready())
    await asyncio.sleep(0)

    for _ in range(2):
        connection.close()

    with pytest.raises(RefusedError) as caught:
        async with asyncio.timeout(30):
            await waiting
    assert refused(caught) == (410, "session_error")


async def test_a_connection_expires_by_its_last_request_before_and_by_silence_after_it_was_up(
    connection: Connection,
) -> None:
    now = time.monotonic()
    unconnected, silent = SETTINGS.unconnected_timeout, SETTINGS.reuse_window

    assert not connection.is_expired(now + unconnected - 1, last_request=now)
    assert connection.is_expired(now + unconnected + 1, last_request=now)
    connection.transport.on_connected()
    assert not connection.is_expired(now + silent - 1, last_request=now - 1000)
    assert connection.is_expired(now + silent + 1, last_request=now + 1000)
