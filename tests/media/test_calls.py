"""One call is in progress, and a session that was given up leaves orphans."""

from __future__ import annotations

import pytest

from signal_manager.media.base import MediaSessionId
from signal_manager.media.calls import Calls

S = MediaSessionId("s")


def test_only_the_call_in_progress_can_end() -> None:
    calls = Calls()
    number = calls.begin()

    with pytest.raises(RuntimeError, match=rf"call {number + 1} was reported, expected call {number}"):
        calls.end(number + 1)
    calls.end(number)

    assert not calls.is_in_progress
    with pytest.raises(RuntimeError, match="expected call None"):
        calls.end(number)


def test_a_call_of_a_session_that_was_given_up_is_an_orphan_until_it_ends() -> None:
    calls = Calls()
    orphan = calls.begin()

    calls.give_up(S)
    number = calls.begin()

    assert calls.is_in_progress
    assert (calls.is_orphan(orphan), calls.is_orphan(number)) == (True, False)
    assert calls.end_orphan(orphan) == S
    assert not calls.is_orphan(orphan)


def test_a_session_without_a_call_leaves_no_orphan() -> None:
    calls = Calls()
    number = calls.begin()
    calls.end(number)

    calls.give_up(S)

    assert not calls.is_orphan(number)
