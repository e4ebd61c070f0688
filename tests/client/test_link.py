"""Staying connected: first attempts, reconnects, close codes, GOAWAY and heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from signal_manager.client import (
    Connected,
    Disconnected,
    Event,
    Framing,
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
    MalformedMessageError,
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def plain_server(answer: bytes | None) -> AsyncIterator[str]:
    """Answer the upgrade with these bytes and hang up, or keep silent for None until the client hangs up."""
    done = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await within(done.wait())


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


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_wss_checks_the_services_certificate(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with FakeService(ssl_context=server) as service:
        async with make_client(service, ssl_context=trusting) as client:
            assert await client.heartbeat() >= 0

        with pytest.raises(UnavailableError, match="self-signed certificate"):
            await within(make_client(service).connect())


async def test_nobody_listening_fails_fast() -> None:
    client = make_client(f"ws://127.0.0.1:{free_port()}")

    with pytest.raises(UnavailableError, match="cannot connect"):
        await within(client.connect())


async def test_a_host_that_does_not_exist_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="cannot connect"):
        await within(make_client(f"ws://{'x' * 64}.invalid").connect())


async def test_a_service_that_never_answers_fails_after_the_connect_timeout(service: FakeService) -> None:
    async def answer(_client: Client, _message_id: bytes, _message: Message) -> None:
        pass

    service.answer = answer

    with pytest.raises(UnavailableError, match=r"no answer from the service within 0.05 s"):
        await within(make_client(service, connect_timeout=0.05).connect())


async def test_a_port_that_accepts_and_says_nothing_fails_after_the_connect_timeout() -> None:
    async with plain_server(None) as url:
        with pytest.raises(UnavailableError, match="within"):
            await within(make_client(url, connect_timeout=0.05).connect())


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "expected a WebSocket service"),
        (b"220 mail.example ESMTP\r\n\r\n", "expected a WebSocket service"),
        (b"", "closed during the WebSocket upgrade"),
    ],
)
async def test_a_port_of_something_else_is_unavailable(answer: bytes, complaint: str) -> None:
    async with plain_server(answer) as url:
        with pytest.raises(UnavailableError, match=complaint):
            await within(make_client(url).connect())


async def test_a_cancelled_connect_leaves_no_connection(service: FakeService) -> None:
    asked: asyncio.Queue[Client] = asyncio.Queue()

    async def answer(client: Client, _message_id: bytes, _message: Message) -> None:
        asked.put_nowait(client)

    service.answer = answer
    connecting = asyncio.create_task(make_client(service).connect())
    refused = await within(asked.get())

    connecting.cancel()

    await within(refused.socket.wait_closed())
    with pytest.raises(asyncio.CancelledError):
        await connecting


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


async def test_a_service_without_the_framing_is_refused() -> None:
    async with FakeService(subprotocols=()) as service:
        with pytest.raises(MalformedMessageError, match=r"expected a service that speaks signal-manager\.v2"):
            await within(make_client(service).connect())


async def test_v1_needs_no_subprotocol() -> None:
    async with FakeService(subprotocols=()) as service, make_client(service, framing=Framing.V1) as client:
        assert await client.heartbeat() >= 0


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


async def test_a_service_that_refuses_and_does_not_close_is_left(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        await client.send(ErrorMessage(error_code=401, error_message="no"), message_id)

    service.answer = answer
    monkeypatch.setattr("signal_manager.client.link.CLOSE_TIMEOUT", 0.05)

    with pytest.raises(AuthenticationError, match="no"):
        await within(make_client(service).connect())


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

        assert events[1] == Disconnected(1006, "a fault of the client itself; its log has more", will_reconnect=False)
        assert "ends by a fault of its own" in caplog.text
        with pytest.raises(SignalManagerError, match="fault of the client"):
            await client.heartbeat()
