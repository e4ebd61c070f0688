"""What matters about operations and replies, by cases."""

from __future__ import annotations

import pytest

from signal_manager.media.base import (
    ChannelResult,
    ClosedTracks,
    EstablishedChannels,
    ItemError,
    MediaSessionId,
    Published,
    Pulled,
    TrackResult,
)
from signal_manager.media.operations import (
    Answer,
    CloseTracks,
    EstablishChannels,
    Operation,
    Publish,
    Pull,
    Result,
    awaits_answer,
    came_too_early,
    carries_sdp,
    caused_mids,
    closed_mids,
)

GOOD = TrackResult(mid="0")
EARLY = TrackResult(error=ItemError(error_code="empty_track_error", message=""))
REFUSED = TrackResult(error=ItemError(error_code="invalid_params", message=""))
ALREADY = TrackResult(mid="1", error=ItemError(error_code="close_track_error", message=""))
EARLY_CHANNEL = ChannelResult(error=ItemError(error_code="session_error", message=""))
SESSION = MediaSessionId("session")


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Publish("offer"), True),
        (Answer("answer"), True),
        (CloseTracks(("0",), "offer"), True),
        (CloseTracks(("0",)), False),
        (EstablishChannels("offer"), True),
        (EstablishChannels(), False),
        (Pull(()), False),
    ],
)
def test_an_operation_carries_an_sdp_or_none(operation: Operation, expected: bool) -> None:
    assert carries_sdp(operation) is expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Published(tracks=(GOOD, REFUSED)), ("0",)),
        (Pulled(tracks=(EARLY, GOOD)), ("0",)),
        (ClosedTracks(tracks=(GOOD,)), ()),
        ((GOOD,), ()),
        (SESSION, ()),
        (None, ()),
    ],
)
def test_only_new_tracks_are_caused(result: Result, expected: tuple[str, ...]) -> None:
    assert caused_mids(result) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [(ClosedTracks(tracks=(GOOD, ALREADY, REFUSED)), ("0", "1")), (Published(tracks=(GOOD,)), ()), (None, ())],
)
def test_what_was_closed_before_counts_as_closed(result: Result, expected: tuple[str, ...]) -> None:
    assert closed_mids(result) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Pulled(tracks=(GOOD,), offer_sdp="offer", requires_renegotiation=True), True),
        (Pulled(tracks=(GOOD,)), False),
        (EstablishedChannels(channel=ChannelResult(), offer_sdp="offer", requires_renegotiation=True), True),
        (Published(tracks=(GOOD,), answer_sdp="answer"), False),
    ],
)
def test_only_an_offer_of_the_sfu_awaits_an_answer(result: Result, expected: bool) -> None:
    assert awaits_answer(result) is expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Pulled(tracks=(EARLY, EARLY)), True),
        (Pulled(tracks=(EARLY, REFUSED)), True),
        (Pulled(tracks=(EARLY, GOOD)), False),
        (Pulled(tracks=(REFUSED,)), False),
        (Published(tracks=()), False),
        (ClosedTracks(tracks=(GOOD,)), False),
        (EstablishedChannels(channel=EARLY_CHANNEL), True),
        ((EARLY_CHANNEL,), True),
        ((), False),
        (SESSION, False),
        (None, False),
    ],
)
def test_too_early_means_that_nothing_succeeded_and_something_may(result: Result, expected: bool) -> None:
    assert came_too_early(result) is expected
