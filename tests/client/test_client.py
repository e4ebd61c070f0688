"""The public client: connecting, signalling, requests, events and callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import pytest
import uvloop

from signal_manager.client import (
    Connected,
    Disconnected,
    ErrorReceived,
    Framing,
    PayloadType,
    SignalClient,
    SignalReceived,
    ToRoom,
)
from signal_manager.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedMessageError,
    NotFoundError,
    TooLargeError,
    TooLateError,
    UnavailableError,
)
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    Disconnect,
    Message,
    Register,
    SignalAck,
    SignalMessage,
    Unregister,
)
from tests.client.fake_service import Client, FakeService, make_client, within

FORMS = [
    *product([Framing.V1, Framing.V2], list(PayloadType)),
    (Framing.JSON, PayloadType.JSON),
]


@pytest.fixture
async def alice(service: FakeService) -> AsyncIterator[SignalClient]:
    async with make_client(service, "alice") as client:
        assert isinstance(await within(anext(client)), Connected)
        yield client


@pytest.fixture
async def bob(service: FakeService) -> AsyncIterator[SignalClient]:
    async with make_client(service, "bob") as client:
        assert isinstance(await within(anext(client)), Connected)
        yield client


def ignore_all_but_connect(service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, Connect | Disconnect):
            await service.default_answer(client, message_id, message)

    service.answer = answer


async def test_connect_names_the_client_and_one_instance(service: FakeService) -> None:
    async with make_client(service) as client:
        accepted = await within(service.accepted.get())

        assert client.is_connected
        assert client.session_id is not None
        assert accepted.connect is not None
        assert (accepted.connect.client_id, accepted.connect.version) == ("alice", "1.0.0")
        assert accepted.connect.instance_id


@pytest.mark.parametrize(("framing", "payload_type"), FORMS)
async def test_every_kind_of_signal_arrives_in_every_form(
    service: FakeService, framing: Framing, payload_type: PayloadType
) -> None:
    options: dict[str, Any] = {"framing": framing, "payload_type": payload_type}
    async with make_client(service, "a", **options) as a, make_client(service, "b", **options) as b:
        await within(anext(b))
        await a.send_offer("b", "v=0: an offer")
        await a.send_answer("b", "v=0: an answer")
        await a.send_ice_candidate("b", "candidate:1")
        await a.send_message("b", "hello", ack=True)

        events = [await within(anext(b)) for _ in range(4)]

    assert [type(event) for event in events] == [SignalReceived] * 4
    expected: list[Any] = ["v=0: an offer", "v=0: an answer", "candidate:1", "hello"]
    if payload_type is PayloadType.BINARY:
        expected = [text.encode() for text in expected]
    assert [(event.kind, event.sender, event.data) for event in events if isinstance(event, SignalReceived)] == [
        ("offer", "a", expected[0]),
        ("answer", "a", expected[1]),
        ("ice_candidate", "a", expected[2]),
        ("message", "a", expected[3]),
    ]


async def test_json_values_arrive_as_they_were_sent(alice: SignalClient, bob: SignalClient) -> None:
    data = {"type": "offer", "sdp": "v=0\r\n", "nested": [1, 2.5, None, True, "é"]}

    assert await alice.send_offer("bob", data) == "sent"

    assert await within(anext(bob)) == SignalReceived("alice", "offer", data)


async def test_a_thousand_messages_arrive_in_order(alice: SignalClient, bob: SignalClient) -> None:
    for number in range(1000):
        await alice.send_message("bob", number)

    received = [await within(anext(bob)) for _ in range(1000)]

    assert [event.data for event in received if isinstance(event, SignalReceived)] == list(range(1000))
    assert bob.dropped_events == 0


async def test_an_acknowledged_signal_returns_its_status(alice: SignalClient, bob: SignalClient) -> None:
    assert await alice.send_message("bob", "hi", ack=True) == "delivered"


async def test_an_acknowledged_signal_to_nobody_raises(alice: SignalClient) -> None:
    with pytest.raises(NotFoundError, match="no client 'nobody'"):
        await alice.send_offer("nobody", {}, ack=True)


async def test_an_unacknowledged_signal_to_nobody_becomes_an_event_that_names_the_target(alice: SignalClient) -> None:
    assert await alice.send_offer("nobody", {}) == "sent"

    event = await within(anext(alice))

    assert isinstance(event, ErrorReceived)
    assert isinstance(event.error, NotFoundError)
    assert event.target == "nobody"


async def test_only_recent_targets_are_remembered(alice: SignalClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal_manager.client.client.REMEMBERED_TARGETS", 1)
    await alice.send_offer("nobody", {})
    await alice.send_offer("nowhere", {})

    events = [await within(anext(alice)) for _ in range(2)]

    assert [event.target for event in events if isinstance(event, ErrorReceived)] == [None, "nowhere"]


async def test_many_requests_in_flight_get_their_own_replies(alice: SignalClient, service: FakeService) -> None:
    """Replies may come in any order: they are matched by message id."""
    waiting: list[tuple[bytes, Message]] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, Disconnect):
            await client.close()
        waiting.append((message_id, message))
        if len(waiting) == 20:
            for request_id, request in reversed(waiting):
                assert isinstance(request, SignalMessage)
                await client.send(SignalAck(status=str(request.signal_data)), request_id)

    service.answer = answer

    statuses = await within(asyncio.gather(*(alice.send_message("bob", n, ack=True) for n in range(20))))

    assert statuses == [str(n) for n in range(20)]


async def test_requests_beyond_the_bound_wait_for_a_place(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.client.exchange.MAX_PENDING_REQUESTS", 2)
    async with make_client(service, "alice") as alice:
        statuses = await within(asyncio.gather(*(alice.send_message("alice", n, ack=True) for n in range(10))))

    assert statuses == ["delivered"] * 10


async def test_register_and_unregister_send_what_they_are_given(alice: SignalClient, service: FakeService) -> None:
    received = service.clients["alice"].received
    assert isinstance(await within(received.get()), Connect)

    await alice.register(("video", "chat"), {"room": 1})
    await alice.register()
    await alice.unregister()

    first, second, third = [await within(received.get()) for _ in range(3)]
    assert first == Register(capabilities=["video", "chat"], metadata={"room": 1})
    assert second == Register()
    assert isinstance(third, Unregister)


async def test_heartbeat_returns_the_round_trip(alice: SignalClient) -> None:
    assert await alice.heartbeat() >= 0


async def test_a_request_without_reply_is_too_late(service: FakeService) -> None:
    async with make_client(service, request_timeout=0.01) as client:
        ignore_all_but_connect(service)

        with pytest.raises(TooLateError, match=r"expected RegisterAck within 0.01 s"):
            await client.register()
        with pytest.raises(TooLateError, match=r"within 0.02 s"):
            await client.heartbeat(timeout=0.02)


async def test_a_late_reply_disturbs_nobody(service: FakeService) -> None:
    async with make_client(service, request_timeout=0.01) as client:
        ignore_all_but_connect(service)
        with pytest.raises(TooLateError):
            await client.send_message("bob", 1, ack=True)
        service.answer = service.default_answer
        await service.clients["alice"].send(SignalAck(status="delivered"))

        assert await client.heartbeat(timeout=5) >= 0


async def test_a_reply_of_the_wrong_type_is_malformed(alice: SignalClient, service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, Disconnect):
            await client.close()
        await client.send(SignalAck(status="delivered"), message_id)

    service.answer = answer

    with pytest.raises(MalformedMessageError, match="expected RegisterAck in reply, got SignalAck"):
        await alice.register()


async def test_a_signal_with_the_id_of_a_request_is_no_reply(alice: SignalClient, service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, SignalMessage):
            # The one who gets a signal knows its id, and may be faster than the service.
            reply = SignalMessage(sender_client_id="bob", target_client_id="alice", signal_data="hello")
            await client.send(reply, message_id)
            await client.send(SignalAck(status="delivered"), message_id)
        else:
            await service.default_answer(client, message_id, message)

    service.answer = answer

    assert await alice.send_message("bob", 1, ack=True) == "delivered"
    assert await within(anext(alice)) == SignalReceived("bob", "message", "hello")


@pytest.mark.parametrize("target", ["", "a b", "..", "__x__", "x" * 129])
async def test_a_target_that_cannot_exist_is_refused_at_once(alice: SignalClient, target: str) -> None:
    with pytest.raises(InvalidRequestError, match="target is"):
        await alice.send_offer(target, {})


WRONG: Any = object()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.send_message(ToRoom("a b"), 1), id="no room's name"),
        pytest.param(lambda client: client.send_message(WRONG, 1), id="a target that is no text"),
        pytest.param(lambda client: client.send_message("bob", 1, timeout=WRONG), id="a time that is no number"),
        pytest.param(lambda client: client.heartbeat(timeout=float("nan")), id="no time at all"),
        pytest.param(lambda client: client.register(WRONG), id="capabilities that are no list"),
        pytest.param(lambda client: client.register("webrtc"), id="capabilities that are one text"),
        pytest.param(lambda client: client.register(None, WRONG), id="metadata that is no object"),
        pytest.param(lambda client: client.join("r", metadata=WRONG), id="a member's metadata that is no object"),
        pytest.param(lambda client: client.join("a b"), id="a room's name that cannot be"),
        pytest.param(lambda client: client.join("r", role=WRONG), id="a role that there is not"),
        pytest.param(lambda client: client.join("r", role="sender"), id="a sender of nothing"),
        pytest.param(lambda client: client.join("r", tracks=[WRONG]), id="a track that is none"),
        pytest.param(lambda client: client.send_offer("bob", "\ud800"), id="text that has no bytes"),
    ],
)
async def test_every_wrong_argument_is_an_invalid_request(
    alice: SignalClient, call: Callable[[SignalClient], Awaitable[object]]
) -> None:
    with pytest.raises(InvalidRequestError):
        await call(alice)

    assert await alice.heartbeat() >= 0


@pytest.mark.parametrize("payload_type", list(PayloadType))
@pytest.mark.parametrize("ack", [True, False])
async def test_data_that_cannot_be_written_is_refused_at_once(
    service: FakeService, payload_type: PayloadType, ack: bool
) -> None:
    async with make_client(service, payload_type=payload_type) as client:
        with pytest.raises(InvalidRequestError, match="cannot be written"):
            await client.send_offer("bob", object(), ack=ack)

        assert await client.heartbeat() >= 0


async def test_v1_refuses_what_its_length_field_cannot_hold(service: FakeService) -> None:
    async with make_client(service, framing=Framing.V1) as client:
        with pytest.raises(TooLargeError, match=r"signal-manager\.v2"):
            await client.send_offer("bob", "x" * 70_000)


async def test_v2_carries_an_sdp_of_a_megabyte(alice: SignalClient, bob: SignalClient) -> None:
    await alice.send_offer("bob", "x" * 1_000_000)

    assert await within(anext(bob)) == SignalReceived("alice", "offer", "x" * 1_000_000)


async def test_a_wrong_token_fails_the_connect(service: FakeService) -> None:
    with pytest.raises(AuthenticationError, match="authentication failed"):
        await within(make_client(service, token="wrong").connect())


async def test_a_close_code_alone_says_that_the_token_is_wrong(service: FakeService) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        await client.close(4401, "expired")

    service.answer = answer

    with pytest.raises(AuthenticationError, match="expired"):
        await within(make_client(service).connect())


async def test_a_client_is_used_once(service: FakeService) -> None:
    client = make_client(service)
    async with client:
        with pytest.raises(InvalidRequestError, match="used before"):
            await client.connect()
    with pytest.raises(InvalidRequestError, match="used before"):
        await client.connect()


async def test_calls_before_connecting_and_after_closing_are_unavailable(service: FakeService) -> None:
    client = make_client(service)
    with pytest.raises(UnavailableError, match="not connected"):
        await client.heartbeat()
    async with client:
        pass

    assert not client.is_connected
    with pytest.raises(UnavailableError, match="closed"):
        await client.send_offer("bob", {})


async def test_close_gives_the_reason_and_ends_iteration(service: FakeService) -> None:
    async with make_client(service) as client:
        received = service.clients["alice"].received
        await within(received.get())

        await client.close("tired")
        await client.close()

        assert await within(received.get()) == Disconnect(client_id="alice", reason="tired")
        assert [type(event) async for event in client] == [Connected]


async def test_close_without_connect_does_nothing() -> None:
    await make_client("ws://127.0.0.1:1").close()


async def test_close_does_not_wait_for_ever_for_a_silent_service(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.client.link.CLOSE_TIMEOUT", 0.01)
    async with make_client(service) as client:

        async def answer(_client: Client, _message_id: bytes, _message: Message) -> None:
            pass

        service.answer = answer
        await within(client.close())

    assert not client.is_connected


@pytest.mark.parametrize(
    ("url", "client_id", "options", "complaint"),
    [
        ("http://host", "alice", {}, "ws://"),
        ("nonsense", "alice", {}, "ws://"),
        ("ws://", "alice", {}, "ws://"),
        ("ws://host", "a b", {}, "client_id is 'a b'"),
        ("ws://host", "alice", {"request_timeout": -1}, "request_timeout is -1"),
        ("ws://host", "alice", {"connect_timeout": "soon"}, "connect_timeout is 'soon'"),
        ("ws://host", "alice", {"framing": Framing.JSON, "payload_type": PayloadType.CBOR}, "payload_type is CBOR"),
    ],
)
def test_what_cannot_work_is_refused_when_the_client_is_made(
    url: str, client_id: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        SignalClient(url, client_id, "token", **options)


async def test_callbacks_run_in_order_and_their_events_are_not_iterated(
    service: FakeService, bob: SignalClient
) -> None:
    seen: list[Any] = []
    done = asyncio.Event()

    async def slow(event: SignalReceived) -> None:
        await asyncio.sleep(0)
        seen.append((event.kind, event.data))

    def last(event: SignalReceived) -> None:
        seen.append((event.kind, event.data))
        done.set()

    async with make_client(service) as alice:
        alice.on("offer", slow)
        alice.on("ice_candidate", slow)
        alice.on("answer", last)
        await bob.send_offer("alice", 1)
        await bob.send_ice_candidate("alice", 2)
        await bob.send_message("alice", 3)
        await bob.send_answer("alice", 4)
        await within(done.wait())

        assert seen == [("offer", 1), ("ice_candidate", 2), ("answer", 4)]
        assert isinstance(await within(anext(alice)), Connected)
        assert await within(anext(alice)) == SignalReceived("bob", "message", 3)


async def test_a_callback_may_await_requests(alice: SignalClient, bob: SignalClient) -> None:
    async def reply(event: SignalReceived) -> None:
        assert await bob.send_answer(event.sender, "answer", ack=True) == "delivered"

    bob.on("offer", reply)
    await alice.send_offer("bob", "offer")

    assert await within(anext(alice)) == SignalReceived("bob", "answer", "answer")


async def test_a_failing_callback_is_logged_and_disturbs_nobody(
    alice: SignalClient, bob: SignalClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen = asyncio.Event()

    def fail(_event: SignalReceived) -> None:
        raise ZeroDivisionError

    async def be_cancelled(_event: SignalReceived) -> None:
        raise asyncio.CancelledError

    alice.on("offer", fail)
    alice.on("offer", be_cancelled)
    alice.on("offer", lambda _event: seen.set())
    await bob.send_offer("alice", {})
    await within(seen.wait())

    assert "a callback for 'offer' failed" in caplog.text
    assert "a callback for 'offer' was cancelled" in caplog.text
    assert await alice.heartbeat() >= 0


async def test_a_callback_can_be_taken_away(alice: SignalClient, bob: SignalClient) -> None:
    off = alice.on("message", lambda _event: pytest.fail("called back"))
    off()
    off()

    await bob.send_message("alice", 1)

    assert await within(anext(alice)) == SignalReceived("bob", "message", 1)


async def test_a_callback_may_close_the_client(service: FakeService, bob: SignalClient) -> None:
    calls: list[Any] = []

    async with make_client(service) as alice:

        async def hang_up(event: SignalReceived) -> None:
            calls.append(event.data)
            await alice.close()

        alice.on("message", hang_up)
        for number in range(3):
            await bob.send_message("alice", number)

        assert [type(event) async for event in alice] == [Connected]

    assert calls == [0]


async def test_leaving_cancels_a_callback_that_is_still_running(service: FakeService, bob: SignalClient) -> None:
    started = asyncio.Event()
    outcome: list[str] = []

    async def hang(_event: SignalReceived) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            outcome.append("cancelled")

    async with make_client(service) as alice:
        alice.on("message", hang)
        await bob.send_message("alice", 1)
        await within(started.wait())

    assert outcome == ["cancelled"]


def test_there_is_no_callback_for_an_unknown_name() -> None:
    client = make_client("ws://127.0.0.1:1")
    name: Any = "offfer"
    nothing: Any = None

    with pytest.raises(InvalidRequestError, match=r"the event's name is 'offfer', expected one of answer, connected"):
        client.on(name, print)
    with pytest.raises(InvalidRequestError, match="expected a function"):
        client.on("offer", nothing)


async def test_callbacks_see_the_connection_come_and_go(service: FakeService) -> None:
    client = make_client(service)
    seen: asyncio.Queue[Any] = asyncio.Queue()
    client.on("connected", seen.put)
    client.on("disconnected", seen.put_nowait)
    async with client:
        assert isinstance(await within(seen.get()), Connected)
        await service.clients["alice"].close(4409, "replaced")

        assert await within(seen.get()) == Disconnected(4409, "replaced", will_reconnect=False)


async def test_messages_that_nobody_waits_for_are_ignored(alice: SignalClient, service: FakeService) -> None:
    session_id = alice.session_id
    await service.clients["alice"].send(ConnectAck(status="success", session_id="another"))
    await service.clients["alice"].send(SignalAck(status="delivered"))
    await service.clients["alice"].send(SignalMessage(target_client_id="alice", signal_data="without a sender"))

    assert await alice.heartbeat() >= 0
    assert alice.session_id == session_id


def test_the_client_works_on_uvloop() -> None:
    async def converse() -> None:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(FakeService())
            alice = await stack.enter_async_context(make_client(service, "alice"))
            assert await alice.send_message("alice", "hi", ack=True) == "delivered"
            assert isinstance(await anext(alice), Connected)
            assert await anext(alice) == SignalReceived("alice", "message", "hi")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(within(converse()))
