"""What one client has sent and nobody has handled: in order, and within bounds."""

from __future__ import annotations

import pytest

from signal_manager.gateway.inbound import Inbound
from signal_manager.gateway.limits import Limits
from signal_manager.gateway.occupancy import Occupancy
from signal_manager.protocol.close_codes import CloseCode
from tests.gateway.fakes import BINARY, TEXT, FakeConnection, FakeConversation, FakeSocket

BUDGET = 1_000_000
STRANGERS_BUFFER = 28_672


@pytest.fixture
async def occupancy() -> Occupancy:
    return Occupancy(Limits(half_read_bytes=BUDGET))


@pytest.fixture
def inbound(
    connection: FakeConnection, conversation: FakeConversation, occupancy: Occupancy, socket: FakeSocket
) -> Inbound:
    inbound = Inbound(connection, conversation, occupancy)
    inbound.open(socket.picows)
    return inbound


async def test_messages_pass_while_nothing_is_awaited(
    inbound: Inbound, connection: FakeConnection, socket: FakeSocket
) -> None:
    inbound.accept(b"one", BINARY)
    inbound.accept(b"two", TEXT)

    assert connection.handled == [(b"one", BINARY), (b"two", TEXT)]
    assert not socket.is_paused


async def test_messages_wait_for_an_exclusive_request_and_the_socket_is_not_read(
    inbound: Inbound, connection: FakeConnection, socket: FakeSocket
) -> None:
    inbound.hold()
    paused_before = socket.is_paused
    inbound.accept(b"one", BINARY)
    inbound.accept(b"two", BINARY)
    waiting, paused = list(connection.handled), socket.is_paused
    inbound.release()

    assert (paused_before, waiting, paused) == (False, [], True)
    assert connection.handled == [(b"one", BINARY), (b"two", BINARY)]
    assert not socket.is_paused


async def test_the_next_exclusive_request_holds_back_what_comes_behind_it(
    inbound: Inbound, connection: FakeConnection, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(data: bytes, frame_type: object) -> None:
        handled.append(data)
        if data == b"exclusive":
            inbound.hold()

    handled: list[bytes] = []
    monkeypatch.setattr(connection, "handle", handle)
    inbound.hold()
    for data in (b"one", b"exclusive", b"two", b"three"):
        inbound.accept(data, BINARY)

    inbound.release()
    first = list(handled)
    still_paused = socket.is_paused
    inbound.release()

    assert (first, still_paused) == ([b"one", b"exclusive"], True)
    assert handled == [b"one", b"exclusive", b"two", b"three"]
    assert not socket.is_paused


async def test_the_reading_of_a_socket_that_has_closed_is_not_resumed(inbound: Inbound, socket: FakeSocket) -> None:
    inbound.hold()
    inbound.accept(b"one", BINARY)
    socket.disconnect()

    inbound.release()

    assert socket.is_paused


async def test_a_release_without_a_hold_does_nothing(inbound: Inbound, connection: FakeConnection) -> None:
    inbound.release()

    assert (connection.handled, inbound.held) == ([], None)


@pytest.mark.parametrize(
    ("size", "received", "is_too_much"),
    [
        (STRANGERS_BUFFER + 1, 0, True),
        (STRANGERS_BUFFER + 1, 1, True),
        (STRANGERS_BUFFER, 0, True),
        (STRANGERS_BUFFER, 1, False),  # a smaller buffer, which is empty after a message
        (STRANGERS_BUFFER - 1, 0, False),
    ],
)
async def test_a_stranger_may_fill_a_small_buffer_only(
    occupancy: Occupancy, socket: FakeSocket, size: int, received: int, is_too_much: bool
) -> None:
    connection, conversation = FakeConnection(), FakeConversation()
    inbound = Inbound(connection, conversation, occupancy)
    inbound.open(socket.picows)
    conversation.is_established = False
    connection.received = received

    inbound.buffered(size)

    assert conversation.did == ([("broken", CloseCode.TOO_LARGE)] if is_too_much else [])
    assert socket.is_paused is is_too_much


async def test_a_stranger_whose_credentials_are_checked_is_only_not_read(
    inbound: Inbound, conversation: FakeConversation, socket: FakeSocket
) -> None:
    conversation.is_established = False
    inbound.hold()

    inbound.buffered(STRANGERS_BUFFER + 1)
    paused = socket.is_paused
    inbound.release()

    assert (conversation.did, paused, socket.is_paused) == ([], True, False)


async def test_incomplete_messages_share_one_budget_and_the_largest_holder_closes(
    inbound: Inbound, conversation: FakeConversation, occupancy: Occupancy, socket: FakeSocket
) -> None:
    small_conversation = FakeConversation()
    small = Inbound(FakeConnection("b"), small_conversation, occupancy)
    small.open(FakeSocket().picows)

    inbound.buffered(500_000)
    inbound.fragmented(200_000)
    small.fragmented(300_000)
    within = list(conversation.did)
    small.fragmented(300_001)

    assert within == []
    assert conversation.did == [("broken", CloseCode.FULL)]
    assert small_conversation.did == []
    assert socket.is_paused


async def test_a_closed_connection_and_a_finished_message_hold_nothing(
    inbound: Inbound, conversation: FakeConversation, occupancy: Occupancy
) -> None:
    another = Inbound(FakeConnection("b"), conversation, occupancy)

    inbound.fragmented(BUDGET)
    inbound.fragmented(0)
    another.fragmented(BUDGET)
    another.closed()
    inbound.fragmented(BUDGET)

    assert conversation.did == []


async def test_buffers_and_fragments_of_an_ordinary_size_are_not_counted(
    inbound: Inbound, conversation: FakeConversation, occupancy: Occupancy
) -> None:
    for _ in range(100):
        inbound.buffered(131_072)
        inbound.fragmented(65_536)
    Inbound(FakeConnection("b"), conversation, occupancy).fragmented(BUDGET)

    assert conversation.did == []
