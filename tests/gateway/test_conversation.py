"""The decoded messages of one connection: what each is answered with, and what remains when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from signal_manager.bus.base import Delivery
from signal_manager.errors import NotFoundError
from signal_manager.gateway.limits import PENDING_REQUESTS
from signal_manager.model import ClientId, Grants
from signal_manager.protocol.framing import HEAD, Framing, decode_frame
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    Disconnect,
    ErrorMessage,
    GoAway,
    Heartbeat,
    HeartbeatAck,
    IceServers,
    Message,
    PayloadType,
    Register,
    RegisterAck,
    RoomCreate,
    RoomCreateAck,
    RoomEvent,
    RoomJoin,
    RoomState,
    RoomStateAck,
    Shape,
    SignalAck,
    SignalMessage,
    SignalOffer,
    TokenRenew,
    TokenRenewAck,
)
from signal_manager.protocol.state_machine import Received, SessionSettings
from tests.gateway.fakes import CLOSE, frame
from tests.gateway.harness import ID, Gateway, GatewayClient


@pytest.fixture
async def roomy() -> AsyncIterator[Gateway]:
    """A gateway with rooms."""
    gateway = Gateway(has_rooms=True)
    assert gateway.rooms is not None
    async with gateway.rooms:
        yield gateway


async def ask(client: GatewayClient, request: Message) -> Message:
    """Send a request and return its reply."""
    client.send(request)
    await client.gateway.settled()
    return client.messages[-1]


def code(message: Message) -> int:
    assert isinstance(message, ErrorMessage), message
    return message.error_code


# -- before CONNECT ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [Register(), SignalOffer(target_client_id="b", signal_data=1), Heartbeat()])
async def test_a_stranger_is_told_to_connect_first(gateway: Gateway, message: Message) -> None:
    client = gateway.connect()

    client.send(message)

    assert code(client.messages[-1]) == 401
    assert decode_frame(Framing.V1, client.socket.received[-1]).message_id == ID


async def test_a_stranger_is_answered_in_the_shape_that_it_writes(gateway: Gateway) -> None:
    client = gateway.connect(shape=Shape.TAGGED)

    client.send(SignalOffer(target_client_id="b", signal_data="x"))

    assert b'{"Error":' in client.socket.received[-1]


async def test_a_second_connect_is_refused_and_changes_nothing(gateway: Gateway) -> None:
    client = await gateway.client("a")

    client.send(Connect(client_id="b", auth_token="t"))

    assert code(client.messages[-1]) == 400
    assert set(gateway.bus.subscribers) == {"a"}


# -- what is malformed -------------------------------------------------------------------------------------------------


async def test_a_malformed_payload_is_answered_with_its_id(gateway: Gateway) -> None:
    client = await gateway.client("a")
    head = client.encode(Register())[:HEAD]

    client.send_data(head + (3).to_bytes(2) + b"{x}")

    assert code(client.messages[-1]) == 400
    assert decode_frame(Framing.V1, client.socket.received[-1]).message_id == ID


@pytest.mark.parametrize("data", [b"", b"\x01", b"garbage", bytes(64)])
async def test_garbage_is_an_error_and_too_much_of_it_the_end(gateway: Gateway, data: bytes) -> None:
    client = await gateway.client("a")

    client.send_data(data)
    first = client.close_code
    for _ in range(30):
        client.send_data(data)

    assert code(client.messages[0]) == 400
    assert (first, client.close_code) == (None, 4400)


async def test_a_malformed_message_counts_for_a_session_that_is_resumed(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    head = client.encode(Register())[:HEAD]

    client.send_data(b"garbage")
    client.send_data(head + (3).to_bytes(2) + b"{x}")
    client.send(Heartbeat())

    assert client.last(HeartbeatAck).received == 2


async def test_messages_that_are_refused_for_their_rate_count_for_a_session_too() -> None:
    gateway = Gateway(messages_per_minute=2)
    client = await gateway.client("a", resumable=True)
    for _ in range(2):
        client.send(Register())
        await gateway.settled()

    client.send(Register())
    client.send_data(b"garbage")

    assert [code(message) for message in client.messages[2:]] == [429, 429]
    (session,) = gateway.registry.session_store.freeze()
    assert session.received == 4


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_with_its_id_in_its_own_encoding(gateway: Gateway) -> None:
    client = await gateway.client("a")
    client.payload_type = PayloadType.CBOR

    reply = await ask(client, Register())

    assert isinstance(reply, RegisterAck)
    header = decode_frame(Framing.V1, client.socket.received[-1])
    assert (header.message_id, header.payload_type) == (ID, PayloadType.CBOR)


async def test_so_many_requests_wait_at_once_and_no_more(gateway: Gateway) -> None:
    client = await gateway.client("a")

    for _ in range(PENDING_REQUESTS + 1):
        client.send(IceServers())
    pending = client.connection.conversation.pending_requests
    at_once = list(client.messages)
    await gateway.settled()

    assert [code(message) for message in at_once] == [429]
    assert pending == PENDING_REQUESTS
    assert len(client.messages) == PENDING_REQUESTS + 1
    assert client.connection.conversation.pending_requests == 0


async def test_a_request_in_anothers_name_is_refused(gateway: Gateway) -> None:
    client = await gateway.client("a")

    assert code(await ask(client, Register(client_id="b"))) == 403


async def test_a_reply_waits_for_a_client_that_has_lost_its_connection(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    client.send(Register())
    offer = client.offer
    client.lose()
    await gateway.settled()
    back = gateway.connect()

    await back.sign_in("a", resumable=True, resume=offer)

    assert [type(message) for message in back.messages] == [ConnectAck, RegisterAck]


async def test_an_exclusive_request_of_the_former_connection_still_comes_first(gateway: Gateway) -> None:
    gate = asyncio.Event()
    original = gateway.storage.change_client

    async def slow(*arguments: object) -> object:
        await gate.wait()
        return await original(*arguments)  # type: ignore[arg-type]

    gateway.storage.change_client = slow  # type: ignore[assignment,method-assign]
    client = await gateway.client("a", resumable=True)
    client.send(Register())
    client.lose()
    back = gateway.connect()
    back.send(Connect(client_id="a", auth_token="t", resumable=True, resume=client.offer))
    while not back.connection.is_established:  # noqa: ASYNC110 - the answer comes while the request waits
        await asyncio.sleep(0)
    back.send(Heartbeat(timestamp=1))
    before = [type(message) for message in back.messages]
    gate.set()
    await gateway.settled()

    assert before == [ConnectAck]
    assert [type(message) for message in back.messages] == [ConnectAck, RegisterAck, HeartbeatAck]


async def test_who_left_while_it_joined_is_in_no_room(roomy: Gateway) -> None:
    client = await roomy.client("a")
    client.send(RoomCreate(room_id="r", role="receiver"))
    client.lose()
    await roomy.settled()

    assert roomy.rooms is not None
    await roomy.rooms.idle()
    assert [room.participants for room in (await roomy.storage.list_rooms(is_active=True)).items] in ([], [()])


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_another_token_changes_at_once_whom_a_client_may_signal(gateway: Gateway) -> None:
    receiver, client = await gateway.client("b"), await gateway.client("a", resumable=True)
    gateway.authenticator.grants["a"] = Grants(signal_to=())

    renewed = await ask(client, TokenRenew(auth_token="t2"))
    client.send(SignalOffer(target_client_id="b", signal_data=1))
    refused = client.messages[-1]
    gateway.authenticator.grants.clear()
    await ask(client, TokenRenew(auth_token="t3"))
    client.send(SignalOffer(target_client_id="b", signal_data=2))

    assert isinstance(renewed, TokenRenewAck)
    assert code(refused) == 403
    assert [message.signal_data for message in receiver.messages if isinstance(message, SignalOffer)] == [2]


async def test_a_wrong_token_ends_nothing(gateway: Gateway) -> None:
    client = await gateway.client("a")

    assert code(await ask(client, TokenRenew(auth_token="wrong"))) == 401
    assert client.connection.is_established


async def test_a_token_is_not_renewed_on_a_connection_that_has_ended(gateway: Gateway) -> None:
    client = await gateway.client("a")
    gateway.authenticator.gate.clear()
    client.send(TokenRenew(auth_token="t2"))
    client.lose()
    gateway.authenticator.gate.set()

    await gateway.settled()

    assert not client.connection.is_established


async def test_an_expired_token_lets_no_room_be_entered_until_it_is_renewed() -> None:
    gateway = Gateway(has_rooms=True, settings=SessionSettings(token_leeway=0.0))
    gateway.authenticator.expires_at = time.time() - 1
    client = await gateway.client("a")

    expired = await ask(client, RoomCreate(room_id="r", role="receiver"))
    gateway.authenticator.expires_at = None
    with_token = await ask(client, RoomCreate(room_id="r", role="receiver", auth_token="t2"))

    assert isinstance(expired, ErrorMessage)
    assert (expired.error_code, expired.details) == (401, {"reason": "token_expired"})
    assert isinstance(with_token, RoomCreateAck)


async def test_a_service_that_closes_without_a_token_closes_when_it_ends() -> None:
    gateway = Gateway(settings=SessionSettings(token_leeway=0.0, on_expiry="close"))
    gateway.authenticator.expires_at = time.time() + 20
    client = await gateway.client("a", resumable=True)

    client.connection.tick(time.monotonic() + 21)

    assert client.close_code == 4402
    assert [session.client_id for session in gateway.registry.session_store.away()] == ["a"]


# -- signals through the codec -----------------------------------------------------------------------------------------


async def test_a_message_to_a_room_is_acknowledged(roomy: Gateway) -> None:
    first, second = await roomy.client("a"), await roomy.client("b")
    await ask(first, RoomCreate(room_id="r", role="receiver"))
    await ask(second, RoomJoin(room_id="r", role="receiver"))

    ack = await ask(first, SignalMessage(room_id="r", signal_data={"x": 1}, ack=True))

    assert ack == SignalAck(status="delivered")
    assert second.last(SignalMessage).signal_data == {"x": 1}


async def test_a_signal_that_waits_for_another_node_is_answered_when_that_is_known(gateway: Gateway) -> None:
    client = await gateway.client("a")
    request = Received(SignalOffer(target_client_id="b", signal_data=1), ID, PayloadType.JSON, Shape.PLAIN)

    client.connection.conversation.tell(request, None)
    client.connection.conversation.tell(request, SignalAck(status="queued"))
    client.connection.conversation.tell(request, NotFoundError("gone"))

    ack, error = client.messages
    assert ack == SignalAck(status="queued")
    assert code(error) == 404


async def test_the_outcome_of_a_signal_reaches_a_client_that_is_away_or_has_come_back(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    request = Received(SignalOffer(target_client_id="b", signal_data=1), ID, PayloadType.JSON, Shape.PLAIN)
    conversation = client.connection.conversation

    conversation.tell(request, SignalAck(status="queued"))
    offer = client.offer
    client.lose()
    conversation.tell(request, SignalAck(status="offline"))  # nobody to tell: the connection represents nobody
    back = gateway.connect()
    await back.sign_in("a", resumable=True, resume=offer)

    assert client.messages == [SignalAck(status="queued")]
    assert [type(message) for message in back.messages] == [ConnectAck]


async def test_a_client_of_the_original_service_is_told_of_failures_alone(gateway: Gateway) -> None:
    client = gateway.connect(shape=Shape.TAGGED, names_protocol=False)
    await client.sign_in("a")
    client.socket.received.clear()
    request = Received(SignalOffer(target_client_id="b", signal_data=1), ID, PayloadType.JSON, Shape.TAGGED)

    client.connection.conversation.tell(request, SignalAck(status="delivered"))
    client.connection.conversation.tell(request, NotFoundError("gone"))

    assert len(client.socket.received) == 1


async def test_messages_of_the_service_are_delivered_in_the_clients_encoding(gateway: Gateway) -> None:
    client = await gateway.client("a", Framing.JSON)

    delivery = client.connection.deliver(GoAway(reason="restarting", reconnect_after=1))

    assert delivery is Delivery.DELIVERED
    assert client.last(GoAway).reconnect_after == 1


async def test_a_reply_that_fits_no_frame_becomes_an_error(roomy: Gateway) -> None:
    client = await roomy.client("a")
    await ask(client, RoomCreate(room_id="r", role="receiver"))
    members = [await roomy.client(f"c{number}") for number in range(5)]
    for member in members:
        await ask(member, RoomJoin(room_id="r", role="receiver", metadata={"x": "y" * 15_000}))

    reply = await ask(client, RoomState(room_id="r"))

    assert code(reply) == 413
    wide = await roomy.client("wide", Framing.V2)
    await ask(wide, RoomJoin(room_id="r", role="receiver"))
    assert isinstance(await ask(wide, RoomState(room_id="r")), RoomStateAck)


# -- rooms and silence -------------------------------------------------------------------------------------------------


async def test_the_room_of_a_client_that_falls_silent_hears_of_it_and_of_its_return(roomy: Gateway) -> None:
    silent, other = await roomy.client("a"), await roomy.client("b")
    await ask(silent, RoomCreate(room_id="r", role="receiver"))
    await ask(other, RoomJoin(room_id="r", role="receiver"))
    now = time.monotonic()
    silent.connection.tick(now)
    other.socket.received.clear()

    async def heard() -> list[bool]:
        assert roomy.rooms is not None
        await roomy.rooms.idle()
        events = [message for message in other.messages if isinstance(message, RoomEvent)]
        return [bool(each.participant and each.participant.away) for each in events]

    silent.connection.tick(now + 9)
    fallen_silent = await heard()
    silent.send(Heartbeat())
    silent.connection.tick(now + 10)

    assert fallen_silent == [True]
    assert await heard() == [True, False]
    assert silent.socket.pings == 1


# -- how it ends -------------------------------------------------------------------------------------------------------


async def test_a_client_that_disconnects_has_no_session_any_more(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)

    client.send(Disconnect())

    assert client.close_code == 1000
    assert list(gateway.registry.sessions()) == []
    assert gateway.bus.subscribers == {}


@pytest.mark.parametrize(("close_code", "waits"), [(1000, False), (1001, False), (4000, True)])
async def test_a_close_frame_ends_the_session_or_keeps_it(gateway: Gateway, close_code: int, waits: bool) -> None:
    client = await gateway.client("a", resumable=True)

    client.connection.on_ws_frame(client.socket.picows, frame(close_code.to_bytes(2), CLOSE))
    client.send(Heartbeat())  # nothing after the close frame counts

    assert [session.client_id for session in gateway.registry.session_store.away()] == (["a"] if waits else [])
    assert client.messages == []


async def test_an_eviction_ends_the_session(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)

    client.connection.evict()

    assert client.close_code == 4403
    assert list(gateway.registry.sessions()) == []


async def test_the_lost_socket_of_a_session_that_is_not_complete_ends_it(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    assert client.connection.outgoing.journal is not None
    client.connection.outgoing.journal.give_way()
    client.connection.deliver(GoAway(reason="x", reconnect_after=1))
    client.connection.outgoing.journal.give_way()

    client.lose()

    assert list(gateway.registry.sessions()) == []
    assert gateway.bus.subscribers == {}


async def test_a_session_that_is_not_saved_is_closed_with_its_connection(gateway: Gateway) -> None:
    plain, resumable = await gateway.client("a"), await gateway.client("b", resumable=True)

    for client in (plain, resumable):
        client.connection.conversation.freeze()
    frozen = {name: gateway.bus.subscribers.get(name) for name in ("a", "b")}
    resumable.send(Heartbeat())
    for client in (plain, resumable):
        client.connection.conversation.part()
        client.connection.conversation.part()

    assert frozen == {"a": plain.connection, "b": None}
    assert [client.close_code for client in (plain, resumable)] == [1012, 1012]
    assert [client.messages for client in (plain, resumable)] == [[], []]


async def test_a_record_is_offline_after_its_session(gateway: Gateway) -> None:
    client = await gateway.client("a")
    await ask(client, Register())
    client.lose()
    await gateway.settled()

    record = await gateway.storage.get_client(ClientId("a"))

    assert record is not None
    assert record.status == "offline"


async def test_nothing_that_a_client_sends_in_its_name_outlives_its_replacement(gateway: Gateway) -> None:
    older = await gateway.client("a", instance_id="phone")
    newer = await gateway.client("a", instance_id="laptop")
    await gateway.client("b")

    older.send(SignalOffer(target_client_id="b", signal_data=1, ack=True))

    assert older.messages == []
    assert isinstance(await ask(newer, Register()), RegisterAck)
