"""RFC 6455 around the messages: fragments, control frames and the closing handshake."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from picows import WSFrame

from signal_manager.gateway import frames as frames_module
from signal_manager.gateway.frames import Frames
from signal_manager.gateway.inbound import Inbound
from signal_manager.gateway.limits import BEFORE_CONNECT, FRAMES_PER_MESSAGE, Allowance, Limits
from signal_manager.gateway.occupancy import Occupancy
from signal_manager.gateway.outgoing import Outgoing
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.observe.counts import Counter
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.framing import Framing
from tests.gateway.fakes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FakeConnection,
    FakeConversation,
    FakeSocket,
    frame,
)

RATE = 2  # messages in a minute


@pytest.fixture
def outgoing(conversation: FakeConversation, socket: FakeSocket) -> Outgoing:
    outgoing = Outgoing(conversation, Framing.V1, limit=100, bytes_sent=Counter())
    outgoing.open(socket.picows, write_buffer=10)
    return outgoing


@pytest.fixture
async def frames(
    connection: FakeConnection, conversation: FakeConversation, socket: FakeSocket, outgoing: Outgoing
) -> Frames:
    occupancy = Occupancy(Limits(messages_per_minute=RATE))
    return Frames(
        socket.picows,
        connection,
        conversation=conversation,
        inbound=Inbound(connection, conversation, occupancy),
        outgoing=outgoing,
        allowance=Allowance(occupancy.usage, now=0.0),
    )


def closing(code: int, reason: bytes = b"") -> WSFrame:
    """Return a client's close frame."""
    return frame(code.to_bytes(2) + reason, CLOSE)


# -- messages ------------------------------------------------------------------------------------------------------


async def test_fragments_become_one_message(frames: Frames, connection: FakeConnection) -> None:
    to_come = [
        frames.handle(frame(b"on", TEXT, fin=False)),
        frames.handle(frame(b"", CONTINUATION, fin=False)),
        frames.handle(frame(b"e", CONTINUATION)),
    ]
    frames.handle(frame(b"two", BINARY))

    assert to_come == [True, True, False]
    assert connection.handled == [(b"one", TEXT), (b"two", BINARY)]


async def test_a_ping_between_fragments_is_answered_and_breaks_nothing(
    frames: Frames, connection: FakeConnection, socket: FakeSocket
) -> None:
    frames.handle(frame(b"on", BINARY, fin=False))
    still_to_come = frames.handle(frame(b"?", PING))
    frames.handle(frame(b"e", CONTINUATION))

    assert still_to_come
    assert socket.pongs == [b"?"]
    assert connection.handled == [(b"one", BINARY)]


@pytest.mark.parametrize(
    "sequence",
    [
        [frame(b"x", CONTINUATION)],
        [frame(b"x", CONTINUATION, fin=False)],
        [frame(b"x", BINARY, fin=False), frame(b"y", BINARY)],
        [frame(b"x", BINARY, fin=False), frame(b"y", TEXT, fin=False)],
    ],
)
async def test_fragments_out_of_order_break_the_protocol(
    frames: Frames, connection: FakeConnection, conversation: FakeConversation, sequence: list[WSFrame]
) -> None:
    for each in sequence:
        frames.handle(each)

    assert conversation.did == [("broken", CloseCode.PROTOCOL)]
    assert connection.handled == []


async def test_a_message_in_fragments_is_no_longer_than_a_whole_one_may_be(
    frames: Frames, connection: FakeConnection, conversation: FakeConversation
) -> None:
    frames.handle(frame(bytes(BEFORE_CONNECT), BINARY, fin=False))
    frames.handle(frame(b"", CONTINUATION))
    fits = list(conversation.did)
    frames.handle(frame(bytes(BEFORE_CONNECT), BINARY, fin=False))
    to_come = frames.handle(frame(b"x", CONTINUATION))

    assert fits == []
    assert not to_come
    assert conversation.did == [("broken", CloseCode.TOO_LARGE)]
    assert connection.handled == [(bytes(BEFORE_CONNECT), BINARY)]


async def test_an_authenticated_client_may_send_more(
    frames: Frames, connection: FakeConnection, conversation: FakeConversation
) -> None:
    frames.longest = 3 * BEFORE_CONNECT

    frames.handle(frame(bytes(2 * BEFORE_CONNECT), BINARY, fin=False))
    frames.handle(frame(b"x", CONTINUATION))

    assert conversation.did == []
    assert len(connection.handled[0][0]) == 2 * BEFORE_CONNECT + 1


@pytest.mark.parametrize("is_in_fragments", [True, False])
async def test_reserved_bits_break_the_protocol(
    frames: Frames, connection: FakeConnection, conversation: FakeConversation, is_in_fragments: bool
) -> None:
    if is_in_fragments:
        frames.handle(frame(b"x", fin=False))
    to_come = frames.handle(frame(b"y", rsv=True))

    assert to_come is is_in_fragments
    assert conversation.did == [("broken", CloseCode.PROTOCOL)]
    assert connection.handled == []


# -- control frames ------------------------------------------------------------------------------------------------


async def test_control_frames_and_fragments_have_a_rate_of_their_own(
    frames: Frames, conversation: FakeConversation, socket: FakeSocket
) -> None:
    allowed = RATE * FRAMES_PER_MESSAGE
    for _ in range(allowed):
        frames.handle(frame(b"", PONG))
    within = list(conversation.did)
    frames.handle(frame(b"?", PING))

    assert within == []
    assert conversation.did == ["insistent"]
    assert socket.pongs == []


async def test_a_client_that_reads_no_pongs_gets_none(
    frames: Frames, conversation: FakeConversation, socket: FakeSocket, outgoing: Outgoing
) -> None:
    outgoing.is_behind, socket.waiting = True, 100

    frames.handle(frame(b"?", PING))

    assert (socket.pongs, conversation.did) == ([], ["fell behind"])


async def test_the_service_pings(frames: Frames, socket: FakeSocket) -> None:
    frames.ping()

    assert socket.pings == 1


# -- closing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "may_return"), [(1000, False), (1001, False), (1006 + 5, True), (3000, True), (4999, True)]
)
async def test_a_client_that_leaves_ends_its_session_and_one_whose_network_closes_may_return(
    frames: Frames, conversation: FakeConversation, socket: FakeSocket, code: int, may_return: bool
) -> None:
    frames.handle(closing(code, b"bye"))

    assert conversation.did == [("hung up", may_return)]
    assert socket.closed_with == (code, "")
    assert (socket.is_disconnected, socket.is_cut) == (True, False)
    assert (frames.reason, frames.outcome) == ("closed by the client", "client")


async def test_a_close_frame_without_a_code_is_an_ordinary_one(
    frames: Frames, conversation: FakeConversation, socket: FakeSocket
) -> None:
    frames.handle(frame(b"", CLOSE))

    assert conversation.did == [("hung up", False)]
    assert socket.closed_with == (1000, "")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_a_code_that_nobody_may_send_breaks_the_protocol(
    frames: Frames, conversation: FakeConversation, code: int
) -> None:
    frames.handle(closing(code))

    assert conversation.did == [("broken", CloseCode.PROTOCOL)]


async def test_the_service_says_good_bye_after_what_waits(
    frames: Frames, socket: FakeSocket, outgoing: Outgoing
) -> None:
    outgoing.write(b"last words", WriteBatch(Metrics().relay_seconds.labelled()))

    frames.close(CloseCode.RESTARTING, "stopping")
    frames.close(CloseCode.INTERNAL, "a second reason")

    assert socket.received == [b"last words"]
    assert socket.closed_with == (1012, "stopping")
    assert frames.is_closing
    assert (frames.reason, frames.outcome) == ("1012 stopping", "restarting")


async def test_the_answer_to_our_close_frame_changes_neither_reason_nor_code(
    frames: Frames, socket: FakeSocket
) -> None:
    frames.close(CloseCode.RESTARTING, "stopping")
    frames.handle(closing(1000))

    assert socket.closed_with == (1012, "stopping")
    assert frames.reason == "1012 stopping"
    assert socket.is_disconnected


async def test_a_client_that_does_not_answer_is_cut_off(
    frames: Frames, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "CLOSE_TIMEOUT", 0.0)
    frames.close(CloseCode.RESTARTING, "stopping")
    before = socket.is_cut
    for _ in range(3):
        await asyncio.sleep(0)

    assert (before, socket.is_cut) == (False, True)


async def test_a_socket_that_is_closed_is_not_cut_later(
    frames: Frames, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "CLOSE_TIMEOUT", 0.0)
    frames.close(CloseCode.RESTARTING, "stopping")
    frames.closed()
    for _ in range(3):
        await asyncio.sleep(0)

    assert not socket.is_cut


async def test_without_a_close_frame_the_reason_is_the_network_or_what_picows_says(
    frames: Frames, socket: FakeSocket
) -> None:
    lost = frames.reason
    socket.close_handshake = SimpleNamespace(sent=SimpleNamespace(code=1002, reason="unmasked frame"))

    assert (lost, frames.outcome) == ("connection lost", "lost")
    assert frames.reason == "1002 unmasked frame"
    frames.closed()  # without a timer
