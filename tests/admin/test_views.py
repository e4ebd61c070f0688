"""Bodies of the management interface: what they show of records, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from signal_manager.admin.views import (
    ClientDetails,
    ClientView,
    Close,
    ErrorView,
    NewMetadata,
    NewToken,
    RoomDetails,
    RoomView,
    SessionView,
)
from signal_manager.gateway.live_sessions import RecentError
from signal_manager.model import ClientId, ClientRecord, Grants, MemberRecord, NodeId, Room, RoomId, SessionId, Track
from tests.admin.fakes import FakeSession

TRACK = Track(mid="0", track_name="camera", kind="video")
ALICE = MemberRecord(
    client_id=ClientId("alice"),
    role="sender",
    session_id=SessionId("media"),
    tracks=(TRACK,),
    node_id=NodeId("n"),
    away=True,
)
RECORD = ClientRecord(
    client_id=ClientId("alice"),
    auth_token="sha256:secret",
    capabilities=("chat",),
    metadata={"name": "Alice"},
    tracks=(TRACK,),
    status="online",
    last_seen_at=5.0,
)


def test_a_clients_token_is_never_shown() -> None:
    for view in (
        ClientView.of("alice", RECORD, is_connected=True),
        ClientDetails.from_record("alice", RECORD, []),
    ):
        assert "secret" not in view.model_dump_json()


def test_a_client_that_is_connected_without_a_record_is_shown_all_the_same() -> None:
    session = SessionView.of(FakeSession(ClientId("bob"), SessionId("s"), age=1.26), "r", "n")

    details = ClientDetails.from_record("bob", None, [session])

    assert (details.is_connected, details.is_registered, details.status, details.tracks) == (True, False, None, [])
    assert (session.age, session.room_id, session.node_id) == (1.3, "r", "n")


def test_a_room_is_shown_with_its_members_and_their_tracks() -> None:
    room = Room(room_id=RoomId("r"), participants=(ALICE,), metadata={"created_at": 2500}, is_active=True)

    details = RoomDetails.from_record(room)

    assert (details.participants, details.tracks, details.created_at) == (1, 1, 2.5)
    (member,) = details.members
    assert (member.client_id, member.away, member.media_session_id) == ("alice", True, "media")
    assert member.tracks[0].track_name == "camera"


@pytest.mark.parametrize("created_at", ["yesterday", None, [1]])
def test_a_birth_that_is_no_number_is_none(created_at: object) -> None:
    assert (
        RoomView.of(Room(room_id=RoomId("r"), metadata={"created_at": created_at}, is_active=True)).created_at is None
    )


def test_an_error_is_shown_with_who_got_it() -> None:
    view = ErrorView.of(RecentError(1.23456, 404, "no such room", None))

    assert (view.at, view.code, view.client_id) == (1.235, 404, None)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (Close, {"reason": ""}),
        (Close, {"reason": "x" * 257}),
        (Close, {"because": "x"}),
        (NewMetadata, {}),
        (NewMetadata, {"metadata": []}),
        (NewToken, {"client_id": "a", "ttl": 0}),
        (NewToken, {"client_id": "a", "ttl": 4e8}),
        (NewToken, {"client_id": "a", "rooms": [""]}),
        (NewToken, {"client_id": "a", "rooms": ["x"] * 101}),
        (NewToken, {"client_id": "a", "roles": ["sender", "receiver", "third"]}),
        (NewToken, {"client_id": "a", "may": "everything"}),
    ],
)
def test_a_wrong_body_is_refused(body: Any, value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        body.model_validate(value)


def test_absent_grants_allow_everything_but_administration() -> None:
    assert NewToken(client_id="a").grants() == Grants()
    asked = NewToken(client_id="a", rooms=["r*"], roles=["sender"], signal_to=[], publish=False, admin=True)

    assert asked.grants() == Grants(rooms=("r*",), roles=("sender",), signal_to=(), publish=False, admin=True)
