"""Staying connected: first attempts, reconnects, close codes, GOAWAY and heartbeats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from signal_manager.client import (
    Connected,
    Disconnected,
    Event,
    GoingAway,
    Reconnected,
    RetryPolicy,
    SignalClient,
    SignalReceived,
)
from signal_manager.client.link import DEFAULT_HEARTBEAT_INTERVAL, MAX_GOAWAY_DELAY
from signal_manager.client.liveness import ANSWER_TIME
from signal_manager.errors import (
    AuthenticationError,
    InvalidRequestError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.protocol.close_codes import CLOSE_CODES, Return
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    Disconnect,
    ErrorMessage,
    GoAway,
    Heartbeat,
    HeartbeatAck,
    Message,
    SignalMessage,
)
from tests.client.fake_service import Client, FakeService, ManualClock, make_client, within
from tests.waiting import until


def refuse_with(service: FakeService, error: ErrorMessage | None, *, times: int, code: int) -> None:
    """Refuse that many CONNECTs as the service does, with an error or without and a close code; then as usual."""
    left = times

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        nonlocal left
        if isinstance(message, Connect) and left:
            left -= 1
            if error is not None:
                await client.send(error, message_id)
            await client.close(code, "refused")
        else:
            await service.default_answer(client, message_id, message)

    service.answer = answer


def ignore_heartbeats(service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if not isinstance(message, Heartbeat):
            await service.default_answer(client, message_id, message)

    service.answer = answer


async def following(client: SignalClient, count: int) -> list[Event]:
    return [await within(anext(client)) for _ in range(count)]


async def test_the_first_connect_is_tried_as_often_as_asked(service: FakeService) -> None:
    refuse_with(service, ErrorMessage(error_code=503, error_message="draining"), times=2, code=1012)

    async with make_client(service, retry=RetryPolicy(first_attempts=3, random=lambda: 0.0)) as client:
        assert client.is_connected


async def test_the_first_connect_gives_up_after_its_attempts(service: FakeService) -> None:
    refuse_with(service, ErrorMessage(error_code=503, error_message="draining"), times=3, code=1012)
    client = make_client(service, retry=RetryPolicy(first_attempts=3, random=lambda: 0.0))

    with pytest.raises(UnavailableError, match="draining"):
        await within(client.connect())


async def test_a_refusal_for_good_is_not_tried_again(service: FakeService) -> None:
    client = make_client(service, token="wrong", retry=RetryPolicy(first_attempts=None))

    with pytest.raises(AuthenticationError):
        await within(client.connect())


@pytest.mark.parametrize(
    "code", [1001, 4999, *(code for code, ending in CLOSE_CODES.items() if ending.returns is not Return.NO)]
)
async def test_these_close_codes_bring_the_client_back(service: FakeService, code: int) -> None:
    async with make_client(service) as client:
        await service.clients["alice"].close(code, "come back")

        connected, disconnected, reconnected = await following(client, 3)

        assert isinstance(connected, Connected)
        assert disconnected == Disconnected(code, "come back", will_reconnect=True)
        assert isinstance(reconnected, Reconnected)
        assert reconnected.session_id == client.session_id != connected.session_id


@pytest.mark.parametrize("code", [code for code, ending in CLOSE_CODES.items() if ending.returns is Return.NO])
async def test_these_close_codes_end_the_client(service: FakeService, code: int) -> None:
    """An operator's 4403 is among them: a client that was thrown out does not come back by itself."""
    async with make_client(service) as client:
        await service.clients["alice"].close(code)

        events = [event async for event in client]

        assert events[1:] == [
            Disconnected(code, f"the service closed the connection with code {code}", will_reconnect=False)
        ]
        assert not client.is_connected
        with pytest.raises(SignalManagerError, match=f"code {code}") as caught:
            await client.send_offer("bob", {})
        assert caught.value.code == CLOSE_CODES[code].error_code


async def test_an_abnormal_end_brings_the_client_back(service: FakeService) -> None:
    async with make_client(service) as client:
        service.clients["alice"].abort()

        _, disconnected, reconnected = await following(client, 3)

        assert disconnected == Disconnected(1006, "connection lost", will_reconnect=True)
        assert isinstance(reconnected, Reconnected)


async def test_a_close_without_a_code_brings_the_client_back(service: FakeService) -> None:
    async with make_client(service) as client:
        service.clients["alice"].send_bytes(b"\x88\x00")

        _, disconnected, _ = await following(client, 3)

        assert disconnected == Disconnected(1005, "", will_reconnect=True)


async def test_a_reconnect_presents_the_same_instance(service: FakeService) -> None:
    async with make_client(service) as client:
        first = await within(service.accepted.get())
        first.abort()
        second = await within(service.accepted.get())

        assert first.connect is not None
        assert second.connect is not None
        assert first.connect.instance_id == second.connect.instance_id
        assert client.client_id == "alice"


async def test_pending_requests_fail_when_the_connection_is_lost(service: FakeService) -> None:
    async with make_client(service, "alice") as client:

        async def answer(connection: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, SignalMessage):
                connection.abort()
            else:
                await service.default_answer(connection, message_id, message)

        service.answer = answer

        with pytest.raises(UnavailableError, match="no reply before the connection ended"):
            await within(client.send_message("bob", 1, ack=True))


async def test_sends_wait_for_the_new_connection(service: FakeService) -> None:
    async with make_client(service, "alice") as client:
        await following(client, 1)
        await service.stop()
        waiting = [asyncio.create_task(client.send_message("alice", number, ack=True)) for number in range(3)]
        await service.start()

        assert await within(asyncio.gather(*waiting)) == ["delivered"] * 3
        assert [event.data for event in await following(client, 5) if isinstance(event, SignalReceived)] == [0, 1, 2]


async def test_sends_wait_no_longer_than_their_time_limit(service: FakeService) -> None:
    async with make_client(service, retry=RetryPolicy(base_delay=30, random=lambda: 1.0)) as client:
        await service.stop()

        with pytest.raises(UnavailableError, match=r"within 0.01 s; nothing was sent"):
            await within(client.send_offer("bob", {}, timeout=0.01))
        with pytest.raises(UnavailableError, match="nothing was sent"):
            await within(client.register(timeout=0.01))


async def test_closing_fails_those_who_wait_for_a_connection(service: FakeService) -> None:
    async with make_client(service, retry=RetryPolicy(base_delay=30, random=lambda: 1.0)) as client:
        await service.stop()
        waiting = asyncio.create_task(client.send_offer("bob", {}))
        await following(client, 2)

    with pytest.raises(UnavailableError, match="closed"):
        await within(waiting)


async def test_delays_grow_until_a_connection_lasts() -> None:
    """Attempts that fail at once are spaced out more and more; a connection that lasted starts again at the bottom."""
    clock = ManualClock()
    policy = RetryPolicy(first_attempts=4, base_delay=1, max_delay=3, random=lambda: 1.0)
    async with FakeService() as service:
        refuse_with(service, ErrorMessage(error_code=503, error_message="full"), times=3, code=4503)
        client = make_client(service, clock=clock, retry=policy)
        connecting = asyncio.create_task(client.connect())
        for expected in (1, 2, 3):
            assert await within(clock.asked.get()) == expected
            clock.advance(expected)
        await within(connecting)
        assert await within(clock.asked.get()) == 30.0  # the first heartbeat

        service.clients["alice"].abort()
        assert await within(clock.asked.get()) == 3
        clock.advance(3)
        await within(service.accepted.get())
        await following(client, 3)
        assert await within(clock.asked.get()) == 30.0

        clock.advance(4)
        service.clients["alice"].abort()
        assert await within(clock.asked.get()) == 1
        await client.close()


async def test_a_client_told_never_to_reconnect_ends(service: FakeService) -> None:
    async with make_client(service, retry=RetryPolicy(attempts=0)) as client:
        service.clients["alice"].abort()

        assert [event async for event in client][1:] == [Disconnected(1006, "connection lost", will_reconnect=False)]


async def test_a_client_gives_up_after_its_attempts(service: FakeService) -> None:
    async with make_client(service, retry=RetryPolicy(attempts=2, random=lambda: 0.0)) as client:
        await service.stop()

        _, first, last = [event async for event in client]

        assert first == Disconnected(1012, "", will_reconnect=True)
        assert isinstance(last, Disconnected)
        assert last.code == 1006  # the last attempt met nobody
        assert "cannot connect" in last.reason
        assert not last.will_reconnect
        with pytest.raises(UnavailableError, match="cannot connect"):
            await client.heartbeat()


async def test_a_token_that_is_refused_later_ends_the_client(service: FakeService) -> None:
    async with make_client(service) as client:
        refuse_with(service, ErrorMessage(error_code=401, error_message="expired"), times=1, code=4401)
        service.clients["alice"].abort()

        assert [event async for event in client][2:] == [Disconnected(4401, "expired", will_reconnect=False)]
        with pytest.raises(AuthenticationError, match="expired"):
            await client.heartbeat()


@pytest.mark.parametrize("says_why", [True, False])
@pytest.mark.parametrize("code", [code for code, ending in CLOSE_CODES.items() if ending.returns is Return.NO])
async def test_the_last_event_has_the_code_that_refused_the_client(
    service: FakeService, code: int, says_why: bool
) -> None:
    """The network cut the connection before, so a client that was replaced while away is told 4409."""
    async with make_client(service) as client:
        error = ErrorMessage(error_code=CLOSE_CODES[code].error_code, error_message="why") if says_why else None
        refuse_with(service, error, times=1, code=code)
        service.clients["alice"].abort()

        events = [event async for event in client]

        reason = "why" if says_why else "refused"
        assert events[1:] == [
            Disconnected(1006, "connection lost", will_reconnect=True),
            Disconnected(code, reason, will_reconnect=False),
        ]
        with pytest.raises(SignalManagerError, match=reason) as caught:
            await client.heartbeat()
        assert caught.value.code == CLOSE_CODES[code].error_code


@pytest.mark.parametrize("code", [code for code, ending in CLOSE_CODES.items() if ending.returns is not Return.NO])
async def test_a_close_in_place_of_an_answer_may_bring_the_client_back(service: FakeService, code: int) -> None:
    async with make_client(service) as client:
        refuse_with(service, None, times=1, code=code)
        service.clients["alice"].abort()

        assert isinstance((await following(client, 3))[2], Reconnected)


async def test_an_internal_error_on_reconnect_is_tried_again(service: FakeService) -> None:
    async with make_client(service) as client:
        refuse_with(service, ErrorMessage(error_code=500, error_message="oops"), times=1, code=1011)
        service.clients["alice"].abort()

        assert isinstance((await following(client, 3))[2], Reconnected)


@pytest.mark.parametrize(("reconnect_after", "seconds"), [(1500, 1.5), (2**64 - 1, MAX_GOAWAY_DELAY)])
async def test_after_goaway_the_client_comes_back_when_told(
    service: FakeService, reconnect_after: int, seconds: float
) -> None:
    clock = ManualClock()
    async with make_client(service, clock=clock, retry=RetryPolicy(random=lambda: 1.0)) as client:
        assert await within(clock.asked.get()) == 30.0
        connection = service.clients["alice"]
        await connection.send(GoAway(reason="restarting", reconnect_after=reconnect_after))
        await connection.close(1012)

        assert await within(clock.asked.get()) == seconds
        clock.advance(seconds)

        events = await following(client, 4)
        assert events[1:3] == [
            GoingAway("restarting", seconds),
            Disconnected(1012, "", will_reconnect=True, delay=seconds),
        ]
        assert isinstance(events[3], Reconnected)


async def test_goaway_of_an_earlier_connection_delays_no_later_one(service: FakeService) -> None:
    async with make_client(service) as client:
        await service.clients["alice"].send(GoAway(reason="restarting", reconnect_after=0))
        await service.clients["alice"].close(1012)
        await following(client, 4)

        service.clients["alice"].abort()

        assert isinstance((await following(client, 2))[1], Reconnected)


async def test_heartbeats_are_sent_at_the_interval_that_the_service_names() -> None:
    clock = ManualClock()
    async with (
        FakeService(ack={"heartbeat_interval": 5.0, "heartbeat_timeout": 60.0}) as service,
        make_client(service, clock=clock),
    ):
        received = service.clients["alice"].received
        await within(received.get())
        assert await within(clock.asked.get()) == 5.0
        for _ in range(3):
            clock.advance(5.0)
            assert await within(received.get()) == Heartbeat(timestamp=int(clock.time * 1000))
            assert await within(clock.asked.get()) == ANSWER_TIME


@pytest.mark.parametrize("interval", [None, 0.0, -1.0, 1e9])
async def test_a_heartbeat_interval_that_makes_no_sense_is_replaced(interval: float | None) -> None:
    clock = ManualClock()
    async with (
        FakeService(ack={"heartbeat_interval": interval, "heartbeat_timeout": None}) as service,
        make_client(service, clock=clock),
    ):
        assert await within(clock.asked.get()) == DEFAULT_HEARTBEAT_INTERVAL


async def test_a_service_that_falls_silent_is_left() -> None:
    clock = ManualClock()
    async with (
        FakeService(ack={"heartbeat_interval": 5.0, "heartbeat_timeout": 8.0}) as service,
        make_client(service, clock=clock) as client,
    ):
        ignore_heartbeats(service)
        assert await within(clock.asked.get()) == 5.0
        clock.advance(5.0)
        assert await within(clock.asked.get()) == ANSWER_TIME
        clock.advance(ANSWER_TIME)

        _, disconnected, reconnected = await following(client, 3)

        assert disconnected == Disconnected(1006, "nothing received for 8 s", will_reconnect=True)
        assert isinstance(reconnected, Reconnected)


async def test_any_frame_counts_as_a_sign_of_life() -> None:
    clock = ManualClock()
    async with (
        FakeService(ack={"heartbeat_interval": 5.0, "heartbeat_timeout": 8.0}) as service,
        make_client(service, clock=clock) as client,
    ):
        ignore_heartbeats(service)
        for _ in range(10):
            clock.advance(await within(clock.asked.get()))
            await within(await service.clients["alice"].socket.ping())

        assert client.is_connected


async def test_the_service_may_ask_for_a_sign_of_life(service: FakeService) -> None:
    async with make_client(service):
        connection = service.clients["alice"]
        answered: asyncio.Queue[Message] = asyncio.Queue()

        async def answer(peer: Client, message_id: bytes, message: Message) -> None:
            answered.put_nowait(message)
            if isinstance(message, Disconnect):
                await peer.close()

        service.answer = answer
        await connection.send(Heartbeat(timestamp=77))

        assert await within(answered.get()) == HeartbeatAck(timestamp=77)


async def test_what_follows_connect_ack_in_the_same_read_comes_after_connected(service: FakeService) -> None:
    """The service sends what was queued for a client right behind its welcome."""

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, Connect):
            client.send_together(
                [
                    (ConnectAck(status="success", session_id="s"), message_id),
                    (SignalMessage(sender_client_id="bob", signal_data=1), None),
                ]
            )
        else:
            await service.default_answer(client, message_id, message)

    service.answer = answer
    async with make_client(service) as client:
        assert await following(client, 2) == [Connected("s"), SignalReceived("bob", "message", 1)]


async def test_a_fault_of_the_client_ends_it_loudly(service: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    class BrokenClock(ManualClock):
        async def sleep(self, seconds: float) -> None:
            raise ZeroDivisionError

    async with make_client(service, clock=BrokenClock()) as client:
        events: list[Any] = [event async for event in client]

        assert events[1] == Disconnected(
            1006, "internal error of the client; its log has the details", will_reconnect=False
        )
        assert "ends by an internal error" in caplog.text
        with pytest.raises(SignalManagerError, match="internal error of the client"):
            await client.heartbeat()


# Another connection on request


async def test_reconnecting_on_request_replaces_the_connection(service: FakeService) -> None:
    async with make_client(service) as client:
        before = service.clients["alice"]

        await within(client.reconnect())

        assert service.clients["alice"] is not before
        assert await client.heartbeat() >= 0
        _, disconnected, reconnected = await following(client, 3)
        assert disconnected == Disconnected(1006, "a new connection was asked for", will_reconnect=True)
        assert isinstance(reconnected, Reconnected)


async def test_reconnecting_on_request_does_not_wait_for_the_next_attempt(service: FakeService) -> None:
    clock = ManualClock()
    async with make_client(service, clock=clock, retry=RetryPolicy(base_delay=20.0, random=lambda: 1.0)) as client:
        service.clients["alice"].abort()
        await following(client, 2)
        while await within(clock.asked.get()) != 20.0:
            pass

        await within(client.reconnect())

        assert client.is_connected


async def test_a_reconnect_that_the_service_does_not_answer_is_unavailable(service: FakeService) -> None:
    async with make_client(service) as client:

        async def answer(*_: object) -> None:
            return

        service.answer = answer
        with pytest.raises(UnavailableError, match=r"no connection within 0\.05 s"):
            await client.reconnect(timeout=0.05)
        service.answer = service.default_answer


async def test_a_client_that_never_reconnects_does_not_on_request(service: FakeService) -> None:
    async with make_client(service, retry=RetryPolicy(attempts=0)) as client:
        with pytest.raises(InvalidRequestError, match="0 attempts"):
            await client.reconnect()
        assert client.is_connected


async def test_a_client_that_has_ended_does_not_reconnect_on_request(service: FakeService) -> None:
    client = make_client(service)
    with pytest.raises(UnavailableError, match="not connected"):
        await client.reconnect()
    async with client:
        pass

    with pytest.raises(UnavailableError, match="closed"):
        await client.reconnect()


async def test_a_connection_that_shows_life_while_another_is_opened_stays(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    monkeypatch.setattr("signal_manager.client.link._LOOK", 0.001)
    async with make_client(service, clock=clock, connect_timeout=30.0) as client:
        ignore_heartbeats(service)
        connection = service.clients["alice"]
        service.door.clear()
        clock.advance(await within(clock.asked.get()))
        clock.advance(await within(clock.asked.get()))
        await within(service.knocked.wait())
        await within(await connection.socket.ping())
        await within(clock.asked.get())  # it waits again

        assert client.is_connected
        assert service.clients["alice"] is connection


async def test_without_a_second_connection_a_silent_service_is_left_after_its_timeout() -> None:
    clock = ManualClock()
    async with (
        FakeService(ack={"heartbeat_interval": 5.0, "heartbeat_timeout": 60.0}) as service,
        make_client(service, clock=clock, retry=RetryPolicy(attempts=0)) as client,
    ):
        ignore_heartbeats(service)
        waited = 0.0
        while client.is_connected:
            seconds = await within(clock.asked.get())
            waited += seconds
            clock.advance(seconds)
            await asyncio.sleep(0)
            if waited >= 60.0:
                break

        events = [event async for event in client]

        assert events[-1] == Disconnected(1006, "nothing received for 60 s", will_reconnect=False)


# Resuming


def resume_sessions(service: FakeService, *, received: int | None = None) -> list[Connect]:
    """Let sessions be resumed, and return the CONNECTs as the list grows.

    The service claims to have received that many messages of the client; by default it tells the truth.
    """
    connects: list[Connect] = []
    counted = 0

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        nonlocal counted
        if not isinstance(message, Connect):
            counted += not isinstance(message, Heartbeat | HeartbeatAck)
            await service.default_answer(client, message_id, message)
            return
        connects.append(message)
        service.clients[message.client_id] = client
        is_resumed = message.resume is not None and message.resume.resume_token != ""
        count = (counted if received is None else received) if is_resumed else None
        ack = ConnectAck(
            status="success", session_id=f"s-{len(connects)}", resume_token="r", resumed=is_resumed, received=count
        )
        await client.send(ack, message_id)

    service.answer = answer
    return connects


async def test_a_resumed_session_sends_again_what_the_service_misses(service: FakeService) -> None:
    connects = resume_sessions(service, received=1)
    async with make_client(service) as client:
        for text in ("one", "two", "three"):
            await client.send_message("nobody", text)
        first = service.clients["alice"]
        await until(lambda: first.received.qsize() == 4)

        first.abort()
        await until(lambda: service.clients["alice"] is not first)
        await client.send_message("nobody", "four")
        second = service.clients["alice"]
        again = [await within(second.received.get()) for _ in range(4)]

        assert connects[1].resume is not None
        assert connects[1].resume.session_id == "s-1"
        assert isinstance(again[0], Connect)
        assert [message.signal_data for message in again[1:] if isinstance(message, SignalMessage)] == [
            "two",
            "three",
            "four",
        ]


async def test_a_service_that_resumes_more_than_was_sent_is_left_and_the_session_given_up(
    service: FakeService,
) -> None:
    connects = resume_sessions(service, received=7)
    async with make_client(service) as client:
        service.clients["alice"].abort()

        *_, refused, event = await following(client, 4)

        assert isinstance(refused, Disconnected)
        assert "messages are missing" in refused.reason
        assert event == Reconnected("s-3", resumed=False)
        assert [each.resume and each.resume.resume_token for each in connects] == [None, "r", ""]


async def test_closing_while_away_ends_a_session_that_would_go_on(service: FakeService) -> None:
    connects = resume_sessions(service)
    async with make_client(service, retry=RetryPolicy(base_delay=30.0, random=lambda: 1.0)) as client:
        service.clients["alice"].abort()
        await following(client, 2)

    last = service.clients["alice"]
    assert len(connects) == 2
    assert [type(message) for message in (await within(last.received.get()), await within(last.received.get()))] == [
        Connect,
        Disconnect,
    ]


async def test_closing_while_away_does_not_need_the_service(service: FakeService) -> None:
    resume_sessions(service)
    async with make_client(service, retry=RetryPolicy(base_delay=30.0, random=lambda: 1.0)) as client:
        service.clients["alice"].abort()
        await following(client, 2)
        await service.stop()

        await within(client.close())

        assert not client.is_connected


async def test_a_good_bye_that_is_not_heard_is_said_again_on_another_connection(service: FakeService) -> None:
    """The network may be gone for as long as nothing is sent."""
    connects = resume_sessions(service)
    resuming = service.answer

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, Disconnect) and len(connects) == 1:
            client.abort()
        else:
            await resuming(client, message_id, message)

    service.answer = answer
    async with make_client(service):
        pass

    assert len(connects) == 2
