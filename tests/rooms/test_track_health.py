"""Which announced tracks still send, judged by the SFU's answers."""

from __future__ import annotations

import pytest

from signal_manager.media.base import SessionState, TrackState
from signal_manager.rooms.track_health import TrackHealth


@pytest.mark.parametrize(("answers", "dead"), [("+", ""), ("-", "0"), ("+-", ""), ("-+-", "0")])
def test_a_failed_pull_counts_once_and_only_together_with_a_bad_answer(answers: str, dead: str) -> None:
    health = TrackHealth()
    health.announce("0")
    health.doubt("0")

    found: set[str] = set()
    for answer in answers:
        track = TrackState(mid="0", track_name="camera", location="local", is_active=answer == "+")
        found |= health.read(SessionState(tracks=(track,)), health.ask()).dead

    assert "".join(found) == dead


def test_a_closed_track_of_the_same_section_does_not_hide_its_successor() -> None:
    health = TrackHealth()
    health.announce("0")
    states = [
        TrackState(mid="0", track_name=name, location="local", is_active=name == "new") for name in ("new", "old")
    ]

    findings = [health.read(SessionState(tracks=tuple(states)), health.ask()) for _ in range(3)]

    assert {finding.dead for finding in findings} == {frozenset()}


def state(**active: bool) -> SessionState:
    """Return the SFU's answer; names are mids after an underscore."""
    return SessionState(
        tracks=tuple(
            TrackState(mid=name.removeprefix("_"), track_name=name, location="local", is_active=is_active)
            for name, is_active in active.items()
        )
    )


def test_a_track_is_dead_after_two_bad_answers_in_a_row() -> None:
    health = TrackHealth()
    health.announce(["0", "1"])

    reports = [health.read(answer, health.ask()) for answer in (state(_0=False, _1=True), state(_0=False, _1=True))]

    assert [report.dead for report in reports] == [frozenset(), frozenset({"0"})]


def test_a_dead_track_that_sends_again_is_back() -> None:
    health = TrackHealth()
    health.announce(["0"])
    health.unpublished(["0", "never announced"])

    still_silent = health.read(state(_0=False), health.ask())
    back = health.read(state(_0=True), health.ask())
    health.announce(back.back)
    afterwards = health.read(state(_0=True), health.ask())

    assert (still_silent.back, back.back, afterwards.back) == (frozenset(), frozenset({"0"}), frozenset())


def test_a_track_that_the_sfu_does_not_have_is_asked_about_soon_and_a_silent_one_is_not() -> None:
    health = TrackHealth()
    health.announce(["0"])

    assert health.read(state(), health.ask()).is_urgent
    assert not health.read(state(_0=True), health.ask()).is_urgent
    assert not health.read(state(_0=False), health.ask()).is_urgent


def test_pulled_tracks_of_the_same_session_say_nothing_of_its_own() -> None:
    health = TrackHealth()
    health.announce(["0"])
    pulled = SessionState(tracks=(TrackState(mid="0", track_name="x", location="remote", is_active=True),))

    reports = [health.read(pulled, health.ask()) for _ in range(2)]

    assert reports[1].dead == {"0"}


def test_what_is_closed_is_not_worth_asking_about() -> None:
    health = TrackHealth()
    health.doubt(["0"])
    unknown = health.is_doubted
    health.announce(["0", "1"])
    health.doubt(["0"])
    doubted = health.is_doubted
    health.forget(["0"])

    assert (unknown, doubted, health.is_doubted, health.is_worth_asking) == (False, True, False, True)
    health.clear()
    assert not health.is_worth_asking


def test_a_doubt_that_comes_during_a_question_needs_the_next_one() -> None:
    health = TrackHealth()
    health.announce(["0"])
    asked = health.ask()
    health.doubt(["0"])

    first = health.read(state(_0=False), asked)
    second_asked = health.ask()

    assert (asked, first.dead, second_asked) == (frozenset(), frozenset(), frozenset({"0"}))
