"""Who is in a room and what can be pulled, from states and events, in whichever order and form they come."""

from __future__ import annotations

from typing import Any

import pytest

from signal_manager.client.members import Members, PulledTrack
from signal_manager.client.room_events import RoomHappening, TrackAdded, TrackRemoved
from signal_manager.protocol.messages import Member, PublishedTrack, RoomEvent
from tests.client.fakes import Silence


def published(name: str = "sound", *, kind: str | None = "audio", muted: bool = False) -> PublishedTrack:
    return PublishedTrack(mid="0", track_name=name, kind=kind, muted=muted)


def bob(session_id: str = "s-1", **fields: Any) -> Member:
    return Member(client_id="bob", role="sender", session_id=session_id, **fields)


class Scene:
    """The members of a room, what has happened, and the mids that are unwanted."""

    def __init__(self, *, auto_pull: bool = True) -> None:
        self.happened: list[RoomHappening] = []
        self.stale: list[str] = []
        self.members = Members("alice", auto_pull=auto_pull, emit=self.happened.append, on_stale=self.stale.append)

    def hear(
        self, event: str, member: Member | None = None, *tracks: PublishedTrack, reason: str | None = None
    ) -> None:
        """Apply an event about bob, or another member."""
        self.members.apply(
            RoomEvent(
                room_id="demo",
                sequence=2,
                event=event,
                participant=bob() if member is None else member,
                tracks=list(tracks) or None,
                reason=reason,
            )
        )

    def track(self, name: str = "sound") -> PulledTrack:
        """Return a track of bob's."""
        found = self.members.find("bob", name)
        assert found is not None
        return found

    def pull(self, name: str = "sound", mid: str = "1", *, source: str | None = "s-1") -> Silence:
        """Receive a track of bob's."""
        pulled, track = self.track(name), Silence()
        pulled.source = source
        self.members.announce(pulled, mid, track)
        return track

    def names(self) -> list[str]:
        """Return the names of what has happened since the last call."""
        names = [event.name for event in self.happened]
        self.happened.clear()
        return names


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    scene.hear("participant_joined", bob(tracks=[published()]))
    scene.happened.clear()
    return scene


# Events


async def test_a_member_that_joins_brings_its_tracks(scene: Scene) -> None:
    assert [track.name for track in scene.members.wanted] == ["sound"]


async def test_an_event_about_oneself_or_about_no_member_changes_nothing(scene: Scene) -> None:
    scene.hear("participant_joined", Member(client_id="alice", role="sender"))
    scene.members.apply(RoomEvent(room_id="demo", sequence=3, event="participant_left"))

    assert ([*scene.members.all], scene.names()) == (["bob"], [])


@pytest.mark.parametrize("event", ["tracks_muted", "metadata_changed", "participant_left", "something_new"])
async def test_an_event_about_a_stranger_makes_no_member(scene: Scene, event: str) -> None:
    scene.hear(event, Member(client_id="carol", role="sender"), published())

    assert ([*scene.members.all], scene.names()) == (["bob"], [])


async def test_a_track_of_a_stranger_brings_the_stranger(scene: Scene) -> None:
    scene.hear("tracks_published", Member(client_id="carol", role="sender"), published())

    assert scene.names() == ["participant_joined"]
    assert [track.client_id for track in scene.members.wanted] == ["bob", "carol"]


async def test_a_member_that_leaves_takes_its_tracks_along(scene: Scene) -> None:
    track = scene.pull()
    scene.happened.clear()

    scene.hear("participant_left", reason="bye")
    scene.hear("participant_left", reason="bye")

    assert scene.names() == ["track_removed", "participant_left"]
    assert (track.readyState, scene.stale) == ("ended", ["1"])


async def test_a_track_that_is_unpublished_ends_with_the_reason(scene: Scene) -> None:
    track = scene.pull()

    scene.hear("tracks_unpublished", None, published(), published("never there"), reason="ended")

    assert scene.happened[-1] == TrackRemoved(scene.members.all["bob"], "sound", track, "ended")
    assert scene.members.all["bob"].tracks == {}


async def test_muting_is_told_once(scene: Scene) -> None:
    for muted in (True, True, False):
        scene.hear("tracks_muted" if muted else "tracks_unmuted", None, published(muted=muted))

    assert scene.names() == ["track_muted", "track_unmuted"]


async def test_muting_a_track_that_is_not_there_is_no_event(scene: Scene) -> None:
    scene.hear("tracks_muted", None, published("other", muted=True))

    assert scene.names() == []


async def test_metadata_that_an_event_leaves_out_stays(scene: Scene) -> None:
    scene.hear("metadata_changed", bob(metadata={"name": "Bob"}))
    scene.hear("participant_away", bob(away=True))

    assert scene.members.all["bob"].metadata == {"name": "Bob"}
    assert scene.names() == ["participant_changed", "participant_away"]


async def test_a_kind_of_a_newer_service_counts_as_none(scene: Scene) -> None:
    scene.hear("tracks_published", None, published("smell", kind="smell"))

    assert scene.track("smell").kind is None


async def test_a_track_that_is_published_again_is_another_one(scene: Scene) -> None:
    before, track = scene.track(), scene.pull()

    scene.hear("tracks_published", None, published())

    assert scene.track() is not before
    assert not scene.members.has(before)
    assert (track.readyState, scene.stale) == ("ended", ["1"])


async def test_without_auto_pull_no_track_is_wanted_by_itself() -> None:
    scene = Scene(auto_pull=False)
    scene.hear("tracks_published", None, published())

    assert scene.members.wanted == []
    scene.track().is_wanted = True
    assert scene.members.wanted == [scene.track()]


# Received tracks


async def test_a_received_track_is_given_to_the_application(scene: Scene) -> None:
    track = scene.pull()

    assert scene.happened == [TrackAdded(scene.members.all["bob"], "sound", track)]
    assert (scene.members.wanted, scene.track().mid, scene.track().track) == ([], "1", track)
    assert scene.members.are_heard()


async def test_what_a_silent_member_sends_is_not_heard(scene: Scene) -> None:
    scene.pull()
    scene.hear("participant_away", bob(away=True))

    assert not scene.members.are_heard()


@pytest.mark.parametrize("why", ["unwanted", "received already", "gone", "member gone", "session replaced"])
async def test_a_track_that_is_no_use_by_now_is_stopped_and_closed(scene: Scene, why: str) -> None:
    pulled, source = scene.track(), "s-1"
    match why:
        case "unwanted":
            pulled.is_wanted = False
        case "received already":
            scene.pull(mid="0")
        case "gone":
            scene.hear("tracks_unpublished", None, published())
        case "member gone":
            scene.hear("participant_left")
        case _:
            source = "s-0"
    pulled.source = source
    track = Silence()
    scene.happened.clear()

    scene.members.announce(pulled, "1", track)

    assert (track.readyState, scene.stale[-1:], scene.happened) == ("ended", ["1"], [])


async def test_after_a_lost_session_the_old_track_stays_until_the_new_one_comes(scene: Scene) -> None:
    before = scene.pull()
    scene.members.forget_mids()
    assert (before.readyState, scene.members.wanted) == ("live", [scene.track()])
    scene.happened.clear()

    after = scene.pull(mid="5")

    assert scene.names() == ["track_removed", "track"]
    assert (before.readyState, scene.track().track) == ("ended", after)


async def test_closing_the_room_stops_what_is_received(scene: Scene) -> None:
    scene.hear("tracks_published", None, published("never pulled"))
    track = scene.pull()

    scene.members.stop_tracks()

    assert track.readyState == "ended"


# A publisher whose media session is replaced


async def test_a_replaced_session_keeps_the_picture_of_the_tracks_that_come_again(scene: Scene) -> None:
    scene.hear("tracks_published", None, published("gone with it"))
    kept, gone = scene.pull(mid="1"), scene.pull("gone with it", mid="2")

    scene.hear("media_replaced", bob("s-2"), published())

    assert (kept.readyState, gone.readyState) == ("live", "ended")
    assert sorted(scene.stale) == ["1", "2"]
    assert scene.members.wanted == []  # not sent yet

    scene.hear("tracks_published", bob("s-2"), published(muted=True))

    assert [track.name for track in scene.members.wanted] == ["sound"]
    assert scene.names()[-1] == "track_muted"


async def test_a_pull_during_the_pause_brought_the_former_track(scene: Scene) -> None:
    scene.hear("media_replaced", bob("s-2"), published())
    scene.pull(mid="1", source="s-2")

    scene.hear("tracks_published", bob("s-2"), published())

    assert scene.stale == ["1"]
    assert scene.members.wanted == [scene.track()]


async def test_the_whole_state_ends_a_pause_too(scene: Scene) -> None:
    track = scene.pull()
    scene.hear("media_replaced", bob("s-2"), published())

    scene.members.show_state([bob("s-2", tracks=[published()])])

    assert (track.readyState, scene.members.wanted) == ("live", [scene.track()])


# States


async def test_a_state_tells_what_differs_and_nothing_else(scene: Scene) -> None:
    state = bob(tracks=[published()])

    scene.members.show_state([state, Member(client_id="alice", role="sender")])
    assert scene.names() == []

    carol = Member(client_id="carol", role="receiver")
    scene.members.show_state([bob(tracks=[published(muted=True)], away=True, metadata={"name": "Bob"}), carol])
    assert scene.names() == ["participant_away", "participant_changed", "track_muted", "participant_joined"]

    scene.members.show_state([carol])
    assert scene.names() == ["participant_left"]


async def test_tracks_of_another_session_are_other_tracks(scene: Scene) -> None:
    before, track = scene.track(), scene.pull()

    scene.members.show_state([bob("s-2", tracks=[published()])])

    assert not scene.members.has(before)
    assert (track.readyState, scene.members.wanted) == ("ended", [scene.track()])


async def test_a_track_that_a_state_lacks_is_gone(scene: Scene) -> None:
    scene.members.show_state([bob()])

    assert scene.members.find("bob", "sound") is None
    assert scene.members.find("carol", "sound") is None
