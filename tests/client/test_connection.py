"""One WebSocket: fragments, garbage from the service, backpressure and local failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from picows import WSCloseCode

from signal_manager.client import Disconnected, Framing, Reconnected, SignalClient, SignalReceived
from signal_manager.client.connection import Closed, Connection
from signal_manager.client.exchange import Exchange
from signal_manager.client.timing import Clock
from signal_manager.errors import MalformedMessageError, UnavailableError
from signal_manager.protocol.framing import encode_frame
from signal_manager.protocol.messages import (
    Disconnect,
    Heartbeat,
    Message,
    MessageType,
    PayloadType,
    SignalMessage,
    SignalOffer,
)
from tests.client.fake_service import Client, FakeService, make_client, within


@pytest.fixture
async def alice(service: FakeService) -> AsyncIterator[SignalClient]:
    async with make_client(service, "alice") as client:
        await within(anext(client))
        yield client


def signal_frame(text: str) -> bytes:
    payload = f'{{"sender_client_id":"bob","signal_data":"{text}"}}'.encode()
    return encode_frame(Framing.V2, MessageType.SIGNAL_MESSAGE, bytes(16), PayloadType.JSON, payload)


async def test_a_message_in_fragments_is_put_together(alice: SignalClient, service: FakeService) -> None:
    whole = signal_frame("in pieces")

    await service.clients["alice"].socket.send([b"", whole[:10], whole[10:30], whole[30:]])

    assert await within(anext(alice)) == SignalReceived("bob", "message", "in pieces")


async def test_a_ping_between_fragments_is_answered(alice: SignalClient, service: FakeService) -> None:
    socket = service.clients["alice"].socket
    whole = signal_frame("in pieces")

    async def pieces() -> AsyncIterator[bytes]:
        yield whole[:10]
        await (await socket.ping())
        yield whole[10:]

    await within(socket.send(pieces()))

    assert await within(anext(alice)) == SignalReceived("bob", "message", "in pieces")


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\x80\x01x", id="a continuation of nothing"),
        pytest.param(b"\x02\x01x\x82\x01y", id="a new message between fragments"),
    ],
)
async def test_fragments_out_of_order_end_the_connection(
    alice: SignalClient, service: FakeService, frames: bytes
) -> None:
    service.clients["alice"].send_bytes(frames)

    disconnected, reconnected = [await within(anext(alice)) for _ in range(2)]

    assert isinstance(disconnected, Disconnected)
    assert disconnected.will_reconnect
    assert isinstance(reconnected, Reconnected)


async def test_fragments_beyond_the_bound_end_the_connection(
    alice: SignalClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.client.connection.MAX_MESSAGE_BYTES", 100)

    service.clients["alice"].send_bytes(b"\x02\x40" + bytes(64) + b"\x80\x40" + bytes(64))

    assert isinstance(await within(anext(alice)), Disconnected)
    assert service.clients["alice"].socket.close_code == WSCloseCode.MESSAGE_TOO_BIG.value


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 40,
        b"\xab\x99" + bytes(21),
        signal_frame("cut off")[:-3],
        encode_frame(Framing.V2, MessageType.SIGNAL_OFFER, bytes(16), PayloadType.JSON, b"[1]"),
        encode_frame(Framing.V2, MessageType.CONNECT, bytes(16), PayloadType.CBOR, b"\xff"),
        "text on a binary connection",
    ],
)
async def test_garbage_from_the_service_is_dropped(
    alice: SignalClient, service: FakeService, caplog: pytest.LogCaptureFixture, garbage: str | bytes
) -> None:
    await service.clients["alice"].socket.send(garbage)

    assert await alice.heartbeat() >= 0
    assert "dropped a" in caplog.text


async def test_binary_on_a_text_connection_is_dropped(service: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    async with make_client(service, framing=Framing.JSON) as client:
        await service.clients["alice"].socket.send(signal_frame("binary"))

        assert await client.heartbeat() >= 0
        assert "dropped a BINARY message, expected TEXT" in caplog.text


async def test_a_reply_that_cannot_be_read_fails_its_request(alice: SignalClient, service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, Disconnect):
            await client.close()
            return
        frame = encode_frame(Framing.V2, MessageType.HEARTBEAT_ACK, message_id, PayloadType.JSON, b"{")
        await client.socket.send(frame)

    service.answer = answer

    with pytest.raises(MalformedMessageError, match="HEARTBEAT_ACK"):
        await within(alice.heartbeat())


async def test_a_second_reply_is_ignored(alice: SignalClient, service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        await service.default_answer(client, message_id, message)
        if isinstance(message, Heartbeat):
            await service.default_answer(client, message_id, message)

    service.answer = answer

    assert await alice.heartbeat() >= 0
    assert await alice.heartbeat() >= 0


async def test_senders_wait_while_the_service_does_not_read(service: FakeService) -> None:
    """The socket's buffer fills up; further sends wait until the service reads on, and nothing is lost."""
    read_on = asyncio.Event()
    received: list[int] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        match message:
            case SignalOffer(signal_data=data):
                await read_on.wait()
                received.append(int(data[:4]))
            case SignalMessage():
                received.append(-1)
                await service.default_answer(client, message_id, message)
            case _:
                await service.default_answer(client, message_id, message)

    service.answer = answer
    async with make_client(service) as client:
        sent: list[int] = []

        async def send_without_end() -> None:
            while True:
                await client.send_offer("bob", f"{len(sent):04}" + "x" * 500_000, timeout=0.05)
                sent.append(len(sent))

        with pytest.raises(UnavailableError, match="nothing was sent"):
            await send_without_end()
        read_on.set()
        await within(client.send_message("alice", "last", ack=True), 20)

    assert received == [*sent, -1]


async def test_sending_on_a_connection_that_was_never_opened_is_unavailable() -> None:
    connection = Connection(
        framing=Framing.V2,
        payload_type=PayloadType.JSON,
        clock=Clock(),
        exchange=Exchange(),
        receive=lambda *_message: None,
    )

    with pytest.raises(UnavailableError):
        connection.send(Heartbeat(), bytes(16))
    assert await connection.wait_closed() == Closed(1006, "connection lost")


async def test_an_aborted_connection_delivers_nothing_more(service: FakeService) -> None:
    """Not even what the same read brought."""
    delivered: list[Message] = []

    def receive(connection: Connection, _message_id: bytes, message: Message) -> None:
        delivered.append(message)
        connection.abort("enough")
        connection.abort("again")

    async def answer(client: Client, _message_id: bytes, _message: Message) -> None:
        signals = [SignalMessage(sender_client_id="bob", signal_data=number) for number in range(2)]
        client.send_together([(signal, None) for signal in signals])

    service.answer = answer
    connection = Connection(
        framing=Framing.V2, payload_type=PayloadType.JSON, clock=Clock(), exchange=Exchange(), receive=receive
    )
    await connection.open(service.url, time_limit=5, ssl_context=None)
    connection.send(Heartbeat(), bytes(16))

    assert await within(connection.wait_closed()) == Closed(1006, "enough")
    connection.abort("too late")
    assert connection.is_closed
    assert delivered == [SignalMessage(sender_client_id="bob", signal_data=0)]


async def test_an_unasked_pong_is_no_message(alice: SignalClient, service: FakeService) -> None:
    await service.clients["alice"].socket.pong()

    assert await alice.heartbeat() >= 0


async def test_an_upgrade_that_completes_after_its_abort_is_closed(service: FakeService) -> None:
    """Cancelling `open` cannot stop an upgrade that is under way; its socket must not stay."""
    connection = Connection(
        framing=Framing.V2,
        payload_type=PayloadType.JSON,
        clock=Clock(),
        exchange=Exchange(),
        receive=lambda *_message: None,
    )
    connection.abort("cancelled")

    await connection.open(service.url, time_limit=5, ssl_context=None)

    assert await within(connection.wait_closed()) == Closed(1006, "cancelled")
