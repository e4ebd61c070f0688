"""The order of a room's changes on one node, decided without any node."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.model import ClientId, MemberRecord, NodeId, Room, RoomId, SessionId, Track
from signal_manager.rooms.room_log import Change, RoomLog, applied, difference, read_change, write_change

EMPTY = Room(room_id=RoomId("r"), is_active=True, sequence=1)
CAMERA = Track(mid="0", track_name="camera")


def who(name: str, generation: int = 1, *tracks: Track) -> MemberRecord:
    return MemberRecord(
        client_id=ClientId(name), role="sender", node_id=NodeId("n"), generation=generation, tracks=tracks
    )


def joined(sequence: int, name: str = "ann") -> Change:
    return Change(sequence=sequence, event="participant_joined", participant=who(name, sequence))


@st.composite
def histories(draw: st.DrawFn) -> list[Room]:
    """A room's states, each one change after the other."""
    states = [EMPTY]
    for step in range(draw(st.integers(1, 12))):
        room = states[-1]
        choice = draw(st.integers(0, 8))
        sequence = room.sequence + 1
        if choice == 0 or not room.participants:
            change = joined(sequence, f"p{step}")
        else:
            one = draw(st.sampled_from(room.participants))
            if choice == 1:
                change = Change(sequence=sequence, event="participant_left", participant=one)
            elif choice == 4:
                after = msgspec.structs.replace(one, away=not one.away)
                event = "participant_away" if after.away else "participant_back"
                change = Change(sequence=sequence, event=event, participant=after)  # type: ignore[arg-type]  # one of two
            elif choice == 6:
                after = msgspec.structs.replace(one, metadata={"step": step})
                change = Change(sequence=sequence, event="metadata_changed", participant=after)
            elif choice == 7:
                change = Change(sequence=sequence, event="metadata_changed", metadata={"step": step})
            elif choice == 8 and one.tracks:
                track = msgspec.structs.replace(one.tracks[0], muted=not one.tracks[0].muted)
                after = msgspec.structs.replace(one, tracks=(track,))
                event = "tracks_muted" if track.muted else "tracks_unmuted"
                change = Change(sequence=sequence, event=event, participant=after, tracks=(track,))  # type: ignore[arg-type]  # one of two
            elif choice == 5 and one.tracks:
                session_id = SessionId(f"s{step}")
                after = msgspec.structs.replace(one, session_id=session_id, tracks=())
                change = Change(sequence=sequence, event="media_replaced", participant=after)
            else:
                tracks = () if one.tracks else (CAMERA,)
                after = msgspec.structs.replace(one, tracks=tracks)
                event = "tracks_published" if tracks else "tracks_unpublished"
                change = Change(sequence=sequence, event=event, participant=after, tracks=(CAMERA,))  # type: ignore[arg-type]  # one of two
        states.append(applied(room, change))
    return states


def changes_of(states: list[Room]) -> list[Change]:
    return [difference(before, after)[0] for before, after in pairwise(states)]


def test_a_change_survives_the_way_to_another_node() -> None:
    change = Change(
        sequence=7, event="tracks_published", participant=who("ann", 2, CAMERA), tracks=(CAMERA,), reason="r"
    )

    assert read_change(write_change(change)) == change
    assert read_change(b"noise") is None


@given(histories(), st.randoms(use_true_random=False))
def test_changes_are_told_in_order_and_each_once_however_they_come(states: list[Room], random: object) -> None:
    changes = changes_of(states)
    came = changes + changes[::2]
    random.shuffle(came)  # type: ignore[attr-defined]  # hypothesis hides the type
    room_log = RoomLog(states[0])

    told = [change for each in came for change in room_log.take(each)]

    assert told == changes
    assert room_log.told.participants == room_log.latest.participants == states[-1].participants
    assert not room_log.has_gap


@given(histories(), st.data())
def test_what_is_missing_is_made_up_for_from_the_record(states: list[Room], data: st.DataObject) -> None:
    changes = changes_of(states)
    lost = data.draw(st.sets(st.integers(0, len(changes) - 1)))
    room_log = RoomLog(states[0])
    told = []
    for place, change in enumerate(changes):
        if place not in lost:
            told += room_log.take(change)
    told += room_log.catch_up(states[-1])

    sequences = [change.sequence for change in told]
    assert sequences == sorted(set(sequences))
    assert room_log.told == states[-1]
    room = states[0]
    for change in told:
        room = applied(room, change)
    assert {each.client_id: each for each in room.participants} == {
        each.client_id: each for each in states[-1].participants
    }


def test_an_own_change_waits_for_those_of_others_and_is_known_at_once() -> None:
    room_log = RoomLog(EMPTY)
    own = msgspec.structs.replace(EMPTY, sequence=3, participants=(who("ann", 2), who("ben", 3)))

    assert room_log.take(joined(3, "ben"), own) == []
    assert room_log.has_gap
    assert room_log.latest == own
    assert room_log.take(joined(2)) == [joined(2), joined(3, "ben")]
    assert room_log.told == own


def test_a_room_that_was_closed_meanwhile_is_closed_last() -> None:
    before = msgspec.structs.replace(EMPTY, participants=(who("ann"),))
    after = msgspec.structs.replace(before, sequence=5, participants=(who("ben"),), is_active=False, close_reason="x")

    told = RoomLog(before).catch_up(after)

    assert [(change.sequence, change.event) for change in told] == [
        (3, "participant_left"),
        (4, "participant_joined"),
        (5, "room_closed"),
    ]


def test_an_older_record_says_nothing_new() -> None:
    assert RoomLog(EMPTY).catch_up(EMPTY) == []


def test_a_closed_room_is_not_active() -> None:
    assert not applied(EMPTY, Change(sequence=2, event="room_closed", reason="over")).is_active
    assert applied(EMPTY, Change(sequence=2, event="participant_left")).sequence == 2


def test_a_track_of_a_new_media_session_is_another_track_though_it_looks_the_same() -> None:
    before = msgspec.structs.replace(EMPTY, participants=(who("ann", 1, CAMERA),))
    ann = msgspec.structs.replace(who("ann", 1, CAMERA), session_id=SessionId("new"))
    after = msgspec.structs.replace(before, sequence=3, participants=(ann,))

    changes = difference(before, after)

    assert [(change.sequence, change.event, change.tracks) for change in changes] == [
        (2, "media_replaced", (CAMERA,)),
        (3, "tracks_published", (CAMERA,)),
    ]
