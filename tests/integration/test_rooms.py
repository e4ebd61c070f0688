"""Rooms over real sockets, with an SFU that has no media: what each kind of client sends and is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from signal_manager.gateway.limits import PENDING_REQUESTS
from signal_manager.rooms import RoomSettings
from signal_manager.storage.memory import MemoryStorage
from tests.fakes.media import FakeSfu
from tests.integration.serving import serving_rooms
from tests.integration.v1_client import ALICE, BOB, CBOR, PLAIN, PROTOBUF, TAGGED, Client, Dialect, connect

CAROL = ("carol", "t-3")
OFFER = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
CAMERA = [{"mid": "0", "track_name": "camera"}]


class Place:
    """A service with rooms, and its SFU."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()  # set by every call to the SFU
        self.sfu = FakeSfu(self.asked.set)
        self.storage = MemoryStorage()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Place]:
        settings = RoomSettings(app_id="app", stun_url="stun:stun.test:3478")
        async with serving_rooms(
            media=self.sfu, clients=(ALICE, BOB, CAROL), storage=self.storage, settings=settings
        ) as served:
            self.url = served.url
            yield self

    @asynccontextmanager
    async def client(
        self, who: tuple[str, str], *, dialect: Dialect = PLAIN, subprotocol: str | None = "signal-manager.v2"
    ) -> AsyncIterator[Client]:
        async with connect(self.url, subprotocol, dialect=dialect) as client:
            yield await client.log_in(who)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    async with place.running():
        yield place
    assert place.sfu.open_tracks == set()


async def ask(client: Client, message_type: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Send a request and return the fields of its answer, which must be next."""
    request = await client.send(message_type, fields)
    reply = await client.expect(f"{message_type}_ACK")
    assert reply.id == request
    return reply.fields


async def create(client: Client, **fields: Any) -> dict[str, Any]:
    return await ask(
        client, "WEBRTC_ROOM_CREATE", {"role": "sender", "offer_sdp": OFFER, "tracks": CAMERA, "room_id": "r"} | fields
    )


async def event(client: Client, name: str) -> dict[str, Any]:
    fields = (await client.expect("ROOM_EVENT")).fields
    assert fields["event"] == name
    return fields


async def test_a_client_of_the_original_service_creates_joins_and_leaves(place: Place) -> None:
    common = {"version": "1.0.0", "client_id": ALICE[0], "auth_token": ALICE[1]}
    async with (
        place.client(ALICE, dialect=TAGGED, subprotocol=None) as alice,
        place.client(BOB, dialect=TAGGED, subprotocol=None) as bob,
    ):
        entry = common | {"role": "sender", "offer_sdp": OFFER, "metadata": None}
        created = await ask(alice, "WEBRTC_ROOM_CREATE", entry)
        room_id = created["room_id"]
        common |= {"client_id": BOB[0], "auth_token": BOB[1], "room_id": room_id}
        joined = await ask(bob, "WEBRTC_ROOM_JOIN", common | {"role": "receiver", "offer_sdp": None, "metadata": None})
        left = await ask(bob, "WEBRTC_ROOM_LEAVE", common | {"reason": None})
        await alice.check_alive()  # and no ROOM_EVENT came

    for ack, role in ((created, "sender"), (joined, "receiver")):
        assert (ack["version"], ack["status"], ack["room_id"]) == ("1.0.0", 200, room_id)
        assert (ack["app_id"], ack["stun_url"]) == ("app", "stun:stun.test:3478")
        info = ack["connection_info"]
        assert {name: info[name] for name in ("room_id", "role", "app_id", "session_id", "status")} == {
            "room_id": room_id,
            "role": role,
            "app_id": "app",
            "session_id": ack["session_id"],
            "status": "Connected",
        }
        assert isinstance(info["metadata"], dict)
    assert left == {
        "version": "1.0.0",
        "status": 200,
        "message": "Left room successfully",
        "room_id": room_id,
        "client_id": BOB[0],
    }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"role": "sender"}, 144),
        ({"role": "spectator"}, 144),
        ({"role": "receiver", "room_id": "elsewhere"}, 148),
        ({"role": "receiver", "room_id": "r", "client_id": "mallory"}, 147),
        ({"role": "receiver", "room_id": "r", "auth_token": "wrong"}, 1),
        ({"role": "receiver", "room_id": "a/b"}, 2),
        ({"room_id": "r"}, 2),
    ],
)
async def test_a_client_of_the_original_service_is_refused_in_its_own_codes(
    place: Place, fields: dict[str, Any], code: int
) -> None:
    async with place.client(ALICE) as alice, place.client(BOB, dialect=TAGGED, subprotocol=None) as bob:
        await create(alice)
        await bob.send("WEBRTC_ROOM_JOIN", {"room_id": "r"} | fields)

        await bob.expect_error(code)

        await bob.check_alive()


@pytest.mark.parametrize("dialect", [PLAIN, CBOR], ids=lambda dialect: dialect.name)
async def test_two_members_publish_pull_and_see_each_other_go(place: Place, dialect: Dialect) -> None:
    async with place.client(ALICE, dialect=dialect) as alice:
        await create(alice)
        await event(alice, "tracks_published")
        async with place.client(BOB, dialect=dialect) as bob:
            joined = await ask(bob, "WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
            assert joined["requires_renegotiation"] is True
            assert [track["client_id"] for track in joined["tracks"]] == [ALICE[0]]
            assert await ask(bob, "RENEGOTIATE", {"room_id": "r", "answer_sdp": "v=0"}) == {"status": 200}
            assert (await event(alice, "participant_joined"))["participant"]["client_id"] == BOB[0]

            await ask(bob, "TRACKS_NEW", {"room_id": "r", "offer_sdp": OFFER, "tracks": CAMERA})
            published = await event(alice, "tracks_published")
            assert published["tracks"] == [{"mid": "0", "track_name": "camera", "kind": "video"}]
            await event(bob, "tracks_published")
            state = await ask(bob, "ROOM_STATE", {"room_id": "r"})
            assert state["sequence"] == published["sequence"]
            assert "ice_servers" in await ask(bob, "ICE_SERVERS", {})
        left = await event(alice, "participant_left")
        assert (left["participant"]["client_id"], left["reason"]) == (BOB[0], "connection lost")


async def test_a_protobuf_client_is_told_in_protobuf(place: Place) -> None:
    async with place.client(ALICE) as alice, place.client(BOB, dialect=PROTOBUF) as bob:
        await create(alice)
        await event(alice, "tracks_published")
        await bob.send("WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"}, "JSON")
        await bob.expect("WEBRTC_ROOM_JOIN_ACK")

        async with place.client(CAROL) as carol:
            await ask(carol, "WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
            told = await bob.expect("ROOM_EVENT")

        assert told.payload_type == "PROTOBUF"


@pytest.mark.parametrize("way", ["DISCONNECT", "UNREGISTER", "closed", "cut", "replaced"])
async def test_members_are_told_of_everyone_who_goes(place: Place, way: str) -> None:
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(place.client(ALICE))
        bob = await stack.enter_async_context(place.client(BOB))
        await create(alice)
        await event(alice, "tracks_published")
        await ask(bob, "REGISTER", {})
        await ask(bob, "WEBRTC_ROOM_JOIN", {"role": "sender", "offer_sdp": OFFER, "tracks": CAMERA, "room_id": "r"})
        await event(alice, "participant_joined")
        await event(alice, "tracks_published")
        match way:
            case "DISCONNECT":
                await bob.send("DISCONNECT", {})
            case "UNREGISTER":
                await bob.send("UNREGISTER", {})
            case "closed":
                await bob.websocket.close()
            case "cut":
                bob.websocket.transport.abort()
            case "replaced":
                await stack.enter_async_context(place.client(BOB))

        left = await event(alice, "participant_left")

        assert left["participant"]["client_id"] == BOB[0]
        reasons = {"DISCONNECT": "left", "UNREGISTER": "left", "replaced": "replaced"}
        assert left["reason"] == reasons.get(way, "connection lost")


async def test_a_client_who_comes_back_at_once_is_let_in_again(place: Place) -> None:
    async with place.client(ALICE) as alice:
        await create(alice)
        for _ in range(5):
            async with place.client(BOB) as bob:
                joined = await ask(bob, "WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
                bob.websocket.transport.abort()
            assert [member["client_id"] for member in joined["participants"]] == [ALICE[0], BOB[0]]


async def test_a_message_to_the_room_reaches_all_other_members(place: Place) -> None:
    async with (
        place.client(ALICE) as alice,
        place.client(BOB, dialect=CBOR) as bob,
        place.client(CAROL, dialect=TAGGED, subprotocol=None) as carol,
    ):
        await create(alice)
        await event(alice, "tracks_published")
        for member in (bob, carol):
            await ask(member, "WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
            await event(alice, "participant_joined")
        await event(bob, "participant_joined")
        message = {"room_id": "r", "signal_data": {"text": "hello"}}
        await alice.send("SIGNAL_MESSAGE", message | {"ack": True})

        told = await bob.expect("SIGNAL_MESSAGE")

        assert told.fields == message | {"sender_client_id": ALICE[0]}
        acknowledged = await alice.expect("SIGNAL_ACK")
        assert acknowledged.fields == {"status": "delivered"}
        await carol.check_alive()  # it has no such message
        await bob.send("WEBRTC_ROOM_LEAVE", {"room_id": "r"})
        await event(alice, "participant_left")
        await alice.send("SIGNAL_MESSAGE", message | {"ack": True})
        assert (await alice.expect("SIGNAL_ACK")).fields == {"status": "offline"}


async def test_a_message_to_a_room_that_one_is_not_in_is_refused(place: Place) -> None:
    async with place.client(ALICE) as alice, place.client(BOB) as bob:
        await create(alice)
        request = await bob.send("SIGNAL_MESSAGE", {"room_id": "r", "signal_data": 1})

        await bob.expect_error(404, id=request)


async def test_an_answer_overtakes_the_requests_that_wait_for_it(place: Place) -> None:
    async with place.client(ALICE) as alice, place.client(BOB) as bob:
        await create(alice)
        await event(alice, "tracks_published")
        await ask(bob, "WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
        publishing = await bob.send("TRACKS_NEW", {"room_id": "r", "offer_sdp": OFFER, "tracks": CAMERA})

        await ask(bob, "RENEGOTIATE", {"room_id": "r", "answer_sdp": "v=0"})

        assert (await bob.expect("TRACKS_NEW_ACK")).id == publishing


async def test_more_requests_than_may_wait_are_refused_and_the_others_are_answered(place: Place) -> None:
    async with place.client(ALICE) as alice:
        place.sfu.gate.clear()
        waiting = [await alice.send("ICE_SERVERS", {}) for _ in range(PENDING_REQUESTS)]
        one_too_many = await alice.send("ICE_SERVERS", {})

        refused = await alice.expect_error(429, id=one_too_many)
        place.sfu.gate.set()

        assert refused.fields["retryable"] is True
        answered = [(await alice.expect("ICE_SERVERS_ACK")).id for _ in waiting]
        assert sorted(answered) == sorted(waiting)
        await ask(alice, "ICE_SERVERS", {})


async def test_a_client_who_is_cut_off_while_it_comes_in_is_not_in(place: Place) -> None:
    async with place.client(ALICE) as alice:
        await create(alice)
        await event(alice, "tracks_published")
        place.sfu.gate.clear()
        async with place.client(BOB) as bob:
            place.asked.clear()
            await bob.send("WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
            await asyncio.wait_for(place.asked.wait(), 10)
            bob.websocket.transport.abort()
        place.sfu.gate.set()

        async with place.client(BOB) as bob:
            await ask(bob, "WEBRTC_ROOM_JOIN", {"role": "receiver", "room_id": "r"})
            assert (await event(alice, "participant_joined"))["sequence"] == 3


@pytest.mark.parametrize(
    ("message_type", "fields", "code"),
    [
        ("WEBRTC_ROOM_CREATE", {"role": "sender", "offer_sdp": OFFER, "metadata": {"a": "x" * 20_000}}, 413),
        ("WEBRTC_ROOM_CREATE", {"role": "sender", "offer_sdp": OFFER, "room_id": "../../etc"}, 400),
        ("WEBRTC_ROOM_CREATE", {"role": "sender", "offer_sdp": OFFER, "room_id": "r"}, 409),
        ("TRACKS_NEW", {"room_id": "r", "tracks": [{"track_name": "camera", "client_id": ALICE[0]}]}, 404),
        ("RENEGOTIATE", {"room_id": "r", "answer_sdp": "v=0"}, 404),
        ("RENEGOTIATE", {"room_id": "r", "answer_sdp": "v=0", "client_id": ALICE[0]}, 403),
        ("TRACKS_CLOSE", {"room_id": "r", "tracks": [{"mid": "0"}]}, 404),
        ("ROOM_STATE", {"room_id": "r"}, 404),
        ("WEBRTC_ROOM_LEAVE", {"room_id": "r"}, 404),
        ("ROOM_EVENT", {"room_id": "r", "sequence": 1, "event": "room_closed"}, 400),
    ],
)
async def test_bad_requests_get_one_clear_error_and_the_room_is_unharmed(
    place: Place, message_type: str, fields: dict[str, Any], code: int
) -> None:
    async with place.client(ALICE) as alice, place.client(BOB) as bob:
        await create(alice)
        await event(alice, "tracks_published")
        before = await ask(alice, "ROOM_STATE", {"room_id": "r"})

        request = await bob.send(message_type, fields)
        await bob.expect_error(code, id=request)

        assert await ask(alice, "ROOM_STATE", {"room_id": "r"}) == before
