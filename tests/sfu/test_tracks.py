"""The tracks of one session: what a description starts, pauses and ends, and what is collected; no sockets."""

from __future__ import annotations

import time

import pytest

from signal_manager.sfu.datachannels import DataChannels
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.sdp import Outgoing
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.tracks import Tracks
from signal_manager.sfu.wire import SessionDescription, Simulcast, TrackObject
from tests.sfu.sdps import sdp, section
from tests.sfu.test_connection import connection_of
from tests.sfu.test_forwarding import KEY, rtp

SSRC = ("a=ssrc:11 cname:x",)


class Scene:
    """One session's tracks."""

    def __init__(self, session_id: str = "s") -> None:
        self.counters = Counters()
        self.settings = SfuSettings()
        self.connection, _ = connection_of(self.settings)
        channels = DataChannels(self.connection.transport, settings=self.settings, counters=self.counters)
        self.tracks = Tracks(
            session_id, connection=self.connection, channels=channels, settings=self.settings, counters=self.counters
        )

    def publish(self, name: str = "camera", mid: str = "0") -> None:
        """Publish a track that the client offers."""
        offer = self.connection.read_offer(offered(section(mid, more=SSRC)))
        for our, remote in self.tracks.apply_offer(offer, receive=[mid]):
            self.tracks.receive(name, our, remote)


def offered(*sections: list[str]) -> SessionDescription:
    return SessionDescription(type="offer", sdp=sdp(*sections))


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    scene.publish()
    return scene


async def test_a_published_track_takes_packets_at_once(scene: Scene) -> None:
    scene.connection.transport.on_rtp(rtp(1, KEY))

    publication = scene.tracks.published["camera"]
    assert publication.has_packets
    assert (publication.session_id, publication.mid, publication.codec.name) == ("s", "0", "vp8")
    assert scene.counters.packets_received == 1


async def test_a_track_without_packets_is_collected_in_time(scene: Scene) -> None:
    now = time.monotonic()

    scene.tracks.tick(now + scene.settings.track_timeout - 1)
    assert "camera" in scene.tracks.published
    scene.tracks.tick(now + scene.settings.track_timeout + 1)

    assert (scene.tracks.published, scene.counters.tracks_collected) == ({}, 1)


async def test_a_section_that_the_client_turns_down_ends_its_track(scene: Scene) -> None:
    offer = scene.connection.read_offer(offered(section("0", port=0)))

    scene.tracks.apply_offer(offer)

    assert scene.tracks.published == {}


async def test_ending_a_track_tells_whether_there_was_one(scene: Scene) -> None:
    assert [scene.tracks.end("0"), scene.tracks.end("0"), scene.tracks.end("9")] == [True, False, False]


async def test_a_pulled_track_flows_only_once_the_transport_is_up(scene: Scene) -> None:
    subscriber = Scene("t")
    source = scene.tracks.published["camera"]
    wish = TrackObject(simulcast=Simulcast(preferred_rid="h", rid_not_available="asciibetical"))

    subscription = subscriber.tracks.send("1", source, wish, Outgoing(500, 501, "stream", "track"), source.codec)
    subscriber.tracks.open_subscriptions()
    scene.connection.transport.on_rtp(rtp(1, KEY))

    assert (subscription.preferred_rid, subscription.may_choose_other) == ("h", True)
    assert subscriber.tracks.sources == {"1": ("s", "camera")}
    assert subscriber.counters.packets_forwarded == 0
    assert subscriber.tracks.end("1")
    assert subscriber.tracks.sources == {}


async def test_a_publisher_that_closes_leaves_nothing_behind(scene: Scene) -> None:
    scene.publish("screen", "0")
    scene.tracks.close()
    scene.tracks.close()

    assert (scene.tracks.published, scene.tracks.sources) == ({}, {})
    assert scene.tracks.router.publications == {}
