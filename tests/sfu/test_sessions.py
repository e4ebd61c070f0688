"""One session: its rate, its life, its data channels' transport and its state; no sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.sessions import Session
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.wire import DataChannelObject, EstablishRequest, SessionDescription
from tests.sfu.sdps import answer_to, sdp, section
from tests.sfu.test_connection import refused, resources_of

SETTINGS = SfuSettings(connect_wait=0.01, requests_per_second=5)
EVENTS = DataChannelObject()


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = Session("s", resources=resources_of(SETTINGS), sessions={})
    yield session
    await session.close()


def described(*sections: list[str]) -> SessionDescription:
    return SessionDescription(type="offer", sdp=sdp(*sections))


# Its rate


async def test_requests_beyond_the_rate_are_refused_until_time_has_passed(session: Session) -> None:
    now = session.last_request
    for _ in range(5):
        session.admit(now)

    with pytest.raises(RefusedError) as caught:
        session.admit(now)
    assert refused(caught) == (429, "rate_limited")
    with pytest.raises(RefusedError):
        session.admit(now + 0.1)

    session.admit(now + 0.5)


async def test_a_quiet_session_saves_no_more_than_a_second_of_requests(session: Session) -> None:
    now = session.last_request + 1000
    for _ in range(5):
        session.admit(now)

    with pytest.raises(RefusedError):
        session.admit(now)


# Its life


async def test_a_session_that_never_connects_expires_after_its_last_request(session: Session) -> None:
    now = time.monotonic()
    session.admit(now + 100)

    assert not session.is_expired(now + 100 + SETTINGS.unconnected_timeout - 1)
    assert session.is_expired(now + 100 + SETTINGS.unconnected_timeout + 1)


async def test_a_session_that_was_never_up_needs_not_come_back(session: Session) -> None:
    assert await session.is_back()
    assert not session.is_connected


async def test_a_session_that_is_closed_refuses_what_comes_and_closes_twice(session: Session) -> None:
    for _ in range(2):
        async with asyncio.timeout(30):
            await session.close()

    with pytest.raises(RefusedError) as caught:
        await session.establish(EstablishRequest(data_channel=EVENTS))
    assert refused(caught) == (410, "session_error")


# Its data channels' transport


async def test_the_client_or_the_sfu_offers_the_transport_of_data_channels(session: Session) -> None:
    asked = EstablishRequest(data_channel=EVENTS, session_description=described(section("0", "application")))

    answered = await session.establish(asked)

    assert (answered.requires_immediate_renegotiation, answered.session_description.type) == (False, "answer")
    assert (answered.data_channel.data_channel_name, answered.data_channel.id) == ("server-events", 0)
    with pytest.raises(RefusedError) as caught:
        await session.ready_for_channels()
    assert refused(caught) == (425, "session_error")

    other = Session("t", resources=resources_of(SETTINGS), sessions={})
    offered = await other.establish(EstablishRequest(data_channel=EVENTS))
    assert (offered.requires_immediate_renegotiation, offered.session_description.type) == (True, "offer")
    assert "m=application" in answer_to(offered.session_description.sdp)["sdp"]
    await other.close()


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (EstablishRequest(data_channel=DataChannelObject(location="local")), (406, "invalid_params")),
        (EstablishRequest(data_channel=DataChannelObject(data_channel_name="chat")), (406, "invalid_params")),
        (EstablishRequest(data_channel=EVENTS, session_description=described(section("0"))), (400, "decoding_error")),
        (
            EstablishRequest(data_channel=EVENTS, session_description=described(section("0", "application", port=0))),
            (400, "decoding_error"),
        ),
    ],
    ids=["local", "named", "no section", "rejected section"],
)
async def test_what_establishes_no_transport_is_refused(
    session: Session, request_: EstablishRequest, refusal: tuple[int, str]
) -> None:
    with pytest.raises(RefusedError) as caught:
        await session.establish(request_)

    assert refused(caught) == refusal


async def test_channels_need_their_transport_first(session: Session) -> None:
    with pytest.raises(RefusedError) as caught:
        await session.ready_for_channels()

    assert refused(caught) == (406, "invalid_params")


# Its state


async def test_a_session_without_tracks_has_an_empty_state(session: Session) -> None:
    session.tick(time.monotonic())

    assert (session.state().tracks, session.state().data_channels) == ([], [])
