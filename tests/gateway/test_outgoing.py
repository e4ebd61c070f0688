"""What is written to one client: at once or in batches, kept in the journal, and never without a bound."""

from __future__ import annotations

import pytest

from signal_manager.gateway.outgoing import Outgoing
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.observe.counts import Counter
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import Journal
from tests.gateway.fakes import FakeConversation, FakeSocket

LIMIT = 1000


@pytest.fixture
def sent_bytes() -> Counter:
    return Counter()


@pytest.fixture
def outgoing(conversation: FakeConversation, socket: FakeSocket, sent_bytes: Counter) -> Outgoing:
    outgoing = Outgoing(conversation, Framing.V1, limit=LIMIT, bytes_sent=sent_bytes)
    outgoing.open(socket.picows, write_buffer=512)
    return outgoing


@pytest.fixture
def batch() -> WriteBatch:
    return WriteBatch(Metrics().relay_seconds.labelled())


def test_a_message_without_a_batch_leaves_at_once(outgoing: Outgoing, socket: FakeSocket, sent_bytes: Counter) -> None:
    outgoing.write(b"one")

    assert socket.received == [b"one"]
    assert (outgoing.sent, sent_bytes.value, socket.write_buffer) == (1, 3, 512)


def test_messages_of_a_batch_leave_together_and_in_order(
    outgoing: Outgoing, socket: FakeSocket, batch: WriteBatch, sent_bytes: Counter
) -> None:
    for data in (b"one", b"two", bytes(70_000)[:200]):
        outgoing.write(data, batch)
    before = list(socket.received)
    batch.flush()

    assert before == []
    assert socket.received == [b"one", b"two", bytes(200)]
    assert (socket.writes, outgoing.sent, sent_bytes.value) == (1, 3, 206)


def test_a_batch_does_not_collect_more_than_a_write_takes(
    outgoing: Outgoing, socket: FakeSocket, batch: WriteBatch
) -> None:
    for _ in range(3):
        outgoing.write(bytes(40_000), batch)

    assert len(socket.received) == 2
    batch.flush()
    assert len(socket.received) == 3


def test_a_message_outside_the_batch_does_not_overtake_it(
    outgoing: Outgoing, socket: FakeSocket, batch: WriteBatch
) -> None:
    outgoing.write(b"first", batch)
    outgoing.write(b"second")
    outgoing.write(b"a heartbeat", batch, counts=False)

    assert socket.received == [b"first", b"second", b"a heartbeat"]


def test_the_journal_keeps_what_counts_in_the_order_of_the_writes(outgoing: Outgoing, batch: WriteBatch) -> None:
    journal = outgoing.journal = Journal(limit=10_000)

    outgoing.write(b"one", batch)
    outgoing.write(b"two", batch)
    outgoing.write(b"heartbeat", counts=False)
    outgoing.write(b"three")

    assert journal.unconfirmed == (b"one", b"two", b"three")


def test_a_client_that_is_behind_may_be_owed_so_much_and_no_more(
    outgoing: Outgoing, conversation: FakeConversation, socket: FakeSocket, batch: WriteBatch
) -> None:
    outgoing.is_behind = True
    socket.waiting = LIMIT - 10

    outgoing.write(bytes(10))
    fits = list(conversation.did)
    outgoing.write(bytes(11))
    outgoing.write(bytes(11), batch)
    batch.flush()

    assert fits == []
    assert conversation.did == ["fell behind", "fell behind"]
    assert socket.received == [bytes(10)]


def test_how_much_waits_does_not_matter_until_the_transport_says_that_the_client_is_behind(
    outgoing: Outgoing, conversation: FakeConversation, socket: FakeSocket
) -> None:
    socket.waiting = 10 * LIMIT

    outgoing.write(b"one")

    assert outgoing.may_write(1)
    assert (socket.received, conversation.did) == ([b"one"], [])


def test_a_pong_for_a_client_that_is_behind_counts_too(
    outgoing: Outgoing, conversation: FakeConversation, socket: FakeSocket
) -> None:
    outgoing.is_behind = True
    socket.waiting = LIMIT

    assert not outgoing.may_write(1)
    assert conversation.did == ["fell behind"]


@pytest.mark.parametrize("is_closing", [True, False])
def test_what_is_queued_for_a_socket_that_closes_is_kept_and_not_written(
    outgoing: Outgoing, socket: FakeSocket, batch: WriteBatch, is_closing: bool
) -> None:
    journal = outgoing.journal = Journal(limit=10_000)
    outgoing.write(b"one", batch)
    if is_closing:
        socket.send_close(1012, "stopping")
    else:
        socket.disconnect()
    outgoing.flush()

    assert socket.received == []
    assert journal.unconfirmed == (b"one",)


def test_before_the_socket_is_known_nothing_waits_and_nothing_is_lost_from_the_journal(
    conversation: FakeConversation, batch: WriteBatch
) -> None:
    outgoing = Outgoing(conversation, Framing.JSON, limit=LIMIT, bytes_sent=Counter())
    journal = outgoing.journal = Journal(limit=10_000)

    outgoing.write(b"one", batch)
    outgoing.write(b"two")

    assert (outgoing.waiting_bytes, journal.unconfirmed) == (0, (b"one", b"two"))
