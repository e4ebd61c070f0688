"""How members are told of a change, and that one who cannot be told harms nobody."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from structlog.testing import capture_logs

from signal_manager.bus.base import Delivery, Outcome
from signal_manager.errors import InvalidRequestError, SignalManagerError, UnavailableError
from signal_manager.model import ClientId, MemberRecord, NodeId, RoomId, SessionId, Track
from signal_manager.protocol.catalogue import ROOM_EVENTS
from signal_manager.protocol.messages import Message, PublishedTrack
from signal_manager.rooms.events import describe, describe_all, event, tell
from signal_manager.rooms.room_log import Change, Happening
from tests.rooms.harness import ROOM, RecordingBus

ALICE = MemberRecord(
    client_id=ClientId("alice"),
    role="sender",
    session_id=SessionId("session-1"),
    metadata={"name": "Alice"},
    tracks=(Track(mid="0", track_name="camera", kind="video", muted=True), Track(mid="1", track_name="x", kind="???")),
    node_id=NodeId("node-1"),
    generation=7,
)


def test_a_member_is_shown_without_what_is_the_services_own() -> None:
    shown = describe(ALICE)

    assert (shown.client_id, shown.role, shown.session_id, shown.metadata) == (
        "alice",
        "sender",
        "session-1",
        {"name": "Alice"},
    )
    fields = msgspec.to_builtins(shown)
    assert not {"node_id", "generation"} & set(fields)


def test_tracks_keep_their_mute_state_and_lose_a_kind_that_the_protocol_lacks() -> None:
    assert describe(ALICE).tracks == [
        PublishedTrack(mid="0", track_name="camera", kind="video", muted=True),
        PublishedTrack(mid="1", track_name="x"),
    ]


def test_members_are_shown_in_the_order_in_which_they_joined() -> None:
    others = [msgspec.structs.replace(ALICE, client_id=ClientId(name)) for name in ("zoe", "bob")]

    assert [member.client_id for member in describe_all([*others, ALICE])] == ["zoe", "bob", "alice"]


def test_an_event_has_what_the_change_has_and_nothing_else() -> None:
    left = event(ROOM, Change(sequence=3, event="participant_left", participant=ALICE, reason="left"))
    closed = event(ROOM, Change(sequence=4, event="room_closed", reason="ended"))

    assert (left.room_id, left.sequence, left.event, left.reason) == (ROOM, 3, "participant_left", "left")
    assert left.participant == describe(ALICE)
    assert (left.tracks, closed.participant, closed.metadata) == (None, None, None)


def test_every_event_of_a_room_is_in_the_protocols_table() -> None:
    assert set(get_args(Happening)) == set(ROOM_EVENTS)


@pytest.mark.parametrize(
    ("error", "logged"),
    [(InvalidRequestError("the target's protocol has no ROOM_EVENT"), False), (UnavailableError("cut off"), True)],
)
def test_a_member_that_cannot_be_told_is_passed_over(error: SignalManagerError, logged: bool) -> None:
    class Failing(RecordingBus):
        def send(
            self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
        ) -> Delivery:
            raise error

    news = event(RoomId("r"), Change(sequence=1, event="room_closed"))

    with capture_logs() as logs:
        tell(Failing(lambda: None), ClientId("alice"), news)

    assert [line["client_id"] for line in logs] == (["alice"] if logged else [])
