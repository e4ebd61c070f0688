"""How a room changes: each change hits the membership that it is about, and no later one of the same client."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from signal_manager.errors import ConflictError, InvalidRequestError, NotFoundError
from signal_manager.model import ClientId, MemberRecord, NodeId, Role, Room, RoomId, SessionId, Track
from signal_manager.rooms import changes
from signal_manager.rooms.changes import CLOSED_ROOM_KEPT, MemberKey
from signal_manager.storage.base import RoomChange

NOW = 1000.0
LATER = 2000.0
NODE = NodeId("n")
CAMERA = Track(mid="0", track_name="camera")
MICROPHONE = Track(mid="1", track_name="microphone")


def member(name: str, *tracks: Track, role: Role = "sender", generation: int = 1) -> MemberRecord:
    return MemberRecord(
        client_id=ClientId(name),
        role=role,
        session_id=SessionId(f"media-of-{name}"),
        node_id=NODE,
        generation=generation,
        tracks=tracks,
    )


def apply(change: RoomChange, room: Room) -> Room:
    """Return the room after a change."""
    changed = change(room)
    assert changed is not None
    return changed


def room_of(*members: MemberRecord, limit: int = 10) -> Room:
    first, *others = members
    room = changes.opened(RoomId("r"), first, app_id="app", metadata={"topic": "x"}, max_participants=limit, now=NOW)
    for each in others:
        room = apply(changes.with_member(each, limit=limit, now=NOW), room)
    return room


ALICE, BOB = member("alice", CAMERA), member("bob", role="receiver")
KEY = changes.key_of(ALICE)
CLOSED = apply(changes.closed("ended", now=NOW), room_of(ALICE))

# Every change of one membership.
OF_A_MEMBER: list[Callable[[MemberKey], RoomChange]] = [
    lambda key: changes.without_member(key, now=LATER),
    lambda key: changes.with_absence(key, away=True, now=LATER),
    lambda key: changes.with_metadata(key, {"name": "x"}, now=LATER),
    lambda key: changes.with_tracks(key, SessionId("s"), [MICROPHONE], now=LATER),
    lambda key: changes.with_media(key, SessionId("s"), now=LATER),
    lambda key: changes.with_muted(key, {"0"}, muted=True, now=LATER),
    lambda key: changes.without_tracks(key, {"0"}, now=LATER),
]


@pytest.mark.parametrize("of_member", OF_A_MEMBER)
@pytest.mark.parametrize(
    "key",
    [
        KEY._replace(generation=2),  # a later membership of the same client
        KEY._replace(node_id=NodeId("another")),
        KEY._replace(client_id=ClientId("stranger")),
    ],
)
def test_a_change_of_a_membership_that_has_ended_is_refused(
    of_member: Callable[[MemberKey], RoomChange], key: MemberKey
) -> None:
    with pytest.raises(NotFoundError, match="is not in room r"):
        apply(of_member(key), room_of(ALICE, BOB))


@pytest.mark.parametrize("of_member", OF_A_MEMBER)
def test_nothing_changes_in_a_closed_room(of_member: Callable[[MemberKey], RoomChange]) -> None:
    with pytest.raises(NotFoundError):
        apply(of_member(KEY), CLOSED)


@pytest.mark.parametrize("of_member", OF_A_MEMBER)
def test_a_change_touches_one_member_and_the_rooms_time(of_member: Callable[[MemberKey], RoomChange]) -> None:
    before = room_of(ALICE, BOB)

    after = apply(of_member(KEY), before)

    assert BOB in after.participants
    assert (after.updated_at, before.updated_at) == (LATER, NOW)
    assert before == room_of(ALICE, BOB)


def test_a_new_room_has_its_first_member_and_the_originals_fields() -> None:
    room = room_of(ALICE)

    assert (room.sender_client_id, room.receiver_client_id, room.session_id) == ("alice", None, "media-of-alice")
    assert room.metadata == {"topic": "x", "created_at": 1_000_000}
    assert (room.is_active, room.participants) == (True, (ALICE,))


def test_the_first_of_each_role_is_the_one_that_the_original_knew() -> None:
    room = room_of(BOB, ALICE, member("carol"), member("dave", role="receiver"))

    assert (room.sender_client_id, room.receiver_client_id) == ("alice", "bob")


def test_a_full_room_takes_nobody_and_a_client_is_in_it_once() -> None:
    room = room_of(ALICE, BOB, limit=2)

    with pytest.raises(ConflictError, match="2 of 2 members"):
        changes.check_entry(room, ClientId("carol"), limit=100)
    with pytest.raises(ConflictError, match="already in room"):
        changes.check_entry(room, ClientId("alice"), limit=100)
    changes.check_entry(room_of(ALICE, limit=2), ClientId("carol"), limit=100)


def test_a_room_that_names_no_limit_has_the_services() -> None:
    room = msgspec.structs.replace(room_of(ALICE), max_participants=None)

    changes.check_entry(room, ClientId("bob"), limit=2)
    with pytest.raises(ConflictError, match="1 of 1"):
        changes.check_entry(room, ClientId("bob"), limit=1)


def test_a_closed_room_is_closed_once_and_entered_no_more() -> None:
    assert (CLOSED.is_active, CLOSED.close_reason, CLOSED.closed_at) == (False, "ended", NOW)
    assert CLOSED.expires_at == NOW + CLOSED_ROOM_KEPT
    with pytest.raises(InvalidRequestError, match="is closed"):
        apply(changes.closed("again", now=NOW), CLOSED)
    with pytest.raises(InvalidRequestError, match="is closed"):
        apply(changes.with_member(BOB, limit=10, now=NOW), CLOSED)
    with pytest.raises(InvalidRequestError, match="is closed"):
        apply(changes.with_room_metadata({}, now=NOW), CLOSED)


def test_the_last_member_closes_the_room() -> None:
    one = apply(changes.without_member(changes.key_of(BOB), now=LATER), room_of(ALICE, BOB))
    none = apply(changes.without_member(KEY, now=LATER), one)

    assert (one.is_active, one.participants) == (True, (ALICE,))
    assert (none.is_active, none.close_reason, none.closed_at) == (False, "empty", LATER)


def test_an_absence_that_is_known_is_no_change() -> None:
    away = apply(changes.with_absence(KEY, away=True, now=LATER), room_of(ALICE))

    with pytest.raises(NotFoundError, match="known to be away"):
        apply(changes.with_absence(KEY, away=True, now=LATER), away)
    back = apply(changes.with_absence(KEY, away=False, now=LATER), away)
    with pytest.raises(NotFoundError, match="known to be back"):
        apply(changes.with_absence(KEY, away=False, now=LATER), back)


def test_the_rooms_metadata_is_replaced_but_not_its_birth() -> None:
    room = apply(changes.with_room_metadata({"created_at": 7, "topic": "y"}, now=LATER), room_of(ALICE))

    assert room.metadata == {"topic": "y", "created_at": 1_000_000}


def test_a_track_replaces_that_of_the_same_section_and_a_new_media_session_publishes_nothing() -> None:
    screen = Track(mid="0", track_name="screen")

    more = apply(changes.with_tracks(KEY, SessionId("s"), [screen, MICROPHONE], now=LATER), room_of(ALICE))
    replaced = apply(changes.with_media(KEY, SessionId("s2"), now=LATER), more)

    assert more.participants[0].tracks == (screen, MICROPHONE)
    assert (replaced.participants[0].session_id, replaced.participants[0].tracks) == ("s2", ())


def test_tracks_are_muted_and_removed_by_their_section_and_no_change_is_refused() -> None:
    room = room_of(member("alice", CAMERA, MICROPHONE))

    muted = apply(changes.with_muted(KEY, {"1"}, muted=True, now=LATER), room)
    removed = apply(changes.without_tracks(KEY, {"0"}, now=LATER), muted)

    assert [track.muted for track in muted.participants[0].tracks] == [False, True]
    assert [track.mid for track in removed.participants[0].tracks] == ["1"]
    for change in (
        changes.with_muted(KEY, {"1", "9"}, muted=True, now=LATER),
        changes.without_tracks(KEY, {"0", "9"}, now=LATER),
    ):
        with pytest.raises(NotFoundError, match="no such tracks"):
            apply(change, removed)


def test_a_client_is_found_by_its_name_and_by_its_membership() -> None:
    room = room_of(ALICE, BOB)

    assert changes.find(room, KEY) == ALICE
    assert changes.find(room, KEY._replace(generation=2)) is None
    assert changes.find_client(room, "bob") == BOB
    assert changes.find_client(room, "carol") is None
