"""The Python SDK's rooms against the real service and a real SFU, with aiortc on both ends."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any, TypeVar

import pytest
from aiortc import AudioStreamTrack, MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame
from msgspec import structs

from signal_manager.auth.token_report import issue_token
from signal_manager.client import (
    ParticipantLeft,
    PublicationEnded,
    Reconnected,
    RetryPolicy,
    Room,
    RoomClosed,
    RoomHappening,
    RoomReconnected,
    RoomReconnecting,
    SignalClient,
    TrackAdded,
    TrackFailed,
    TrackMuted,
    TrackRemoved,
)
from signal_manager.errors import ConflictError, ForbiddenError, InvalidRequestError, NotFoundError, UnavailableError
from signal_manager.model import Grants
from signal_manager.protocol.messages import Message, RoomAck, RoomEntry, TracksNew
from signal_manager.service.app import running
from signal_manager.service.config import Config
from signal_manager.sfu import LocalSfu
from tests.waiting import until

SECRET = "a secret of thirty-two characters"
TIME_LIMIT = 30.0
AT_ONCE = RetryPolicy(random=lambda: 0.0)

Happening = TypeVar("Happening")
Reply = TypeVar("Reply", bound=Message)


class Picture(MediaStreamTrack):
    """A small picture of one grey, ten times a second."""

    kind = "video"

    def __init__(self, grey: int = 200) -> None:
        super().__init__()
        self._grey = grey
        self._count = 0

    async def recv(self) -> VideoFrame:
        await asyncio.sleep(0.1)
        frame = VideoFrame(64, 48, "yuv420p")
        for plane, value in zip(frame.planes, (self._grey, 128, 128), strict=True):
            plane.update(bytes((value,)) * plane.buffer_size)
        frame.pts, frame.time_base = self._count * 9000, Fraction(1, 90_000)
        self._count += 1
        return frame


class RoomHarness:
    """A service beside its SFU, and clients of it."""

    def __init__(self, url: str, sfu: LocalSfu) -> None:
        self.url = url
        self.sfu = sfu
        self.clients: list[SignalClient] = []

    async def client(
        self,
        name: str,
        grants: Grants | None = None,
        *,
        kind: type[SignalClient] = SignalClient,
        resumable: bool = True,
    ) -> SignalClient:
        token = issue_token(client_id=name, secret=SECRET, ttl=600, now=time.time(), grants=grants)
        client = kind(self.url, name, token, retry=AT_ONCE, resumable=resumable)
        self.clients.append(client)
        await client.connect()
        return client

    async def join(self, name: str, *tracks: MediaStreamTrack, **options: Any) -> Room:
        client = await self.client(name)
        return await client.join("demo", tracks=tracks, create=True, retry=AT_ONCE, **options)


@pytest.fixture
async def harness() -> AsyncIterator[RoomHarness]:
    async with LocalSfu(http_port=0) as sfu:
        settings = {
            "server": {"port": 0},
            "auth": {"token_secret": SECRET},
            "storage": {"backend": "memory"},
            "media": {"backend": "cloudflare"},
            "cloudflare": {
                "app_id": sfu.app_id,
                "app_secret": sfu.app_secret,
                "base_url": sfu.base_url,
                "stun_url": "",
            },
            "metrics": {"enabled": False},
        }
        async with running(Config.model_validate(settings)) as service:
            harness = RoomHarness(f"ws://127.0.0.1:{service.port}", sfu)
            yield harness
            for client in harness.clients:
                await client.close()
        gauges = sfu.gauges()
        assert gauges.publications == gauges.subscriptions == 0


async def following(room: Room, kind: type[Happening]) -> Happening:
    """Return the next event of a kind."""
    async with asyncio.timeout(TIME_LIMIT):
        async for event in room:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the room ended without {kind.__name__}")


class Av1Client(SignalClient):
    """Sends VP8 that it calls AV1, which nothing but the two ends can tell."""

    async def request(self, message: Message, expected: type[Reply], *, timeout: float | None = None) -> Reply:
        if isinstance(message, RoomEntry) and message.offer_sdp is not None:
            message = structs.replace(message, offer_sdp=message.offer_sdp.replace("VP8/90000", "AV1/90000"))
        reply = await super().request(message, expected, timeout=timeout)
        if isinstance(reply, RoomAck) and reply.answer_sdp is not None:
            reply = structs.replace(reply, answer_sdp=reply.answer_sdp.replace("AV1/90000", "VP8/90000"))
        return reply


async def grey_of(track: MediaStreamTrack, wanted: range) -> int:
    """Return the brightness of a picture as soon as it is right."""
    async with asyncio.timeout(TIME_LIMIT):
        while True:
            frame = await track.recv()
            assert isinstance(frame, VideoFrame)
            grey = bytes(frame.planes[0])[0]
            if grey in wanted:
                return grey


BRIGHT, DARK = range(190, 211), range(10, 30)


async def test_two_members_see_and_hear_each_other(harness: RoomHarness) -> None:
    alice = await harness.join("alice", Picture(), metadata={"name": "Alice"})
    bob = await harness.join("bob")
    seen = await following(bob, TrackAdded)
    await grey_of(seen.track, BRIGHT)

    await bob.publish(AudioStreamTrack(), name="desk")
    heard = await following(alice, TrackAdded)
    async with asyncio.timeout(TIME_LIMIT):
        await heard.track.recv()

    assert (seen.participant.client_id, seen.track_name, seen.track.kind) == ("alice", "video", "video")
    assert (heard.participant.client_id, heard.track_name) == ("bob", "desk-audio")
    assert bob.participants["alice"].metadata == {"name": "Alice"}
    assert bob.participants["alice"].tracks["video"].track is seen.track
    assert (alice.state, alice.has_media, "alice" in alice.participants) == ("joined", True, False)


async def test_one_connection_publishes_and_pulls_again_and_again(harness: RoomHarness) -> None:
    alice, bob = await harness.join("alice", Picture()), await harness.join("bob", Picture())
    for _ in range(2):
        camera = Picture()
        await bob.publish(camera, name="screen")
        added = await following(alice, TrackAdded)
        while added.track_name != "screen-video":
            added = await following(alice, TrackAdded)
        await grey_of(added.track, BRIGHT)

        await bob.unpublish(camera)

        removed = await following(alice, TrackRemoved)
        assert removed.track is added.track
        with pytest.raises(MediaStreamError):
            await grey_of(removed.track, range(0))
    assert camera.readyState == "live"


async def test_what_is_muted_is_black_until_it_is_not(harness: RoomHarness) -> None:
    alice, bob = await harness.join("alice", Picture()), await harness.join("bob")
    track = (await following(bob, TrackAdded)).track
    await grey_of(track, BRIGHT)

    alice.mute("video")
    await grey_of(track, DARK)
    alice.unmute()

    await grey_of(track, BRIGHT)


@pytest.mark.parametrize("who", ["publisher", "subscriber"])
async def test_a_restart_of_ice_is_a_pause_for_the_others_and_no_departure(harness: RoomHarness, who: str) -> None:
    alice, bob = await harness.join("alice", Picture()), await harness.join("bob")
    first = await following(bob, TrackAdded)
    await grey_of(first.track, BRIGHT)
    gone: list[ParticipantLeft] = []
    alice.on("participant_left", gone.append)
    bob.on("participant_left", gone.append)

    room = alice if who == "publisher" else bob
    room.restart_ice()

    again = await following(bob, TrackAdded)
    await grey_of(again.track, BRIGHT)
    assert again.track is not first.track
    assert room.state == "joined"
    assert gone == []


@pytest.mark.long
async def test_on_another_network_media_comes_back_behind_the_same_membership(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on its way is lost on both paths at once, and new paths work."""
    alice, bob = await harness.join("alice", Picture()), await harness.join("bob", Picture())
    await grey_of((await following(alice, TrackAdded)).track, BRIGHT)
    await grey_of((await following(bob, TrackAdded)).track, BRIGHT)
    gone: list[ParticipantLeft] = []
    alice.on("participant_left", gone.append)
    port: Any = harness.sfu._port
    _, session = harness.sfu.sessions.values()
    path = session._connection._endpoint
    receive, send = port._receive, port.send
    monkeypatch.setattr(
        port, "_receive", lambda data, source: port.by_address.get(source) is path or receive(data, source)
    )
    monkeypatch.setattr(port, "send", lambda data, target: port.by_address.get(target) is path or send(data, target))
    connection = harness.clients[1]._link.connection
    assert connection is not None

    connection.abort("cut by the test")

    await grey_of((await following(bob, TrackAdded)).track, BRIGHT)
    await grey_of((await following(alice, TrackAdded)).track, BRIGHT)
    assert gone == []


async def test_a_pull_that_brings_the_former_session_of_its_publisher_is_done_again(harness: RoomHarness) -> None:
    bob: Any = await harness.join("bob")
    client = harness.clients[0]
    ask = client.request
    asked: list[Message] = []

    async def slow(message: Message, *arguments: Any, **options: Any) -> Any:
        reply = await ask(message, *arguments, **options)
        if isinstance(message, TracksNew):
            asked.append(message)
        if len(asked) == 1 and isinstance(message, TracksNew):
            former = bob.participants["alice"].session_id
            alice.restart_ice()
            await until(lambda: bob.participants["alice"].session_id != former)
            await until(lambda: not any(track.is_paused for track in bob.participants["alice"].tracks.values()))
        return reply

    client.request = slow  # type: ignore[method-assign]
    alice = await harness.join("alice", Picture())

    added = await following(bob, TrackAdded)

    await grey_of(added.track, BRIGHT)
    assert len(asked) == 2


@pytest.mark.long
async def test_a_silent_path_is_lost_where_something_comes_in_and_nowhere_else(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.client.media.SILENCE", (0.5, 1.5))
    alice, bob = await harness.join("alice", Picture()), await harness.join("bob")
    await following(bob, TrackAdded)
    lost: list[RoomReconnecting] = []
    bob.on("reconnecting", lost.append)

    async def reconnect() -> None:
        await harness.clients[1].reconnect()
        await asyncio.sleep(2.0)

    await reconnect()
    assert lost == []  # media flows
    await alice.leave()
    await following(bob, ParticipantLeft)
    await reconnect()
    assert lost == []  # there is nothing that could flow

    alice = await harness.clients[0].join("demo", tracks=[Picture()])
    await following(bob, TrackAdded)

    async def stand_still(_session: object) -> int:
        return 0

    monkeypatch.setattr("signal_manager.client.media.MediaSession._count_received", stand_still)
    await reconnect()
    await until(lambda: len(lost) > 0)


async def test_a_lost_media_session_is_replaced_and_everything_published_and_pulled_again(harness: RoomHarness) -> None:
    alice, bob = await harness.join("alice", Picture()), await harness.join("bob", Picture())
    await following(alice, TrackAdded)
    before = (await following(bob, TrackAdded)).track

    for session_id in list(harness.sfu.sessions):
        harness.sfu._table.retire(session_id)

    await following(bob, RoomReconnecting)
    after = (await following(bob, TrackAdded)).track
    assert after is not before
    await grey_of(after, BRIGHT)
    await grey_of((await following(alice, TrackAdded)).track, BRIGHT)
    assert bob.state == "joined"


async def test_a_session_that_goes_on_is_in_its_room_still(harness: RoomHarness) -> None:
    await harness.join("alice", Picture())
    bob = await harness.join("bob")
    track = (await following(bob, TrackAdded)).track
    back: asyncio.Future[Reconnected] = asyncio.get_running_loop().create_future()
    harness.clients[1].on("reconnected", back.set_result)
    connection = harness.clients[1]._link.connection
    assert connection is not None

    connection.abort("cut by the test")

    async with asyncio.timeout(TIME_LIMIT):
        assert (await back).resumed
    await bob.publish(Picture())
    await grey_of(track, BRIGHT)
    assert (bob.state, track.readyState) == ("joined", "live")


async def test_a_lost_session_is_made_again_and_the_room_joined(harness: RoomHarness) -> None:
    alice = await harness.join("alice", Picture())
    client = await harness.client("bob", resumable=False)
    bob = await client.join("demo", tracks=[Picture()], retry=AT_ONCE)
    await following(alice, TrackAdded)
    await following(bob, TrackAdded)
    connection = harness.clients[1]._link.connection
    assert connection is not None

    connection.abort("cut by the test")

    await following(bob, RoomReconnected)
    await grey_of((await following(bob, TrackAdded)).track, BRIGHT)
    await grey_of((await following(alice, TrackAdded)).track, BRIGHT)


async def test_who_may_not_publish_is_told_and_goes_on_receiving(harness: RoomHarness) -> None:
    await harness.join("alice", Picture())
    client = await harness.client("bob", Grants(publish=False))
    bob = await client.join("demo", retry=AT_ONCE)
    await grey_of((await following(bob, TrackAdded)).track, BRIGHT)

    with pytest.raises(ForbiddenError):
        await bob.publish(Picture())
    carol = await harness.join("carol", Picture())
    await grey_of((await following(bob, TrackAdded)).track, BRIGHT)

    assert bob.state == "joined"
    await carol.leave("enough")
    assert (await following(bob, ParticipantLeft)).reason == "enough"


async def test_a_track_that_cannot_be_decoded_is_given_up_alone(harness: RoomHarness) -> None:
    before = await harness.join("bob")
    alice = await harness.client("alice", kind=Av1Client)
    await alice.join("demo", tracks=[Picture()])

    failed = await following(before, TrackFailed)
    after = await harness.join("carol")
    failed_too = await following(after, TrackFailed)
    await harness.join("dave", Picture())

    assert (failed.client_id, failed.track_name) == (failed_too.client_id, failed_too.track_name) == ("alice", "video")
    assert "expected VP8" in str(failed.error)
    for room in (before, after):
        added = await following(room, TrackAdded)
        assert added.participant.client_id == "dave"
        await grey_of(added.track, BRIGHT)


async def test_leaving_is_heard_and_ends_the_iteration(harness: RoomHarness) -> None:
    async with await harness.join("alice", Picture()) as alice:
        bob = await harness.join("bob")
        await following(bob, TrackAdded)
    events: list[RoomHappening] = [event async for event in alice]

    left = await following(bob, ParticipantLeft)

    assert (left.participant.client_id, left.reason) == ("alice", "left")
    assert isinstance(events[-1], RoomClosed)
    assert alice.state == "closed"
    with pytest.raises(InvalidRequestError, match="join it again"):
        await alice.publish(Picture())
    await alice.leave()


async def test_tracks_are_received_when_asked_for_where_that_is_wanted(harness: RoomHarness) -> None:
    await harness.join("alice", Picture())
    bob = await harness.join("bob", auto_pull=False)
    await until(lambda: "video" in bob.participants["alice"].tracks, limit=TIME_LIMIT)
    pulled: asyncio.Future[TrackAdded] = asyncio.get_running_loop().create_future()
    bob.on("track", pulled.set_result)

    bob.pull("alice", "video")

    async with asyncio.timeout(TIME_LIMIT):
        await grey_of((await pulled).track, BRIGHT)
    with pytest.raises(NotFoundError, match="publishes no track"):
        bob.pull("alice", "audio")


async def test_who_cannot_come_in_is_told_why_and_leaves_nothing_behind(harness: RoomHarness) -> None:
    client = await harness.client("alice")

    with pytest.raises(NotFoundError):
        await client.join("demo", tracks=[Picture()])
    with pytest.raises(InvalidRequestError, match="room_id"):
        await client.join("no/room")
    with pytest.raises(InvalidRequestError, match="expected tracks"):
        await client.join("demo", role="sender")
    room = await client.join("demo", create=True)
    with pytest.raises(ConflictError):
        await client.join("demo")

    assert room.state == "joined"
    assert client._rooms == [room]


async def test_joining_that_is_cancelled_leaves_again(harness: RoomHarness) -> None:
    await harness.join("alice")
    client = await harness.client("bob")
    joining = asyncio.create_task(client.join("demo", tracks=[Picture()]))
    await asyncio.sleep(0)

    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining

    assert client._rooms == []
    async with asyncio.timeout(TIME_LIMIT):
        room = await client.join("demo", tracks=[Picture()])
    assert room.state == "joined"


async def test_without_aiortc_media_is_refused_with_what_to_install(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await harness.client("alice")
    monkeypatch.setitem(sys.modules, "signal_manager.client.media", None)

    with pytest.raises(InvalidRequestError, match=r"pip install 'signal-manager-client\[rtc\]'"):
        await client.join("demo", create=True)


async def test_a_client_that_is_closed_ends_its_rooms(harness: RoomHarness) -> None:
    alice = await harness.join("alice", Picture())
    publishing = asyncio.create_task(alice.publish(AudioStreamTrack()))
    await asyncio.sleep(0)

    await harness.clients[0].close()

    with pytest.raises(UnavailableError):
        await publishing
    assert alice.state == "closed"


async def test_a_replaced_track_stays_muted_and_one_that_ends_is_unpublished(harness: RoomHarness) -> None:
    alice, bob = await harness.join("alice"), await harness.join("bob")
    (camera,) = await alice.publish(Picture())
    track = (await following(bob, TrackAdded)).track
    await grey_of(track, BRIGHT)
    camera.mute()
    assert (await following(bob, TrackMuted)).track_name == "video"
    await grey_of(track, DARK)

    successor = Picture()
    camera.replace_track(successor)
    await grey_of(track, DARK)
    camera.unmute()
    await grey_of(track, BRIGHT)
    successor.stop()

    removed = await following(bob, TrackRemoved)
    assert (removed.track_name, removed.reason) == ("video", "ended")
    assert (await following(alice, PublicationEnded)).track is successor
    assert list(alice.publications) == []
