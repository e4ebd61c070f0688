"""The handler that answers each request, and the outcome of signals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from signal_manager.bus.base import Delivery, Outcome
from signal_manager.bus.local import LocalBus
from signal_manager.errors import (
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.gateway.dispatcher import Dispatcher, acknowledgement
from signal_manager.gateway.ports import RelayTarget
from signal_manager.model import Caller, ClientId, Grants, Identity, SessionId, hash_token, new_session_id, taken_up_at
from signal_manager.observe.tracing import Tracing
from signal_manager.protocol.messages import (
    Connect,
    Message,
    Register,
    RegisterAck,
    Resume,
    RoomCreate,
    RoomCreateAck,
    RoomJoin,
    RoomState,
    SignalAck,
    SignalMessage,
    SignalOffer,
    Unregister,
    UnregisterAck,
)
from signal_manager.records.registrations import Registrations
from signal_manager.storage.memory import MemoryStorage
from tests.gateway.fakes import FakeAuthenticator, FakeConnection
from tests.gateway.harness import ID, NODE, Gateway

A, B = ClientId("a"), ClientId("b")
Told = list[SignalAck | SignalManagerError | None]


def ignore(told: SignalAck | SignalManagerError | None) -> None:
    pass


def caller(name: str = "a", **grants: Any) -> Caller:
    return Caller(
        Identity(client_id=ClientId(name), grants=Grants(**grants)), SessionId(f"session-of-{name}"), hash_token("t")
    )


class SlowBus(LocalBus[RelayTarget]):
    """A bus whose clients in `elsewhere` are on other nodes, and whose sends to clients in `errors` fail."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: set[str] = set()
        self.errors: dict[str, SignalManagerError] = {}
        self.outcomes: list[Outcome] = []
        self.sent: list[tuple[str, Message]] = []

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        self.sent.append((target, message))
        if target in self.errors:
            raise self.errors[target]
        if target in self.elsewhere:
            if outcome is not None:
                self.outcomes.append(outcome)
            return Delivery.PENDING
        return super().send(target, message, message_id, outcome=outcome)


@pytest.fixture
def bus() -> SlowBus:
    return SlowBus()


@pytest.fixture
async def gateway(bus: SlowBus) -> AsyncIterator[Gateway]:
    gateway = Gateway(bus=bus, has_rooms=True)
    assert gateway.rooms is not None
    async with gateway.rooms:
        yield gateway


@pytest.fixture
def dispatcher(gateway: Gateway) -> Dispatcher:
    return gateway.dispatcher


# -- who a client is -------------------------------------------------------------------------------------------------


async def test_each_connect_opens_a_session_of_its_own(dispatcher: Dispatcher) -> None:
    first, second = [await dispatcher.admit(Connect(client_id="a", auth_token="t")) for _ in range(2)]

    assert first.session_id != second.session_id
    assert (first.identity.client_id, first.token_hash) == ("a", hash_token("t"))


async def test_a_device_that_comes_back_is_as_old_as_its_first_session_and_never_from_the_future(
    dispatcher: Dispatcher,
) -> None:
    async def since(session_id: str) -> int:
        resume = Resume(session_id=session_id, resume_token="", received=0)
        admitted = await dispatcher.admit(Connect(client_id="a", auth_token="t", resume=resume))
        return taken_up_at(admitted.session_id)

    now = taken_up_at((await dispatcher.admit(Connect(client_id="a", auth_token="t"))).session_id)

    assert await since(new_session_id(now - 5000)) == now - 5000
    assert await since("made up") == 0
    assert now <= await since(new_session_id(now + 10**9)) < now + 60_000


async def test_clients_of_other_machines_are_asked_for_more() -> None:
    near, far = FakeAuthenticator(), FakeAuthenticator()
    far.error = AuthenticationError("the credentials are good on this machine alone")
    storage, bus = MemoryStorage(), LocalBus[RelayTarget]()
    dispatcher = Dispatcher(
        authenticator=near, far=far, bus=bus, registrations=Registrations(storage=storage, node_id=NODE)
    )

    admitted = await dispatcher.admit(Connect(client_id="a", auth_token="t"), is_near=True)
    await dispatcher.renew(admitted, "t2", is_near=True)
    with pytest.raises(AuthenticationError):
        await dispatcher.admit(Connect(client_id="a", auth_token="t"), is_near=False)
    with pytest.raises(AuthenticationError):
        await dispatcher.renew(admitted, "t2", is_near=False)


async def test_another_token_changes_what_a_client_may_do_and_not_its_session(gateway: Gateway) -> None:
    gateway.authenticator.grants["a"] = Grants(rooms=("r",))

    renewed = await gateway.dispatcher.renew(caller(), "t2")

    assert (renewed.session_id, renewed.identity.grants.rooms) == ("session-of-a", ("r",))
    assert renewed.token_hash == hash_token("t2")


# -- requests --------------------------------------------------------------------------------------------------------


async def test_a_client_registers_and_unregisters(dispatcher: Dispatcher, gateway: Gateway) -> None:
    registered = await dispatcher.answer(caller(), Register(capabilities=["chat"], metadata={"name": "Ada"}))
    record = await gateway.storage.get_client(A)
    unregistered = await dispatcher.answer(caller(), Unregister())

    assert isinstance(registered, RegisterAck)
    assert (registered.status, registered.client_id, registered.session_id) == (200, "a", "session-of-a")
    assert record is not None
    assert (record.capabilities, record.metadata) == (("chat",), {"name": "Ada"})
    assert isinstance(unregistered, UnregisterAck)
    assert await gateway.storage.get_client(A) is None


async def test_metadata_has_a_bound(dispatcher: Dispatcher) -> None:
    await dispatcher.answer(caller(), Register(metadata={"x": "y" * 16_300}))
    with pytest.raises(TooLargeError, match="expected at most 16384"):
        await dispatcher.answer(caller(), Register(metadata={"x": "y" * 16_384}))


async def test_who_unregisters_leaves_its_room(dispatcher: Dispatcher) -> None:
    await dispatcher.answer(caller(), Register())
    await dispatcher.answer(caller(), RoomCreate(room_id="r", role="receiver"))
    was_in = dispatcher.is_in_room(SessionId("session-of-a"))

    await dispatcher.answer(caller(), Unregister())

    assert (was_in, dispatcher.is_in_room(SessionId("session-of-a"))) == (True, False)


async def test_requests_about_rooms_go_to_the_rooms(dispatcher: Dispatcher) -> None:
    created = await dispatcher.answer(caller(), RoomCreate(room_id="r", role="receiver"))

    assert isinstance(created, RoomCreateAck)
    with pytest.raises(NotFoundError):
        await dispatcher.answer(caller("b"), RoomState(room_id="r"))


async def test_a_service_without_rooms_says_so() -> None:
    dispatcher = Gateway().dispatcher

    with pytest.raises(InvalidRequestError, match="no rooms"):
        await dispatcher.answer(caller(), RoomCreate(room_id="r", role="receiver"))
    with pytest.raises(NotFoundError, match="not in room r"):
        dispatcher.relay(caller(), SignalMessage(room_id="r", signal_data=1), ID, later=ignore)
    await dispatcher.restart_rooms()
    dispatcher.left(caller(), "left")
    dispatcher.mark(SessionId("s"), is_away=True)
    assert not dispatcher.is_in_room(SessionId("s"))


async def test_a_request_with_a_token_of_its_own_is_answered_by_that_token(gateway: Gateway) -> None:
    gateway.authenticator.grants["a"] = Grants(rooms=("r",))

    await gateway.dispatcher.answer(caller(rooms=()), RoomCreate(room_id="r", role="receiver", auth_token="t2"))
    with pytest.raises(AuthenticationError):
        await gateway.dispatcher.answer(caller(), Register(auth_token="wrong"))

    assert gateway.authenticator.asked == [("a", "t2"), ("a", "wrong")]


async def test_each_request_has_a_span_with_its_client_and_room() -> None:
    spans: list[tuple[str, dict[str, str | None]]] = []

    class Spans:
        @contextmanager
        def request(self, name: str, **attributes: str | None) -> Any:
            spans.append((name, attributes))
            yield

    storage = MemoryStorage()
    dispatcher = Dispatcher(
        authenticator=FakeAuthenticator(),
        bus=LocalBus[RelayTarget](),
        registrations=Registrations(storage=storage, node_id=NODE),
        tracing=cast("Tracing", Spans()),
    )

    await dispatcher.answer(caller(), Register(room_id="r"))

    assert spans == [("REGISTER", {"client_id": "a", "session_id": "session-of-a", "room_id": "r"})]


# -- records of sessions ---------------------------------------------------------------------------------------------


async def test_the_record_of_a_session_that_is_saved_or_moves_is_known(
    dispatcher: Dispatcher, gateway: Gateway
) -> None:
    assert not await dispatcher.release(caller())
    assert not dispatcher.hand_over(caller())
    await dispatcher.answer(caller(), Register())

    assert await dispatcher.release(caller())
    released = await gateway.storage.get_client(A)
    await dispatcher.adopt(caller())
    adopted = await gateway.storage.get_client(A)
    assert dispatcher.hand_over(caller())
    await dispatcher.depart(caller())

    assert released is not None
    assert adopted is not None
    assert (released.status, adopted.status) == ("offline", "online")
    moved = await gateway.storage.get_client(A)
    assert moved is not None
    assert moved.status == "online"  # the other node's from now on


async def test_a_session_that_has_ended_is_out_of_its_room_and_offline(
    dispatcher: Dispatcher, gateway: Gateway
) -> None:
    await dispatcher.answer(caller(), Register())
    await dispatcher.answer(caller(), RoomCreate(room_id="r", role="receiver"))

    dispatcher.left(caller(), "connection lost")
    await dispatcher.depart(caller())

    assert gateway.rooms is not None
    await gateway.rooms.idle()
    record = await gateway.storage.get_client(A)
    assert record is not None
    assert record.status == "offline"
    assert not dispatcher.is_in_room(SessionId("session-of-a"))


async def test_a_stop_takes_everybody_out_of_the_rooms(dispatcher: Dispatcher) -> None:
    await dispatcher.answer(caller(), RoomCreate(room_id="r", role="receiver"))

    await dispatcher.restart_rooms()

    assert not dispatcher.is_in_room(SessionId("session-of-a"))


# -- signals to one client ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [True, False])
async def test_a_signal_arrives_with_its_sender_and_is_acknowledged_when_asked(
    dispatcher: Dispatcher, bus: SlowBus, ack: bool
) -> None:
    receiver = FakeConnection("b")
    bus.attach(B, receiver)
    signal = SignalOffer(target_client_id="b", signal_data="v=0", sender_client_id="c", ack=ack)

    answer = dispatcher.relay(caller(), signal, ID, later=ignore)

    assert receiver.delivered == [SignalOffer(target_client_id="b", signal_data="v=0", sender_client_id="a")]
    assert answer == (SignalAck(status="delivered", target_client_id="b") if ack else None)


async def test_a_signal_to_nobody_is_an_error_even_without_an_acknowledgement(dispatcher: Dispatcher) -> None:
    with pytest.raises(NotFoundError, match="client b is not connected") as raised:
        dispatcher.relay(caller(), SignalOffer(target_client_id="b", signal_data=1), ID, later=ignore)

    assert raised.value.details == {"target_client_id": "b"}


@pytest.mark.parametrize(
    ("result", "ack", "told"),
    [
        (Delivery.DELIVERED, True, SignalAck(status="delivered", target_client_id="b")),
        (Delivery.QUEUED, True, SignalAck(status="queued", target_client_id="b")),
        (Delivery.DELIVERED, False, None),
        (Delivery.OFFLINE, False, NotFoundError("client b is not connected")),
        (UnavailableError("cut off"), False, UnavailableError("cut off")),
    ],
)
async def test_the_outcome_on_another_node_is_told_later(
    dispatcher: Dispatcher, bus: SlowBus, result: Delivery | SignalManagerError, ack: bool, told: object
) -> None:
    bus.elsewhere.add("b")
    later: Told = []

    now = dispatcher.relay(caller(), SignalOffer(target_client_id="b", signal_data=1, ack=ack), ID, later=later.append)
    bus.outcomes.pop()(result)

    assert now is Delivery.PENDING
    if isinstance(told, SignalManagerError):
        assert [(type(each), str(each)) for each in later] == [(type(told), str(told))]
    else:
        assert later == [told]


def test_the_answer_to_a_sender_follows_from_the_delivery() -> None:
    assert acknowledgement("b", Delivery.QUEUED, wants_ack=True) == SignalAck(status="queued", target_client_id="b")
    assert acknowledgement("b", Delivery.QUEUED, wants_ack=False) is None
    assert isinstance(acknowledgement("b", Delivery.OFFLINE, wants_ack=False), NotFoundError)


# -- signals to a room -------------------------------------------------------------------------------------------------


@pytest.fixture
async def room(dispatcher: Dispatcher, bus: SlowBus) -> dict[str, FakeConnection]:
    """A room with "a", "b" and "c"; the connections of the others."""
    members = {}
    await dispatcher.answer(caller("a"), RoomCreate(room_id="r", role="receiver"))
    for name in ("b", "c"):
        members[name] = FakeConnection(name)
        bus.attach(ClientId(name), members[name])
        await dispatcher.answer(caller(name), RoomJoin(room_id="r", role="receiver"))
    bus.sent.clear()
    return members


def hello(*, ack: bool = True) -> SignalMessage:
    return SignalMessage(room_id="r", signal_data="hello", ack=ack)


async def test_a_message_to_a_room_reaches_all_others_in_it(
    dispatcher: Dispatcher, bus: SlowBus, room: dict[str, FakeConnection]
) -> None:
    answer = dispatcher.relay(caller(), hello(), ID, later=ignore)

    assert answer == SignalAck(status="delivered")
    assert sorted(target for target, _ in bus.sent) == ["b", "c"]
    assert {message for _, message in bus.sent} == {
        SignalMessage(room_id="r", signal_data="hello", sender_client_id="a")
    }


async def test_a_message_to_a_room_leaves_out_whom_the_sender_may_not_signal(
    dispatcher: Dispatcher, bus: SlowBus, room: dict[str, FakeConnection]
) -> None:
    dispatcher.relay(caller("a", signal_to=("c",)), hello(), ID, later=ignore)

    assert [target for target, _ in bus.sent] == ["c"]


@pytest.mark.parametrize(
    "error", [TooLargeError("x"), InvalidRequestError("x"), RateLimitedError("x"), UnavailableError("x")]
)
async def test_one_member_that_cannot_receive_a_message_keeps_it_from_no_other(
    dispatcher: Dispatcher, bus: SlowBus, room: dict[str, FakeConnection], error: SignalManagerError
) -> None:
    bus.errors["b"] = error

    answer = dispatcher.relay(caller(), hello(), ID, later=ignore)

    assert answer == SignalAck(status="delivered")
    assert room["c"].delivered[-1] == SignalMessage(room_id="r", signal_data="hello", sender_client_id="a")


async def test_a_message_that_reaches_nobody_says_so(
    dispatcher: Dispatcher, bus: SlowBus, room: dict[str, FakeConnection]
) -> None:
    bus.errors |= {"b": UnavailableError("x"), "c": UnavailableError("x")}

    assert dispatcher.relay(caller(), hello(), ID, later=ignore) == SignalAck(status="offline")
    assert dispatcher.relay(caller(), hello(ack=False), ID, later=ignore) is None


async def test_a_message_to_members_on_other_nodes_is_acknowledged_once_with_the_best_delivery(
    dispatcher: Dispatcher, bus: SlowBus, room: dict[str, FakeConnection]
) -> None:
    bus.elsewhere |= {"b", "c"}
    later: Told = []

    now = dispatcher.relay(caller(), hello(), ID, later=later.append)
    first, second = bus.outcomes
    first(Delivery.QUEUED)
    before = list(later)
    second(UnavailableError("cut off"))

    assert (now, before) == (Delivery.PENDING, [])
    assert later == [SignalAck(status="queued")]


async def test_only_members_send_to_a_room(dispatcher: Dispatcher, room: dict[str, FakeConnection]) -> None:
    with pytest.raises(NotFoundError):
        dispatcher.relay(caller("stranger"), hello(), ID, later=ignore)


async def test_a_record_of_another_token_is_a_conflict(dispatcher: Dispatcher) -> None:
    await dispatcher.answer(caller(), Register())
    another = Caller(Identity(client_id=A), SessionId("another"), hash_token("another"))

    with pytest.raises(ConflictError):
        await dispatcher.answer(another, Register())
