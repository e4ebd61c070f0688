"""Every public method with wrong values for each argument: an `InvalidRequestError`, and nothing is sent."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from aiortc.mediastreams import AudioStreamTrack

from signal_manager.client import Clock, Framing, PayloadType, RetryPolicy, Room, SignalClient, ToRoom
from signal_manager.client.publications import Publication, Publications
from signal_manager.errors import InvalidRequestError, NotFoundError
from signal_manager.protocol.messages import Heartbeat, HeartbeatAck, Message
from tests.client.fake_service import Client, FakeService, make_client

HUGE = "x" * 1_000_000
NAN = float("nan")
# The second has more digits than Python writes, the third no bytes.
UNWRITABLE = [object(), 10**5000, "\ud800"]
WRONG = [None, 5, -1, "", HUGE, [], {}, NAN, 1e300, True, lambda: 5, b"x", [[]], {5}, *UNWRITABLE]

Call: TypeAlias = Callable[[Any], object]
Right: TypeAlias = Callable[[Any], bool]
# By parameter: calls with that argument alone wrong, and which of the wrong values are right there.
Table: TypeAlias = dict[str, tuple[Call, Right]]


def nothing(_: object) -> bool:
    return False


def text(value: object) -> bool:
    return value == ""


def flag(value: object) -> bool:
    return value is True


def mapping(value: object) -> bool:
    return value == {}


def seconds(value: object) -> bool:
    return value in (5, 1e300) and value is not True


def positive(value: object) -> bool:
    return isinstance(value, int) and value is not True and value > 0


def function(value: object) -> bool:
    return callable(value)


def an_empty_list(value: object) -> bool:
    return value == []


def token(value: object) -> bool:
    return isinstance(value, str) or callable(value)


def option(right: Right) -> Right:
    """None is an option that is not given."""
    return lambda value: value is None or right(value)


def data(value: object) -> bool:
    """All that JSON can hold, and bytes."""
    return all(value is not each for each in UNWRITABLE) and not callable(value)


class Quiet:
    """A client in a room, and a look at what it sends."""

    def __init__(self, client: SignalClient, room: Room, connection: Client) -> None:
        self.client = client
        self.room = room
        self._connection = connection

    async def sent(self) -> list[Message]:
        """Return what was sent since the last call; a request of its own makes sure that it has arrived."""
        await self.client.heartbeat()
        messages = []
        while not self._connection.received.empty():
            messages.append(self._connection.received.get_nowait())
        return [message for message in messages if not isinstance(message, Heartbeat)]


@pytest.fixture
async def quiet(service: FakeService) -> AsyncIterator[Quiet]:
    async with make_client(service) as client, await client.join("demo") as room:
        made = Quiet(client, room, service.clients["alice"])
        await made.sent()
        yield made


async def walk(function: Callable[..., object], table: Table) -> None:
    """Try every wrong value for every parameter; all of them must be in the table."""
    named = [name for name in inspect.signature(function).parameters if name not in {"self", "client"}]
    assert list(table) == named, function.__qualname__
    for name, (call, is_right) in table.items():
        for value in WRONG:
            if is_right(value):
                continue
            where = f"{function.__qualname__}: {name} is {type(value).__name__}"
            with pytest.raises(InvalidRequestError) as caught:  # noqa: PT012 - one call, which may have to be awaited
                if isinstance(result := call(value), Awaitable):
                    await result
                pytest.fail(f"{where} is taken")
            assert len(caught.value.message) < 400, where


def public(kind: type) -> set[str]:
    """Return the public methods of a class that take arguments."""
    methods = {name: each for name, each in vars(kind).items() if inspect.isfunction(each) and name[0] != "_"}
    return {name for name, each in methods.items() if len(inspect.signature(each).parameters) > 1}


async def walk_all(kind: type, tables: dict[str, Table], *, internal: frozenset[str] = frozenset()) -> None:
    assert set(tables) - {"__init__"} == public(kind) - internal
    for name, table in tables.items():
        await walk(getattr(kind, name), table)


def sending(send: Callable[..., object]) -> Table:
    return {
        "target": (lambda value: send(value, 1), nothing),
        "data": (lambda value: send("bob", value), data),
        "ack": (lambda value: send("bob", 1, ack=value), flag),
        "timeout": (lambda value: send("bob", 1, timeout=value), option(seconds)),
    }


async def test_the_client_refuses_every_wrong_argument(quiet: Quiet) -> None:
    def make(url: Any = "ws://host", client_id: Any = "alice", token: Any = "t", **options: Any) -> SignalClient:
        return SignalClient(url, client_id, token, **options)

    client = quiet.client
    await walk_all(
        SignalClient,
        {
            "__init__": {
                "url": (lambda value: make(url=value), nothing),
                "client_id": (lambda value: make(client_id=value), nothing),
                "token": (lambda value: make(token=value), token),
                "framing": (lambda value: make(framing=value), nothing),
                "payload_type": (lambda value: make(payload_type=value), nothing),
                "connect_timeout": (lambda value: make(connect_timeout=value), seconds),
                "request_timeout": (lambda value: make(request_timeout=value), seconds),
                "retry": (lambda value: make(retry=value), option(nothing)),
                "ssl_context": (lambda value: make(ssl_context=value), option(nothing)),
                "resumable": (lambda value: make(resumable=value), flag),
                "clock": (lambda value: make(clock=value), option(nothing)),
            },
            "close": {"reason": (client.close, option(text))},
            "reconnect": {"timeout": (lambda value: client.reconnect(timeout=value), option(seconds))},
            "send_offer": sending(client.send_offer),
            "send_answer": sending(client.send_answer),
            "send_ice_candidate": sending(client.send_ice_candidate),
            "send_message": sending(client.send_message),
            "join": {
                "room_id": (client.join, nothing),
                "tracks": (lambda value: client.join("r", tracks=value), an_empty_list),
                "role": (lambda value: client.join("r", role=value), option(nothing)),
                "metadata": (lambda value: client.join("r", metadata=value), option(mapping)),
                "create": (lambda value: client.join("r", create=value), flag),
                "max_participants": (
                    lambda value: client.join("r", max_participants=value),
                    option(lambda value: value == 5),
                ),
                "auto_pull": (lambda value: client.join("r", auto_pull=value), flag),
                "retry": (lambda value: client.join("r", retry=value), option(nothing)),
            },
            "request": {
                "message": (lambda value: client.request(value, HeartbeatAck), nothing),
                "expected": (lambda value: client.request(Heartbeat(timestamp=1), value), nothing),
                "timeout": (
                    lambda value: client.request(Heartbeat(timestamp=1), HeartbeatAck, timeout=value),
                    option(seconds),
                ),
            },
            "register": {
                "capabilities": (client.register, option(an_empty_list)),
                "metadata": (lambda value: client.register(None, value), option(mapping)),
                "timeout": (lambda value: client.register(timeout=value), option(seconds)),
            },
            "unregister": {"timeout": (lambda value: client.unregister(timeout=value), option(seconds))},
            "heartbeat": {"timeout": (lambda value: client.heartbeat(timeout=value), option(seconds))},
            "on": {
                "name": (lambda value: client.on(value, print), nothing),
                "callback": (lambda value: client.on("offer", value), function),
            },
        },
        internal=frozenset({"forget_room"}),
    )
    await walk(ToRoom, {"room_id": (lambda value: client.send_message(ToRoom(value), 1), nothing)})

    assert await quiet.sent() == []
    assert client.is_connected


async def test_rooms_refuse_every_wrong_argument(quiet: Quiet) -> None:
    room = quiet.room
    track = AudioStreamTrack()
    await walk_all(
        Room,
        {
            "publish": {
                "tracks": (room.publish, nothing),
                "name": (lambda value: room.publish(track, name=value), option(nothing)),
                "muted": (lambda value: room.publish(track, muted=value), flag),
            },
            "unpublish": {"tracks": (room.unpublish, nothing)},
            "mute": {"kind": (room.mute, option(nothing))},
            "unmute": {"kind": (room.unmute, option(nothing))},
            "set_metadata": {
                "metadata": (room.set_metadata, mapping),
                "scope": (lambda value: room.set_metadata({}, scope=value), nothing),
            },
            "pull": {
                "client_id": (lambda value: room.pull(value, "audio"), nothing),
                "track_name": (lambda value: room.pull("bob", value), nothing),
            },
            "leave": {"reason": (room.leave, option(text))},
            "on": {
                "name": (lambda value: room.on(value, print), nothing),
                "callback": (lambda value: room.on("closed", value), function),
            },
        },
        internal=frozenset({"enter", "hear", "note_link", "end"}),
    )
    with pytest.raises(NotFoundError):
        room.pull("bob", "audio")
    [publication] = Publications(lambda: None, lambda _: None).add([track])
    await walk_all(Publication, {"replace_track": {"track": (publication.replace_track, nothing)}})

    assert await quiet.sent() == []
    assert room.state == "joined"
    assert room.publications == []


async def test_a_retry_policy_refuses_every_wrong_argument() -> None:
    await walk_all(
        RetryPolicy,
        {
            "__init__": {
                "first_attempts": (lambda value: RetryPolicy(first_attempts=value), option(positive)),
                "attempts": (lambda value: RetryPolicy(attempts=value), option(positive)),
                "base_delay": (
                    lambda value: RetryPolicy(base_delay=value),
                    lambda value: seconds(value) and value == 5,
                ),
                "max_delay": (lambda value: RetryPolicy(max_delay=value), seconds),
                "random": (lambda value: RetryPolicy(random=value), function),
            }
        },
        internal=frozenset({"delay"}),
    )


@pytest.mark.parametrize(
    "url", ["ws://[::1", "ws://host:99999", "ws://host:x", "ws:///path", "http://host", "ws://h:0"]
)
def test_a_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected a URL"):
        SignalClient(url, "alice", "t")


def test_an_error_repeats_no_secret() -> None:
    """A token that was handed over in the wrong place would end in the application's log."""
    wrong: list[tuple[Any, Any]] = [("https://host/?token=secret", "t"), ("ws://host", b"secret")]
    for url, given in wrong:
        with pytest.raises(InvalidRequestError) as caught:
            SignalClient(url, "alice", given)
        assert "secret" not in caught.value.message


def test_what_is_right_is_taken() -> None:
    SignalClient(
        "wss://user@[::1]:8443/ws?a=b", "alice", lambda: "t", framing=Framing.V1, clock=Clock(), resumable=False
    )
    SignalClient(
        "ws://host", "alice", "t", payload_type=PayloadType.CBOR, connect_timeout=float("inf"), retry=RetryPolicy()
    )
