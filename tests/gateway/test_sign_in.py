"""Sign-in: who a client is, which session it continues, and what happens to the connections that it had."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from structlog.testing import capture_logs

from signal_manager.bus.base import Claimed
from signal_manager.bus.local import LocalBus
from signal_manager.errors import RateLimitedError, UnavailableError
from signal_manager.gateway.ports import RelayTarget
from signal_manager.gateway.sessions import ResumeSettings
from signal_manager.gateway.sign_in import renew
from signal_manager.model import ClientId, NodeId, taken_up_at
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    ErrorMessage,
    Heartbeat,
    HeartbeatAck,
    Register,
    Resume,
    Shape,
    SignalOffer,
)
from tests.bus.queue_bus import Broker, QueueBus
from tests.gateway.harness import Gateway, GatewayClient

A = ClientId("a")


def offer_to(target: str, data: str = "v=0") -> SignalOffer:
    return SignalOffer(target_client_id=target, signal_data=data)


class ClaimingBus(LocalBus[RelayTarget]):
    """A bus whose other nodes answer claims as the test asks for; a claim waits for the gate."""

    def __init__(self, claimed: Claimed) -> None:
        super().__init__()
        self.claimed = claimed
        self.released: list[str] = []

    async def claim(
        self,
        client_id: ClientId,
        instance_id: str | None,
        *,
        wants: bytes | None = None,
        yields: bool = False,
        taken_up_at: int = 0,
    ) -> Claimed:
        await asyncio.sleep(0)
        return self.claimed

    def release(self, client_id: ClientId) -> None:
        self.released.append(client_id)


# -- at once or in the background ------------------------------------------------------------------------------------


async def test_a_client_whose_sign_in_waits_for_nothing_is_answered_in_the_same_turn(gateway: Gateway) -> None:
    gateway.authenticator.is_immediate = True
    client = gateway.connect()

    client.send(Connect(client_id="a", auth_token="t", resumable=True), last=False)
    client.send(Heartbeat(timestamp=1))

    assert [type(message) for message in client.messages] == [ConnectAck, HeartbeatAck]
    assert gateway.registry.background.tasks == set()


async def test_so_is_one_that_is_refused(gateway: Gateway) -> None:
    gateway.authenticator.is_immediate = True
    client = gateway.connect()

    client.send(Connect(client_id="a", auth_token="wrong"))

    assert client.last(ErrorMessage).error_code == 401
    assert client.close_code is not None


async def test_a_session_in_memory_is_resumed_in_the_same_turn(gateway: Gateway) -> None:
    gateway.authenticator.is_immediate = True
    former = await gateway.client("a", resumable=True)
    former.lose()
    client = gateway.connect()

    client.send(Connect(client_id="a", auth_token="t", resumable=True, resume=former.offer))

    assert client.last(ConnectAck).resumed
    assert gateway.bus.subscribers["a"] is client.connection


async def test_a_session_that_may_be_in_storage_is_looked_for_in_the_background(gateway: Gateway) -> None:
    gateway.authenticator.is_immediate = True
    client = gateway.connect()
    offer = Resume(session_id="of an earlier start", resume_token="t", received=0)

    client.send(Connect(client_id="a", auth_token="t", resumable=True, resume=offer))
    assert len(gateway.registry.background.tasks) == 1
    await gateway.settled()

    assert not client.last(ConnectAck).resumed


async def test_where_there_may_be_other_nodes_the_claim_is_made_in_the_background() -> None:
    queue_bus: QueueBus[RelayTarget] = QueueBus(Broker(), node_id=NodeId("n"))
    async with queue_bus as bus:
        gateway = Gateway(bus=bus)
        gateway.authenticator.is_immediate = True
        client = gateway.connect()

        client.send(Connect(client_id="a", auth_token="t"))

        assert len(gateway.registry.background.tasks) == 1
        await gateway.settled()
        assert client.connection.is_established


# -- a new session ---------------------------------------------------------------------------------------------------


async def test_a_client_is_welcomed_and_can_be_reached(gateway: Gateway) -> None:
    client = gateway.connect()

    await client.sign_in("a")

    assert client.welcome is not None
    assert (client.welcome.status, client.welcome.resume_token, client.welcome.resumed) == ("success", None, False)
    assert gateway.bus.subscribers["a"] is client.connection
    assert client.connection.is_established
    assert abs(taken_up_at(client.welcome.session_id) - time.time() * 1000) < 60_000
    assert gateway.value("authentications", "accepted") == 1


async def test_what_was_sent_behind_connect_is_handled_after_the_answer(gateway: Gateway) -> None:
    client = gateway.connect()
    gateway.authenticator.gate.clear()

    client.send(Connect(client_id="a", auth_token="t"))
    client.send(Heartbeat(timestamp=7))
    before = list(client.messages)
    gateway.authenticator.gate.set()
    await gateway.settled()

    assert before == []
    assert [type(message) for message in client.messages] == [ConnectAck, HeartbeatAck]


async def test_a_newer_device_replaces_the_older_one(gateway: Gateway) -> None:
    older = await gateway.client("a", instance_id="phone")

    newer = await gateway.client("a", instance_id="laptop")

    assert (older.close_code, newer.close_code) == (4409, None)
    assert gateway.bus.subscribers["a"] is newer.connection
    assert not older.connection.is_established


async def test_the_same_device_on_a_new_socket_may_come_back_on_the_old_one(gateway: Gateway) -> None:
    older = await gateway.client("a", instance_id="phone")

    await gateway.client("a", instance_id="phone")

    assert older.close_code == 4408


# -- refusals --------------------------------------------------------------------------------------------------------


async def test_wrong_credentials_are_refused_and_counted(gateway: Gateway) -> None:
    client = gateway.connect()

    with capture_logs() as logs:
        await client.sign_in("a", token="wrong")

    assert client.last(ErrorMessage).error_code == 401
    assert client.close_code == 4401
    assert gateway.value("authentications", "refused") == 1
    assert [line["reason"] for line in logs if line["event"] == "connection refused"] == ["invalid credentials"]
    assert "wrong" not in str(logs)
    assert gateway.bus.subscribers == {}


async def test_an_address_that_guesses_tokens_has_to_wait() -> None:
    gateway = Gateway(failed_auth_per_minute=2)
    for _ in range(2):
        await gateway.connect().sign_in("a", token="wrong")
    third = gateway.connect()

    await third.sign_in("a")

    error = third.last(ErrorMessage)
    assert (error.error_code, third.close_code) == (429, 4429)
    assert error.details is not None
    assert error.details["retry_after"] > 0
    assert len(gateway.authenticator.asked) == 2
    assert gateway.value("authentications", "limited") == 1


async def test_a_client_whose_credentials_cannot_be_checked_now_may_come_back(gateway: Gateway) -> None:
    client = gateway.connect()
    gateway.authenticator.error = UnavailableError("the keys cannot be fetched")

    await client.sign_in("a")

    assert (client.last(ErrorMessage).error_code, client.close_code) == (503, 1012)
    assert gateway.value("authentications", "unavailable") == 1
    gateway.authenticator.error = None
    await gateway.client("a")


async def test_a_service_that_is_full_turns_an_authenticated_client_away() -> None:
    gateway = Gateway(max_connections=1)
    waiting = gateway.connect()
    await gateway.client("b")

    await waiting.sign_in("a")

    assert (waiting.close_code, waiting.messages) == (4503, [])
    assert set(gateway.bus.subscribers) == {"b"}


async def test_a_fault_of_an_authenticator_leaves_other_clients_alone(gateway: Gateway) -> None:
    gateway.authenticator.error = RuntimeError("a fault")
    with capture_logs() as logs:
        await gateway.connect().sign_in("a")
    gateway.authenticator.error = None

    await gateway.client("b")

    assert [line["work"] for line in logs if line["log_level"] == "error"] == ["authenticate"]


# -- claims ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_during_its_sign_in_is_given_back_to_the_bus() -> None:
    bus = ClaimingBus(Claimed(is_won=True))
    gateway = Gateway(bus=bus)
    client = gateway.connect()
    client.send(Connect(client_id="a", auth_token="t"))
    client.lose()

    await gateway.settled()

    assert (bus.released, client.messages, gateway.bus.subscribers) == (["a"], [], {})
    assert not gateway.registry.occupancy.usage.is_full


async def test_a_claim_that_is_lost_needs_no_release_when_the_client_has_left() -> None:
    bus = ClaimingBus(Claimed(is_won=False))
    gateway = Gateway(bus=bus)
    client = gateway.connect()
    client.send(Connect(client_id="a", auth_token="t"))
    client.lose()

    await gateway.settled()

    assert bus.released == []


async def test_a_client_that_came_to_another_node_meanwhile_is_replaced_here() -> None:
    gateway = Gateway(bus=ClaimingBus(Claimed(is_won=False)))
    client = gateway.connect()

    await client.sign_in("a")

    assert isinstance(client.messages[-1], ConnectAck)
    assert client.close_code == 4409
    assert gateway.bus.subscribers == {}


async def test_a_device_that_comes_back_yields_to_the_one_that_its_user_took_up_since(gateway: Gateway) -> None:
    phone = await gateway.client("a", instance_id="phone", resumable=True)
    offer = phone.offer
    phone.lose()
    await asyncio.sleep(0.002)  # the times in session ids are milliseconds
    laptop = await gateway.client("a", instance_id="laptop", resumable=True)
    back = gateway.connect()

    await back.sign_in("a", instance_id="phone", resumable=True, resume=offer)

    assert (back.last(ErrorMessage).error_code, back.close_code) == (409, 4409)
    assert gateway.bus.subscribers["a"] is laptop.connection
    assert laptop.close_code is None


# -- sessions that are resumed ---------------------------------------------------------------------------------------


async def test_a_client_that_comes_back_gets_what_it_missed_and_nothing_twice(gateway: Gateway) -> None:
    other = await gateway.client("b")
    client = await gateway.client("a", resumable=True)
    other.send(offer_to("a", "got"))
    offer = client.offer
    client.lose()
    other.send(offer_to("a", "missed"))
    back = gateway.connect()

    await back.sign_in("a", resumable=True, resume=offer)

    ack, missed = back.messages
    assert isinstance(ack, ConnectAck)
    assert client.welcome is not None
    assert (ack.resumed, ack.session_id) == (True, client.welcome.session_id)
    assert isinstance(missed, SignalOffer)
    assert missed.signal_data == "missed"
    assert gateway.bus.subscribers["a"] is back.connection
    assert gateway.value("resumes", "resumed") == 1


async def test_a_new_socket_resumes_a_session_whose_old_socket_still_seems_open(gateway: Gateway) -> None:
    old = await gateway.client("a", resumable=True, instance_id="phone")
    back = gateway.connect()

    await back.sign_in("a", resumable=True, instance_id="phone", resume=old.offer)

    assert back.welcome is not None
    assert back.welcome.resumed
    assert old.close_code == 4408
    old.lose()
    assert gateway.bus.subscribers["a"] is back.connection


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"session_id": "no such session"}, "unknown"),
        ({"resume_token": "guessed"}, "forbidden"),
        ({"resume_token": ""}, "forbidden"),
        ({"received": 99}, "incomplete"),
    ],
)
async def test_an_offer_that_is_not_good_opens_a_new_session(
    gateway: Gateway, change: dict[str, object], outcome: str
) -> None:
    client = await gateway.client("a", resumable=True)
    offer = client.offer
    client.lose()
    back = gateway.connect()

    await back.sign_in("a", resumable=True, resume=msgspec.structs.replace(offer, **change))

    assert back.welcome is not None
    assert client.welcome is not None
    assert not back.welcome.resumed
    assert back.welcome.session_id != client.welcome.session_id
    assert gateway.value("resumes", outcome) == 1
    assert gateway.bus.subscribers["a"] is back.connection


async def test_a_session_is_written_in_one_wire_format_and_ends_in_another(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    offer = client.offer
    client.lose()
    back = gateway.connect(Framing.V2)

    await back.sign_in("a", resumable=True, resume=offer)

    assert gateway.value("resumes", "different") == 1
    assert list(gateway.registry.session_store.away()) == []
    assert back.welcome is not None
    assert not back.welcome.resumed


async def test_nobody_resumes_the_session_of_another_client(gateway: Gateway) -> None:
    victim = await gateway.client("a", resumable=True)
    offer = victim.offer
    victim.lose()
    thief = gateway.connect()

    await thief.sign_in("b", resumable=True, resume=offer)

    assert thief.welcome is not None
    assert not thief.welcome.resumed
    assert gateway.value("resumes", "forbidden") == 1
    back = gateway.connect()
    await back.sign_in("a", resumable=True, resume=offer)
    assert back.welcome is not None
    assert back.welcome.resumed


async def test_a_client_of_the_original_service_has_no_session_to_resume(gateway: Gateway) -> None:
    client = gateway.connect(shape=Shape.TAGGED, names_protocol=False)

    await client.sign_in("a", resumable=True)
    client.lose()

    assert client.welcome is not None
    assert client.welcome.resume_token is None
    assert list(gateway.registry.session_store.away()) == []


async def test_without_a_window_every_session_ends_with_its_connection() -> None:
    gateway = Gateway(resume=ResumeSettings(window=0.0))

    client = await gateway.client("a", resumable=True)
    client.lose()

    assert client.welcome is not None
    assert client.welcome.resume_token is None
    assert gateway.bus.subscribers == {}


async def test_a_store_that_does_not_answer_is_no_reason_to_forget_a_session(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(gateway.storage, "take_session", away)
    client = gateway.connect()

    await client.sign_in("a", resumable=True, resume=Resume(session_id="s", resume_token="t", received=0))

    assert (client.last(ErrorMessage).error_code, client.close_code) == (503, 1012)


# -- several nodes ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two nodes that reach each other."""
    broker = Broker()
    async with (
        QueueBus[RelayTarget](broker, node_id=NodeId("one")) as one,
        QueueBus[RelayTarget](broker, node_id=NodeId("two")) as two,
    ):
        yield Gateway(bus=one), Gateway(bus=two)


async def lost_on(node: Gateway) -> tuple[GatewayClient, Resume]:
    client = await node.client("a", resumable=True)
    offer = client.offer
    client.lose()
    return client, offer


async def test_a_session_continues_on_another_node_with_its_messages_and_its_record(
    nodes: tuple[Gateway, Gateway],
) -> None:
    one, two = nodes
    client = await one.client("a", resumable=True)
    client.send(Register())
    await one.settled()
    offer = client.offer
    client.lose()
    (await one.client("b")).send(offer_to("a", "missed"))
    back = two.connect()

    await back.sign_in("a", resumable=True, resume=offer)

    ack, missed = back.messages
    assert isinstance(ack, ConnectAck)
    assert ack.resumed
    assert isinstance(missed, SignalOffer)
    assert "a" not in one.bus.subscribers
    assert two.bus.subscribers["a"] is back.connection
    assert two.registrations.is_registered(back.connection.session_id)
    assert not one.registrations.is_registered(back.connection.session_id)


async def test_a_session_stays_at_its_node_when_its_token_is_guessed(nodes: tuple[Gateway, Gateway]) -> None:
    one, two = nodes
    _, offer = await lost_on(one)
    thief = two.connect()

    await thief.sign_in("a", resumable=True, resume=msgspec.structs.replace(offer, resume_token="guessed"))

    assert thief.welcome is not None
    assert not thief.welcome.resumed


async def test_a_new_device_on_another_node_ends_the_older_one(nodes: tuple[Gateway, Gateway]) -> None:
    one, two = nodes
    older = await one.client("a", instance_id="phone", resumable=True)

    await two.client("a", instance_id="laptop", resumable=True)

    assert older.close_code == 4409
    assert one.bus.subscribers == {}


# -- another token ---------------------------------------------------------------------------------------------------


async def test_another_token_counts_as_an_attempt_and_a_wrong_one_as_a_failure() -> None:
    gateway = Gateway(failed_auth_per_minute=1)
    client = await gateway.client("a")
    caller = await gateway.dispatcher.admit(Connect(client_id="a", auth_token="t"))
    renewed = await renew(gateway.registry, caller, "t2", source=client.connection.source)

    with pytest.raises(Exception, match="invalid credentials"):
        await renew(gateway.registry, caller, "wrong", source=client.connection.source)
    with pytest.raises(RateLimitedError):
        await renew(gateway.registry, caller, "t3", source=client.connection.source)

    assert renewed.session_id == caller.session_id
    assert renewed.token_hash != caller.token_hash
    assert gateway.value("authentications", "renewed") == 1
    assert gateway.value("authentications", "limited") == 1
