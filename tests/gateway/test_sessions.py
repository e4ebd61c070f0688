"""Sessions that outlive their connections: what is kept for a client that is away, for how long, and what ends it."""

from __future__ import annotations

import time

import msgspec
import pytest

from signal_manager.bus.base import Delivery
from signal_manager.errors import (
    InvalidRequestError,
    RateLimitedError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.gateway.sessions import ResumableSession, ResumeSettings, SessionStore, wanted
from signal_manager.model import Caller, ClientId, ClientRecord, Identity, SessionId
from signal_manager.protocol.framing import HEAD, Framing, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    ErrorMessage,
    GoAway,
    Message,
    MessageType,
    PayloadType,
    Register,
    Resume,
    RoomCreate,
    Shape,
    SignalMessage,
    SignalOffer,
)
from signal_manager.protocol.resume import SESSION_OVERHEAD, WireFormat
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received, SessionSettings
from signal_manager.storage.memory import MemoryStorage
from tests.gateway.fakes import FakeConnection
from tests.gateway.harness import ID, Gateway, GatewayClient

A = ClientId("a")
FORMAT = WireFormat(Framing.V1, PayloadType.JSON, Shape.PLAIN)
BUFFER = 10_000
WINDOW = 30.0


def signal(sender: str = "b", data: str = "v=0") -> SignalOffer:
    return SignalOffer(target_client_id="a", sender_client_id=sender, signal_data=data)


class Node:
    """A store of sessions, and sessions on fake connections."""

    def __init__(self, storage: MemoryStorage | None = None, *, total_bytes: int = 1_000_000) -> None:
        settings = ResumeSettings(window=WINDOW, buffer_bytes=BUFFER, total_bytes=total_bytes)
        self.gateway = Gateway(storage=storage, resume=settings)
        self.store: SessionStore = self.gateway.registry.session_store
        self.bus = self.gateway.bus
        self.machine = ConnectionStateMachine(SessionSettings(), now=0.0)

    def session(self, name: str = "a", *, instance_id: str | None = None) -> tuple[ResumableSession, FakeConnection]:
        """Return a new session, and the connection that carries it."""
        connection = FakeConnection(name, instance_id=instance_id)
        caller = Caller(Identity(client_id=ClientId(name)), SessionId(f"session-of-{name}"), "hash")
        connect = Connect(client_id=name, auth_token="t", instance_id=instance_id)
        session = self.store.open(connection, caller, connect, FORMAT)
        self.bus.attach(ClientId(name), connection)
        return session, connection

    def away(self, name: str = "a") -> ResumableSession:
        """Return the session of a client that has just lost its connection."""
        session, connection = self.session(name)
        assert session.suspend(connection, self.machine)
        return session

    @property
    def away_now(self) -> list[str]:
        return [session.client_id for session in self.store.away()]


@pytest.fixture
async def node() -> Node:
    return Node()


def offer(session: ResumableSession, received: int = 0) -> Resume:
    return Resume(session_id=session.session_id, resume_token=session.client_session.token, received=received)


def kept(session: ResumableSession) -> list[Message]:
    reader = GatewayClient(Gateway())
    return [reader.decode(data) for data in session.client_session.journal.unconfirmed]


# -- away ------------------------------------------------------------------------------------------------------------


async def test_a_session_stands_for_a_client_that_is_away(node: Node) -> None:
    session = node.away()

    delivery = node.bus.send(A, signal(), ID)
    node.bus.send(A, GoAway(reason="restarting", reconnect_after=1))

    assert delivery is Delivery.QUEUED
    assert (session.is_away, node.away_now) == (True, ["a"])
    assert [type(message) for message in kept(session)] == [SignalOffer, GoAway]


async def test_a_client_that_returns_takes_the_sessions_place(node: Node) -> None:
    session = node.away()
    node.bus.send(A, signal())
    back = FakeConnection()

    missing = session.resume(back, session.caller, 0)

    assert len(missing) == 1
    assert node.bus.subscribers["a"] is back
    assert (node.away_now, session.address) == ([], back.address)


async def test_a_former_connection_that_still_seems_open_is_told_to_close(node: Node) -> None:
    session, former = node.session()
    back = FakeConnection()

    session.resume(back, session.caller, 0)

    assert former.conversation.did == ["handed over"]
    assert node.bus.subscribers["a"] is back


async def test_a_session_ends_when_its_window_is_over(node: Node) -> None:
    session = node.away()
    now = time.monotonic()

    node.store.sweep(now + WINDOW - 5)
    before = node.away_now
    node.store.sweep(now + WINDOW + 5)

    assert (before, node.away_now) == (["a"], [])
    assert node.bus.send(A, signal()) is Delivery.OFFLINE
    assert not session.is_away


async def test_a_buffer_that_overflows_ends_the_session_since_nothing_may_be_missing(node: Node) -> None:
    node.away()
    event = GoAway(reason="x" * 100, reconnect_after=1)

    deliveries = [node.bus.send(A, event) for _ in range(BUFFER // 150)]

    assert deliveries[0] is Delivery.QUEUED
    assert deliveries[-1] is Delivery.OFFLINE
    assert (node.away_now, dict(node.bus.subscribers)) == ([], {})


async def test_the_largest_session_ends_when_all_together_take_too_much() -> None:
    node = Node(total_bytes=2 * SESSION_OVERHEAD + 12_000)
    large, small = node.away("a"), node.away("b")
    large.write(bytes(8000))
    small.write(bytes(4000))

    node.store.sweep(time.monotonic())

    assert node.away_now == ["b"]
    assert not large.is_away


async def test_a_connection_whose_messages_did_not_fit_ends_its_session(node: Node) -> None:
    session, connection = node.session()
    session.client_session.journal.keep(bytes(BUFFER + 1))

    assert not session.suspend(connection, node.machine)

    assert node.away_now == []


async def test_encoded_messages_go_to_the_connection_or_wait_for_the_client(node: Node) -> None:
    session, connection = node.session()
    session.tell(b"while connected", None)
    session.suspend(connection, node.machine)
    session.tell(b"while away", None)

    assert connection.written == [b"while connected"]
    assert session.client_session.journal.unconfirmed == (b"while away",)


# -- what one sender may leave -----------------------------------------------------------------------------------------


async def test_one_sender_cannot_fill_the_buffer_of_a_client_that_is_away(node: Node) -> None:
    session = node.away()
    with pytest.raises(TooLargeError):
        session.deliver(signal("b", "x" * BUFFER))
    for _ in range(7):
        session.deliver(signal("b", "x" * 900))
    with pytest.raises(RateLimitedError):
        session.deliver(signal("b", "x" * 900))

    assert session.deliver(signal("c", "x" * 900)) is Delivery.QUEUED
    assert session.is_away


async def test_a_client_that_returns_frees_what_its_senders_may_leave(node: Node) -> None:
    session = node.away()
    session.deliver(signal("b", "x" * 5000))
    with pytest.raises(RateLimitedError):
        session.deliver(signal("b", "x" * 5000))
    back = FakeConnection()
    session.resume(back, session.caller, 1)
    session.suspend(back, node.machine)

    assert session.deliver(signal("b", "x" * 5000)) is Delivery.QUEUED


# -- signals of other nodes -------------------------------------------------------------------------------------------


def forwarded(message: SignalOffer | SignalMessage, payload_type: PayloadType) -> tuple[bytes, bytes]:
    """Return a signal as another node forwards it: its head, and its data in its payload type."""
    frame = encode_frame(Framing.V1, MessageType.SIGNAL_OFFER, ID, payload_type, b"")
    return frame[:HEAD], msgspec.json.encode(message.signal_data)


async def test_signals_of_other_nodes_are_kept_with_their_sender(node: Node) -> None:
    session = node.away()

    exceptional = session.relay("b", [forwarded(signal(data="one"), PayloadType.JSON)])

    assert exceptional == [(0, Delivery.QUEUED)]
    (message,) = kept(session)
    assert isinstance(message, SignalOffer)
    assert (message.sender_client_id, message.signal_data) == ("b", "one")


async def test_each_signal_of_another_node_has_an_outcome_of_its_own(node: Node) -> None:
    session = node.away()
    head, _ = forwarded(signal(), PayloadType.JSON)

    exceptional = session.relay("b", [(head, b"not json"), (head, b'"' + b"x" * BUFFER + b'"'), (head, b'"fine"')])

    (first, malformed), (second, too_large), (third, queued) = exceptional
    assert (first, second, third, queued) == (0, 1, 2, Delivery.QUEUED)
    assert isinstance(malformed, InvalidRequestError)
    assert isinstance(too_large, TooLargeError)


# -- requests that are answered late -----------------------------------------------------------------------------------


def pending(session: ResumableSession, message: Message | None = None) -> Received:
    request = Received(message or Register(), ID, PayloadType.JSON, Shape.PLAIN)
    session.pending[id(request)] = request
    return request


async def test_a_reply_goes_to_the_connection_that_the_client_has_by_now(node: Node) -> None:
    session, first = node.session()
    request = pending(session)
    second = FakeConnection()
    session.resume(second, session.caller, 0)

    assert session.answered(request, b"reply", exclusive=True)

    assert second.conversation.did == [("answered", request, b"reply", True)]
    assert first.conversation.did == ["handed over"]


async def test_a_reply_waits_for_a_client_that_is_away(node: Node) -> None:
    session = node.away()
    session.is_busy = True
    request = pending(session)

    assert session.answered(request, b"reply", exclusive=True)

    assert session.client_session.journal.unconfirmed == (b"reply",)
    assert (session.is_busy, session.pending) == (False, {})


async def test_a_reply_for_a_session_that_has_ended_is_told_so(node: Node) -> None:
    session, connection = node.session()
    request = pending(session)
    session.ended()

    assert not session.answered(request, b"reply", exclusive=False)
    assert not session.answered(request, b"again", exclusive=False)
    assert connection.written == []


async def test_a_reply_that_does_not_fit_ends_the_session(node: Node) -> None:
    session = node.away()

    assert not session.answered(pending(session), bytes(BUFFER + 1), exclusive=False)
    assert node.away_now == []


# -- saved, and continued by another start -----------------------------------------------------------------------------


async def test_a_frozen_session_answers_its_requests_and_is_continued_by_the_next_start() -> None:
    storage = MemoryStorage()
    node = Node(storage)
    session = node.away()
    pending(session)

    frozen = node.store.freeze()
    await node.store.save(frozen)
    gone = (node.away_now, dict(node.bus.subscribers))
    next_start = Node(storage)
    reclaimed = await next_start.store.reclaim()

    assert gone == ([], {})
    assert reclaimed == 1
    (continued,) = next_start.store.away()
    (refusal,) = kept(continued)
    assert isinstance(refusal, ErrorMessage)
    assert (refusal.error_code, refusal.retryable) == (503, True)
    assert next_start.bus.subscribers["a"] is continued


async def test_a_reply_to_a_request_that_the_freeze_has_answered_is_dropped(node: Node) -> None:
    session, _ = node.session()
    request = pending(session)
    session.freeze()

    assert session.answered(request, b"late", exclusive=False)
    assert len(session.client_session.journal.unconfirmed) == 1


async def test_a_session_with_missing_messages_is_not_saved(node: Node) -> None:
    session, _ = node.session()
    session.client_session.journal.keep(bytes(BUFFER + 1))

    assert node.store.freeze() == []


async def test_another_node_takes_a_session_out_of_storage_for_its_client_alone() -> None:
    storage = MemoryStorage()
    node = Node(storage)
    session = node.away()
    right = offer(session)
    await node.store.save(node.store.freeze())
    another = Node(storage)

    assert await another.store.find(right, ClientId("thief")) is None
    assert await another.store.find(msgspec.structs.replace(right, session_id="unknown"), A) is None
    found = await another.store.find(right, A)
    again = await another.store.find(right, A)

    assert found is not None
    assert found is again
    assert another.store.judge(found, right, A, FORMAT)


async def test_a_client_that_is_connected_is_not_disturbed_by_its_saved_session() -> None:
    storage = MemoryStorage()
    first = Node(storage)
    first.away()
    await first.store.save(first.store.freeze())
    node = Node(storage)
    present = FakeConnection()
    node.bus.attach(A, present)

    await node.store.reclaim()

    assert node.bus.subscribers["a"] is present
    assert node.away_now == ["a"]


async def test_the_record_of_a_saved_session_is_offline_until_its_client_is_expected_again() -> None:
    storage = MemoryStorage()
    node = Node(storage)
    session = node.away()
    await node.gateway.registrations.register(session.caller, capabilities=(), metadata={})

    await node.store.save(node.store.freeze())
    while_stopped = await storage.get_client(A)
    await Node(storage).store.reclaim()
    after = await storage.get_client(A)

    assert while_stopped is not None
    assert after is not None
    assert (while_stopped.status, after.status) == ("offline", "online")


@pytest.mark.parametrize("step", ["save", "adopt"])
async def test_a_record_that_cannot_be_written_loses_no_session(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> ClientRecord:
        raise UnavailableError("the store does not answer")

    storage = MemoryStorage()
    node, next_start = Node(storage), Node(storage)
    session = node.away()
    await node.gateway.registrations.register(session.caller, capabilities=(), metadata={})
    if step == "save":
        monkeypatch.setattr(storage, "change_client", away)
    await node.store.save(node.store.freeze())
    monkeypatch.setattr(storage, "change_client", away)

    assert await next_start.store.reclaim() == 1


# -- handed over to another node ---------------------------------------------------------------------------------------


async def test_a_session_goes_to_the_node_that_its_client_is_at_now(node: Node) -> None:
    session, connection = node.session()
    session.client_session.journal.keep(b"missed")
    another = Node()

    state = node.store.hand_over(A, wanted(offer(session), FORMAT))
    assert state is not None
    received = another.store.receive(A, state)

    assert connection.conversation.did == ["handed over"]
    assert dict(node.bus.subscribers) == {}
    assert received is not None
    assert received.resume(FakeConnection(), received.caller, 0) == (b"missed",)


@pytest.mark.parametrize("wants", [b"", b"\xc1", b"garbage"])
async def test_a_claim_that_cannot_be_read_takes_no_session(node: Node, wants: bytes) -> None:
    session = node.away()

    assert node.store.hand_over(A, wants) is None
    assert session.is_away


@pytest.mark.parametrize(
    ("change", "wire_format"),
    [
        ({"session_id": "unknown"}, FORMAT),
        ({"resume_token": "guessed"}, FORMAT),
        ({"received": 9}, FORMAT),
        ({}, FORMAT._replace(framing=Framing.V2)),
    ],
)
async def test_a_session_that_cannot_continue_elsewhere_stays(
    node: Node, change: dict[str, object], wire_format: WireFormat
) -> None:
    session = node.away()

    wants = wanted(msgspec.structs.replace(offer(session), **change), wire_format)

    assert node.store.hand_over(A, wants) is None
    assert node.away_now == ["a"]


async def test_a_state_of_another_node_that_cannot_be_read_is_no_session(node: Node) -> None:
    assert node.store.receive(A, b"garbage") is None


# -- other ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_session_that_cannot_be_resumed_by_its_own_client_ends(node: Node, is_connected: bool) -> None:
    session, connection = node.session()
    if not is_connected:
        session.suspend(connection, node.machine)

    assert not node.store.judge(session, offer(session, received=9), A, FORMAT)

    assert connection.did == ([("replaced", True)] if is_connected else [])
    assert node.away_now == []


async def test_a_client_that_lost_to_a_newer_device_leaves_no_session_behind(node: Node) -> None:
    session = node.away()

    node.store.give_up(session, offer(session), ClientId("thief"))
    after_thief = node.away_now
    node.store.give_up(session, offer(session), A)
    node.store.give_up(session, offer(session), A)

    assert (after_thief, node.away_now) == (["a"], [])


async def test_a_device_that_lost_while_it_seemed_connected_is_replaced(node: Node) -> None:
    session, connection = node.session()

    node.store.give_up(session, offer(session), A)

    assert connection.did == [("replaced", False)]


async def test_an_operator_ends_a_session_away_or_connected(node: Node) -> None:
    away = node.away("a")
    connected, connection = node.session("b")

    away.evict()
    connected.evict()

    assert node.away_now == []
    assert connection.did == ["evict"]


async def test_a_newer_connection_of_the_client_ends_the_session_that_is_away(node: Node) -> None:
    node.away()

    node.bus.attach(A, FakeConnection())

    assert node.away_now == []


async def test_the_members_of_a_room_see_that_a_client_is_away_and_back() -> None:
    gateway = Gateway(has_rooms=True)
    client = await gateway.client("a", resumable=True)
    client.send(RoomCreate(room_id="r", role="receiver"))
    await gateway.settled()
    offered = client.offer

    async def is_away() -> bool:
        assert gateway.rooms is not None
        await gateway.rooms.idle()
        room = await gateway.storage.list_rooms(is_active=True)
        return room.items[0].participants[0].away

    client.lose()
    while_away = await is_away()
    await gateway.connect().sign_in("a", resumable=True, resume=offered)
    back = await is_away()

    assert (while_away, back) == (True, False)
