"""A media session: whether its path is lost, told from what comes in, and what it negotiates with a local SFU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack
from av import AudioFrame

from signal_manager.client import media
from signal_manager.client.media import MediaSession
from signal_manager.client.members import PulledTrack
from signal_manager.client.publications import Publication, Publications
from signal_manager.errors import ForbiddenError, UnavailableError
from signal_manager.protocol.messages import (
    IceServers,
    IceServersAck,
    Message,
    PublishedTrack,
    Renegotiate,
    RenegotiateAck,
    TrackResult,
    TracksClose,
    TracksCloseAck,
    TracksMute,
    TracksMuteAck,
    TracksNew,
    TracksNewAck,
)
from signal_manager.sfu import LocalSfu, SfuSettings
from tests.client.fake_service import within
from tests.client.fakes import FakeRequester
from tests.client.test_tracks import Source
from tests.sfu.clients import Api, api_of
from tests.waiting import until


class Session(MediaSession):
    """A session that is connected, as long as the test has counts of what has come in."""

    counts: Sequence[int] = ()
    looks = 0
    is_fed = True
    expires_at: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lost: list[str] = []

    @property
    def is_connected(self) -> bool:
        return True

    async def _ask(self, message: Message, expected: type[Any]) -> Any:
        assert isinstance(message, IceServers)
        return IceServersAck(ice_servers=[], expires_at=self.expires_at)

    async def _count_received(self) -> int:
        self.looks += 1
        return self.counts[min(self.looks, len(self.counts)) - 1]


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.setattr(media, "_LOOK", 0.01)
    made: Session = Session(
        cast("Any", None),
        "demo",
        [],
        is_receiving=lambda: made.is_fed,
        on_connected=lambda: None,
        on_lost=lambda error: made.lost.append(error.message),
        on_track=lambda *_: None,
    )
    made._connected_at = time.monotonic() - 60
    yield made
    await made._peer.close()


async def test_silence_counts_from_when_the_loss_was_suspected(session: Session) -> None:
    session.counts = [6000]
    session._suspicion = (time.monotonic() - 2.0, 6000)

    assert await session.has_lost_path()
    assert session.looks == 1


async def test_silence_is_longer_where_packets_are_rare(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "SILENCE", (0.01, 2.5))
    session.counts = [12]
    session._suspicion = (time.monotonic() - 2.0, 12)

    assert await session.has_lost_path()
    assert session.looks > 1


async def test_a_path_on_which_something_comes_is_not_lost(session: Session) -> None:
    session.counts = [6000, 6001, 6001]
    session._suspicion = (time.monotonic() - 2.0, 5000)

    assert not await session.has_lost_path()
    assert session.looks == 2


async def test_a_path_on_which_nothing_need_come_is_not_looked_at(session: Session) -> None:
    session.is_fed = False

    assert not await session.has_lost_path()
    assert session.looks == 0


async def test_what_had_come_is_noted_when_the_path_may_be_lost(session: Session) -> None:
    session.counts = [6000]

    await session.suspect()

    assert session._suspicion is not None
    assert session._suspicion[1] == 6000


async def test_replacing_a_track_that_hangs_reaches_what_sends_it(session: Session) -> None:
    hanging, fresh = Source(), Source()
    [publication] = Publications(lambda: None, lambda _: None).add([hanging])
    await session.offer([publication])
    outgoing = session._senders[publication].sender.track
    receiving = asyncio.create_task(outgoing.recv())
    await within(hanging.is_asked.wait())

    publication.replace_track(fresh)
    fresh.put(960)

    assert isinstance(frame := await within(receiving), AudioFrame)
    assert frame.samples == 960


async def test_a_silent_relay_is_lost_once_its_credentials_have_ended(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "_RELAY_SILENCE", 0.01)
    monkeypatch.setattr(media, "SILENCE", (0.01, 0.01))
    session.counts = [6000]
    session.expires_at = int(time.time() * 1000) - 1000

    await within(session._watch_relay())

    assert session.lost == ["the relay is lost"]


async def test_a_relay_whose_credentials_never_end_is_not_looked_at(session: Session) -> None:
    await within(session._watch_relay())

    assert session.looks == 0
    assert session.lost == []


# With a local SFU of this process, and this test in place of the service


class Bridge(FakeRequester):
    """The service between one media session and the SFU: it passes requests on, and fails where the test says so."""

    def __init__(self, api: Api, session_id: str, publisher: Bridge | None = None) -> None:
        super().__init__()
        self.session_id = session_id
        self.refused = ""  # the name of a track that the service refuses
        self._api = api
        self._publisher = publisher
        self.answers |= {
            TracksNew: self._new,
            Renegotiate: self._renegotiate,
            TracksClose: self._close,
            TracksMute: TracksMuteAck(tracks=[]),
        }

    async def _call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._api.ok(method, f"/sessions/{self.session_id}/{path}", body)

    async def _new(self, message: TracksNew) -> TracksNewAck:
        if message.offer_sdp is not None:
            tracks = [
                {"location": "local", "mid": track.mid, "trackName": track.track_name}
                for track in message.tracks
                if track.track_name != self.refused
            ]
            body: dict[str, Any] = {"sessionDescription": {"type": "offer", "sdp": message.offer_sdp}, "tracks": tracks}
        else:
            publisher = self._publisher.session_id if self._publisher is not None else ""
            body = {
                "tracks": [
                    {"location": "remote", "sessionId": publisher, "trackName": track.track_name}
                    for track in message.tracks
                ]
            }
        reply = await self._call("POST", "tracks/new", body)
        results = [
            TrackResult(
                mid=track.get("mid"),
                track_name=track["trackName"],
                client_id=None if message.offer_sdp is not None else "bob",
                session_id=track.get("sessionId"),
                error_code=404 if "errorCode" in track else None,
            )
            for track in reply["tracks"]
        ]
        if message.offer_sdp is not None:
            by_name = {result.track_name: result for result in results}
            results = [
                by_name.get(track.track_name, TrackResult(mid=track.mid, error_code=403)) for track in message.tracks
            ]
        sdp = reply.get("sessionDescription", {}).get("sdp")
        is_answer = message.offer_sdp is not None
        return TracksNewAck(tracks=results, answer_sdp=sdp if is_answer else None, offer_sdp=None if is_answer else sdp)

    async def _renegotiate(self, message: Renegotiate) -> RenegotiateAck:
        await self._call("PUT", "renegotiate", {"sessionDescription": {"type": "answer", "sdp": message.answer_sdp}})
        return RenegotiateAck(status=200)

    async def _close(self, message: TracksClose) -> TracksCloseAck:
        body: dict[str, Any] = {"tracks": [{"mid": track.mid} for track in message.tracks], "force": True}
        if message.offer_sdp is not None:
            body |= {"sessionDescription": {"type": "offer", "sdp": message.offer_sdp}, "force": False}
        reply = await self._call("PUT", "tracks/close", body)
        return TracksCloseAck(tracks=[], answer_sdp=reply.get("sessionDescription", {}).get("sdp"))


class End:
    """One client's media session, its publications, and what has happened to it."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.connected = 0
        self.lost: list[str] = []
        self.tracks: list[tuple[PulledTrack, str, MediaStreamTrack]] = []
        self.publications = Publications(lambda: None, lambda _: None)
        self.media = MediaSession(
            bridge,
            "demo",
            [],
            is_receiving=lambda: bool(self.tracks),
            on_connected=self._note_connected,
            on_lost=lambda error: self.lost.append(error.message),
            on_track=lambda *track: self.tracks.append(track),
        )

    async def publish(self, *tracks: MediaStreamTrack) -> tuple[list[Publication], list[TrackResult]]:
        """Publish tracks."""
        added = self.publications.add(tracks or [AudioStreamTrack()])
        return added, await within(self.media.publish(added), LIMIT)

    async def up(self) -> None:
        """Wait until media can flow."""
        await until(lambda: self.media.is_connected, limit=LIMIT)

    def _note_connected(self) -> None:
        self.connected += 1


LIMIT = 30.0


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    """Bob, who publishes, and alice, who pulls bob's tracks."""
    async with LocalSfu(http_port=0, settings=SfuSettings(first_packet_wait=5.0)) as sfu, api_of(sfu) as api:
        bob = End(Bridge(api, await api.new_session()))
        alice = End(Bridge(api, await api.new_session(), bob.bridge))
        yield bob, alice
        for end in (alice, bob):
            await within(end.media.close(), LIMIT)


def wanted(name: str = "audio") -> PulledTrack:
    return PulledTrack("bob", PublishedTrack(mid="0", track_name=name, kind="audio"), is_wanted=True)


async def test_what_one_publishes_another_pulls_until_it_drops_it(ends: tuple[End, End]) -> None:
    bob, alice = ends
    await bob.publish()
    pulled, missing = wanted(), wanted("no such track")

    results = await within(alice.media.pull([pulled, missing]), LIMIT)

    [(track, mid, incoming)] = alice.tracks
    assert (track, results[0].mid, results[0].error_code, results[1].error_code) == (pulled, mid, None, 404)
    assert pulled.source == bob.bridge.session_id
    assert isinstance(await within(incoming.recv(), LIMIT), AudioFrame)
    assert (alice.connected, alice.lost) == (1, [])

    await within(alice.media.drop([mid]), LIMIT)
    await until(lambda: incoming.readyState == "ended", limit=LIMIT)


async def test_publications_are_muted_and_closed_by_negotiation_and_others_follow(ends: tuple[End, End]) -> None:
    bob, _ = ends
    [first, second], _ = await bob.publish(AudioStreamTrack(), AudioStreamTrack())
    first.muted = True
    await within(bob.media.mute([first, second]), LIMIT)
    assert [track.muted for track in bob.bridge.asked_for(TracksMute)[0].tracks] == [True, False]

    first.has_ended = True
    await within(bob.media.unpublish([first]), LIMIT)
    assert bob.bridge.asked_for(TracksClose)[0].reason == "ended"
    await within(bob.media.mute([first]), LIMIT)  # the service is not asked about a track that it does not have
    assert len(bob.bridge.asked_for(TracksMute)) == 1

    _, results = await bob.publish(AudioStreamTrack())
    assert [result.error_code for result in results] == [None]


async def test_a_refused_track_is_stopped_and_the_others_flow(ends: tuple[End, End]) -> None:
    bob, _ = ends
    bob.bridge.refused = "audio-2"

    [taken, refused], results = await bob.publish(AudioStreamTrack(), AudioStreamTrack())
    await bob.up()

    assert [result.error_code for result in results] == [None, 403]
    await within(bob.media.mute([taken, refused]), LIMIT)
    assert len(bob.bridge.asked_for(TracksMute)[0].tracks) == 1


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("answer", [ForbiddenError("no"), TracksNewAck(tracks=[])])
async def test_a_publish_that_comes_to_nothing_leaves_the_session_fit_for_the_next(
    ends: tuple[End, End], is_first: bool, answer: ForbiddenError | TracksNewAck
) -> None:
    bob, _ = ends
    if not is_first:
        await bob.publish()
    passing_on = bob.bridge.answers[TracksNew]
    bob.bridge.answers[TracksNew] = answer
    with suppress(ForbiddenError):
        await bob.publish()

    bob.bridge.answers[TracksNew] = passing_on
    _, results = await bob.publish()
    await bob.up()

    assert [result.error_code for result in results] == [None]
    assert bob.lost == []


async def test_an_sfu_that_answers_no_sdp_to_a_closing_offer_is_of_no_use(ends: tuple[End, End]) -> None:
    bob, _ = ends
    [publication], _ = await bob.publish()
    bob.bridge.answers[TracksClose] = TracksCloseAck(tracks=[])

    with pytest.raises(UnavailableError, match="expected an SDP answer"):
        await within(bob.media.unpublish([publication]), LIMIT)


async def hang(_: Message) -> Message:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_closing_ends_what_waits_for_the_service(ends: tuple[End, End]) -> None:
    bob, _ = ends
    bob.bridge.answers[TracksNew] = hang
    publishing = asyncio.create_task(bob.publish())
    await until(lambda: bool(bob.bridge.asked), limit=LIMIT)

    await within(bob.media.close(), LIMIT)

    with pytest.raises(UnavailableError, match="the media session has ended"):
        await within(publishing, LIMIT)
    assert bob.lost == []  # it was closed here


async def test_giving_up_a_negotiation_is_no_end_of_the_session(ends: tuple[End, End]) -> None:
    _, alice = ends
    alice.bridge.answers[TracksNew] = hang
    pulling = asyncio.create_task(alice.media.pull([wanted()]))
    await until(lambda: bool(alice.bridge.asked), limit=LIMIT)

    pulling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await within(pulling, LIMIT)
    assert alice.lost == []


async def test_a_connection_that_does_not_come_up_is_given_up(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, _ = ends
    monkeypatch.setattr(media, "MEDIA_TIMEOUT", 0.05)
    monkeypatch.setattr(MediaSession, "is_connected", property(lambda _: False))
    await bob.publish()

    with pytest.raises(UnavailableError, match=r"not up within 0\.05 s"):
        await bob.publish()

    await within(bob.media.close(), LIMIT)
    monkeypatch.setattr(media, "MEDIA_TIMEOUT", LIMIT)
    with pytest.raises(UnavailableError, match="the media session has ended"):
        await bob.publish()


async def test_a_peer_connection_that_ends_by_itself_is_told_once(ends: tuple[End, End]) -> None:
    bob, _ = ends
    await bob.publish()
    await bob.up()

    await within(bob.media._peer.close(), LIMIT)

    assert bob.lost == ["the peer connection closed"]


@pytest.mark.parametrize(
    ("kind", "name", "parameters", "decodable"),
    [
        ("audio", "opus", "", True),
        ("video", "opus", "", False),
        ("video", "vp8", "", True),
        ("video", "av1", "", False),
        ("video", "rtx", "apt=96", False),
        ("video", "h264", "packetization-mode=1;profile-level-id=42e01f", True),
        ("video", "h264", "packetization-mode=1;profile-level-id=42001f", True),
        ("video", "h264", "packetization-mode=1", True),
        ("video", "h264", "packetization-mode=0;profile-level-id=42e01f", False),
        ("video", "h264", "packetization-mode=1;profile-level-id=640032", False),
    ],
)
def test_only_codecs_that_aiortc_negotiates_are_decodable(
    kind: str, name: str, parameters: str, decodable: bool
) -> None:
    assert media._is_decodable(kind, name, parameters) is decodable
