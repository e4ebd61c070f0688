"""Members' requests in the SFU's words, and its replies in theirs: each item keeps its place and has its own error."""

from __future__ import annotations

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.media import base as media
from signal_manager.media.base import ItemError, MediaSessionId, RemoteTrack
from signal_manager.media.errors import MediaFault
from signal_manager.model import ClientId, SessionId, Track
from signal_manager.protocol.messages import (
    MAX_ITEMS,
    DataChannelRequest,
    IceServer,
    PublishedTrack,
    Simulcast,
    TrackMute,
    TrackRequest,
    TrackResult,
    TrackUpdate,
)
from signal_manager.rooms import requests
from signal_manager.rooms.requests import Publisher

S1, S2 = MediaSessionId("session-1"), MediaSessionId("session-2")
CAMERA = Track(mid="0", track_name="camera", kind="video")
SCREEN = Track(mid="1", track_name="screen")
ALICE = Publisher(ClientId("alice"), SessionId(S1), {"camera": CAMERA, "screen": SCREEN}, frozenset({"camera"}))
BOB = Publisher(ClientId("bob"), SessionId(S2), {"camera": CAMERA}, frozenset({"camera"}))
EMPTY = ItemError(error_code="empty_track_error", message="no packets")


@pytest.mark.parametrize(("role", "read"), [("sender", "sender"), ("SENDER", "sender"), ("Receiver", "receiver")])
def test_a_role_is_read_in_any_case(role: str, read: str) -> None:
    assert requests.role_of(role) == read


@pytest.mark.parametrize("role", ["", "viewer", "sender "])
def test_another_role_is_refused(role: str) -> None:
    with pytest.raises(InvalidRequestError, match='expected "sender" or "receiver"'):
        requests.role_of(role)


def test_ice_servers_keep_their_credentials() -> None:
    servers = media.IceServers(servers=(media.IceServer(urls=("turn:t",), username="u", credential="c"),))

    assert requests.to_ice_servers(servers) == [IceServer(urls=["turn:t"], username="u", credential="c")]


# -- publishing ----------------------------------------------------------------------------------------------------


def test_tracks_to_publish_have_sections_of_their_own() -> None:
    wanted = requests.to_publish(
        [TrackRequest(mid="0", track_name="camera", kind="video", muted=True), TrackRequest(mid="1", track_name="mic")]
    )

    assert wanted == [
        PublishedTrack(mid="0", track_name="camera", kind="video", muted=True),
        PublishedTrack(mid="1", track_name="mic"),
    ]


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        ([TrackRequest(track_name="camera")], "has no mid"),
        ([TrackRequest(mid="0", track_name="camera", client_id="bob")], "to publish alone"),
        ([TrackRequest(mid="0", track_name="camera", session_id="s")], "to publish alone"),
        ([TrackRequest(mid="0", track_name="a"), TrackRequest(mid="0", track_name="b")], "expected them to differ"),
        ([TrackRequest(mid="0", track_name="a"), TrackRequest(mid="1", track_name="a")], "expected them to differ"),
    ],
)
def test_a_wrong_track_to_publish_is_refused(tracks: list[TrackRequest], expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        requests.to_publish(tracks)


def test_each_published_track_has_a_result_of_its_own() -> None:
    published = media.Published(
        tracks=(
            media.TrackResult(mid="0", track_name="camera"),
            media.TrackResult(mid="9", track_name="unknown"),
            media.TrackResult(track_name="broken", error=EMPTY),
        )
    )

    fine, unknown, broken = requests.published_results(published, {"0": CAMERA})

    assert fine == TrackResult(mid="0", track_name="camera", kind="video")
    assert (unknown.track_name, unknown.error_code) == ("unknown", 502)
    assert (broken.track_name, broken.error_message) == ("broken", "no packets")


def test_a_request_fails_only_when_every_item_does() -> None:
    fine, broken = media.TrackResult(mid="0"), media.TrackResult(error=EMPTY)

    requests.require_some([])
    requests.require_some([broken, fine])
    with pytest.raises(MediaFault, match="no packets"):
        requests.require_some([broken, broken])


def test_closing_what_is_closed_already_is_a_success() -> None:
    closed = media.ClosedTracks(
        tracks=(
            media.TrackResult(mid="0"),
            media.TrackResult(mid="1", error=ItemError(error_code="close_track_error", message="closed")),
            media.TrackResult(mid="2", error=ItemError(error_code="unknown_error", message="x")),
        )
    )

    results = requests.closed_results(closed)

    assert [result.error_code for result in results[:2]] == [None, None]
    assert results[2].error_code is not None


def test_only_published_tracks_are_muted() -> None:
    results = requests.muted_results([TrackMute(mid="0", muted=True), TrackMute(mid="9", muted=True)], {"0"})

    assert [result.error_code for result in results] == [None, 404]


# -- pulling -------------------------------------------------------------------------------------------------------


def test_a_pull_names_its_publisher_by_client_session_or_both_and_keeps_its_order() -> None:
    wanted = [
        TrackRequest(track_name="missing", client_id="alice"),
        TrackRequest(track_name="camera", session_id=S2, mid="5"),
        TrackRequest(track_name="camera", client_id="alice", session_id=S2),  # no such pair
        TrackRequest(track_name="screen", client_id="alice", session_id=S1),
    ]

    sources = requests.to_pull(wanted, [ALICE, BOB])
    results = sources.results([media.TrackResult(mid="5", track_name="camera", session_id=S2)])

    assert sources.remote == [
        RemoteTrack(session_id=S2, track_name="camera", mid="5"),
        RemoteTrack(session_id=S1, track_name="screen"),
    ]
    assert [(result.mid, result.error_code) for result in results] == [
        (None, 404),
        ("5", None),
        (None, 404),
        (None, 502),
    ]
    assert (results[1].client_id, results[1].kind) == ("bob", "video")


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        ([], "expected at least one"),
        ([TrackRequest(track_name="camera")], "neither client_id nor session_id"),
        (
            [TrackRequest(track_name="camera", client_id="bob"), TrackRequest(track_name="camera", session_id=S2)],
            "twice",
        ),
    ],
)
def test_a_wrong_pull_is_refused(tracks: list[TrackRequest], expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        requests.to_pull(tracks, [BOB])


def test_who_comes_in_pulls_what_is_announced_up_to_the_bound_of_a_request() -> None:
    names = [f"track-{number}" for number in range(MAX_ITEMS + 1)]
    many = Publisher(
        ClientId("many"),
        SessionId("s"),
        {name: Track(mid=name, track_name=name) for name in names},
        frozenset(names),
    )

    assert requests.everything([ALICE, BOB]).remote == [
        RemoteTrack(session_id=S1, track_name="camera"),
        RemoteTrack(session_id=S2, track_name="camera"),
    ]
    assert len(requests.everything([many]).remote) == MAX_ITEMS


@pytest.mark.parametrize(
    ("code", "is_doubtful"), [("empty_track_error", True), ("not_found_track_error", True), ("other", False)]
)
def test_a_failed_pull_casts_doubt_on_the_track_only_if_the_track_is_the_reason(code: str, is_doubtful: bool) -> None:
    replies = [
        media.TrackResult(session_id=S1, track_name="camera", error=ItemError(error_code=code, message="x")),
        media.TrackResult(session_id=S1, track_name="fine"),
        media.TrackResult(track_name="of no session", error=ItemError(error_code=code, message="x")),
    ]

    doubtful = [RemoteTrack(session_id=S1, track_name="camera")] if is_doubtful else []
    assert requests.not_there(replies) == doubtful


# -- updates -------------------------------------------------------------------------------------------------------


def test_a_pulled_track_changes_its_layer_or_its_source() -> None:
    wanted = requests.to_update(
        [
            TrackUpdate(mid="0", simulcast=Simulcast(preferred_rid="h")),
            TrackUpdate(mid="1", track_name="camera", client_id="bob"),
            TrackUpdate(mid="2", track_name="missing", client_id="bob"),
            TrackUpdate(mid="3", track_name="camera", client_id="nobody"),
        ],
        [ALICE, BOB],
    )
    results = wanted.results([media.TrackResult(mid="0"), media.TrackResult(mid="1", error=EMPTY)])

    layer, source = wanted.updates
    assert layer.simulcast == media.Simulcast(preferred_rid="h", priority_ordering="none", rid_not_available="none")
    assert (source.session_id, source.track_name) == (S2, "camera")
    assert [(result.mid, result.error_code) for result in results] == [
        ("0", None),
        ("1", EMPTY.as_fault().code),
        ("2", 404),
        ("3", 404),
    ]


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        ([], "expected at least one"),
        ([TrackUpdate(mid="0")], "neither simulcast nor track_name"),
        ([TrackUpdate(mid="0", track_name="camera")], "neither client_id nor session_id"),
    ],
)
def test_a_wrong_update_is_refused(tracks: list[TrackUpdate], expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        requests.to_update(tracks, [BOB])


# -- data channels -------------------------------------------------------------------------------------------------


def test_the_sfus_replies_go_to_the_channels_that_it_was_asked_for() -> None:
    wanted = requests.to_channels(
        [
            DataChannelRequest(location="remote", data_channel_name="chat", client_id="nobody"),
            DataChannelRequest(location="local", data_channel_name="chat", ordered=False),
            DataChannelRequest(location="remote", data_channel_name="chat", client_id="alice"),
            DataChannelRequest(location="local", data_channel_name="forgotten"),
        ],
        [ALICE],
    )
    results = wanted.results([media.ChannelResult(id=3), media.ChannelResult(error=EMPTY)])

    assert [channel.session_id for channel in wanted.channels] == [None, S1, None]
    assert [(result.id, result.error_code) for result in results] == [
        (None, 404),
        (3, None),
        (None, EMPTY.as_fault().code),
        (None, 502),
    ]
    assert (results[2].client_id, results[2].session_id) == ("alice", S1)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (
            DataChannelRequest(location="local", data_channel_name="c", max_retransmits=1, max_packet_life_time=1),
            "at most one",
        ),
        (DataChannelRequest(location="remote", data_channel_name="c"), "neither client_id nor session_id"),
    ],
)
def test_a_wrong_channel_is_refused(channel: DataChannelRequest, expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        requests.to_channels([channel], [ALICE])
