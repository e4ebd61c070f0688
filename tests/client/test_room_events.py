"""What a room tells its application: one class and one name for each event."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import get_args

import pytest

from signal_manager.client import Room
from signal_manager.client import room_events as module
from signal_manager.client.members import PulledTrack, RoomMember
from signal_manager.client.room_events import ROOM_EVENT_NAMES, Participant, RemoteTrack, RoomHappening
from signal_manager.protocol.messages import Member, PublishedTrack

EVENTS = get_args(RoomHappening)


def test_every_event_has_a_name_of_its_own_that_callbacks_know() -> None:
    names = [event.name for event in EVENTS]

    assert len(set(names)) == len(names)
    assert set(names) == ROOM_EVENT_NAMES


def test_every_event_can_be_imported_and_is_described() -> None:
    assert {event.__name__ for event in EVENTS} <= set(module.__all__)
    assert all(event.__doc__ for event in EVENTS)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_an_event_cannot_be_changed_by_one_of_its_callbacks(event: type) -> None:
    fields = dataclasses.fields(event)
    happening = event(*range(len(fields)))
    name = fields[0].name if fields else "anything"

    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        setattr(happening, name, "other")


def test_a_room_offers_callbacks_for_every_event() -> None:
    """The types of `Room.on` list each name; here is what they list."""
    source = re.findall(r'def on\(self, name: Literal\["(\w+)"\]', _source_of(Room))

    assert set(source) == ROOM_EVENT_NAMES


def _source_of(kind: type) -> str:
    return " ".join(inspect.getsource(kind).split()).replace("def on( self,", "def on(self,")


def test_members_and_their_tracks_are_what_events_promise() -> None:
    member: Participant = RoomMember(Member(client_id="bob", role="sender"))
    track: RemoteTrack = PulledTrack("bob", PublishedTrack(mid="0", track_name="a", kind="audio"), is_wanted=True)

    assert (member.client_id, member.role, member.away, dict(member.metadata), dict(member.tracks)) == (
        "bob",
        "sender",
        False,
        {},
        {},
    )
    assert (track.name, track.kind, track.muted, track.track) == ("a", "audio", False, None)
