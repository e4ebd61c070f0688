"""Errors of a media backend: each has a code on the wire, and says what its session is worth afterwards."""

from __future__ import annotations

import re

import pytest

from signal_manager.errors import SignalManagerError, error_from_wire
from signal_manager.media import errors
from signal_manager.media.errors import FAULTS, After, MediaFault, SessionGoneError, SessionNotReadyError

KINDS = [
    kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and kind.__module__ == errors.__name__
]
FAULT_KINDS = [kind for kind in KINDS if issubclass(kind, MediaFault) and kind is not MediaFault]


@pytest.mark.parametrize("kind", FAULT_KINDS, ids=lambda kind: kind.__name__)
def test_a_fault_reaches_a_client_as_the_error_that_it_is(kind: type[MediaFault]) -> None:
    fault = kind("the SFU refused")

    arrived = error_from_wire(fault.code, fault.message, may_retry=fault.may_retry)

    assert isinstance(fault, type(arrived))
    assert type(arrived) is not SignalManagerError
    assert (arrived.may_retry, arrived.message) == (fault.may_retry, "the SFU refused")


@pytest.mark.parametrize("code", FAULTS)
def test_each_code_of_the_sfu_is_the_label_of_its_fault(code: str) -> None:
    assert FAULTS[code].error_code == code


def test_a_session_that_is_gone_shares_its_code_with_one_that_is_not_ready() -> None:
    """The HTTP status tells them apart; in an item there is none, and the session lives."""
    assert SessionGoneError.error_code == SessionNotReadyError.error_code
    assert FAULTS["session_error"] is SessionNotReadyError
    assert (SessionNotReadyError.after, SessionGoneError.after) == (After.TRY_LATER, After.REPLACE)


@pytest.mark.parametrize("kind", FAULT_KINDS, ids=lambda kind: kind.__name__)
def test_what_may_be_tried_again_later_leaves_its_session_alone_or_has_lost_it(kind: type[MediaFault]) -> None:
    fault = kind("x")

    assert fault.after is not After.REFUSED or not fault.may_retry


def test_one_fault_may_say_more_of_its_session_than_its_class() -> None:
    fault = errors.InvalidParametersError("x", after=After.REPLACE)

    assert fault.after is After.REPLACE
    assert errors.InvalidParametersError("y").after is After.REFUSED


def test_the_tree_in_the_docstring_has_every_fault_with_its_code() -> None:
    tree = errors.__doc__ or ""
    codes = {}
    code = 0
    for line in tree.splitlines():
        if found := re.search(r"(\d{3}) ──", line):
            code = int(found[1])
        for name in re.findall(r"\b([A-Z]\w+Error)\b", line.rpartition("──")[2]):
            codes[name] = code

    assert {name: codes.get(name) for name in sorted(kind.__name__ for kind in FAULT_KINDS)} == {
        kind.__name__: kind.code for kind in sorted(FAULT_KINDS, key=lambda kind: kind.__name__)
    }
