"""How long an operation that came too early is repeated, and for whom it waits."""

from __future__ import annotations

import pytest

from signal_manager.media.base import ItemError, MediaSessionId, Pulled, RemoteTrack, TrackResult
from signal_manager.media.operations import Pull
from signal_manager.media.repetition import Repetition

ANN, BEN = MediaSessionId("ann"), MediaSessionId("ben")
NOT_YET = ItemError(error_code="not_found_track_error", message="not yet")


def early(*publishers: MediaSessionId) -> Pulled:
    return Pulled(tracks=tuple(TrackResult(session_id=each, error=NOT_YET) for each in publishers))


def pull(*publishers: MediaSessionId) -> Pull:
    return Pull(tuple(RemoteTrack(session_id=each, track_name="camera") for each in publishers))


@pytest.fixture
def repetition() -> Repetition:
    made = Repetition(patience=3.0, pauses=(0.5, 1.0))
    made.begin(10.0)
    return made


def test_the_pauses_grow_and_the_last_one_repeats(repetition: Repetition) -> None:
    assert [repetition.wait(0.0, early(ANN)) for _ in range(3)] == [0.5, 1.0, 1.0]

    repetition.begin(0.0)

    assert repetition.wait(0.0, early(ANN)) == 0.5


def test_no_attempt_begins_after_the_patience_has_ended(repetition: Repetition) -> None:
    repetition.wait(10.0, early(ANN))

    assert repetition.may_wait(12.0)
    assert not repetition.may_wait(12.1)


def test_a_pull_is_hopeless_once_all_its_publishers_are_gone(repetition: Repetition) -> None:
    repetition.wait(10.0, early(ANN, BEN))
    repetition.source_gone(ANN)
    assert not repetition.is_hopeless

    repetition.source_gone(BEN)

    assert repetition.is_hopeless
    assert not repetition.is_early(early(ANN, BEN))


def test_a_publisher_that_no_waiting_pull_names_is_forgotten(repetition: Repetition) -> None:
    repetition.source_gone(ANN)
    repetition.source_gone(BEN)

    repetition.keep_gone([pull(ANN)])

    assert (repetition.is_early(early(ANN)), repetition.is_early(early(BEN))) == (False, True)
    repetition.keep_gone()
    assert repetition.is_early(early(ANN))
