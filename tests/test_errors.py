"""The errors of service and SDK: an error survives the wire as what it is, and newer services are understood."""

from __future__ import annotations

import re

import pytest

from signal_manager import errors
from signal_manager.errors import (
    ConfigurationError,
    ForbiddenError,
    MalformedMessageError,
    NotFoundError,
    RateLimitedError,
    SignalManagerError,
    error_from_wire,
)

# A malformed message and a configuration have no error of their own on the wire.
OFF_THE_WIRE = (SignalManagerError, ConfigurationError, MalformedMessageError)
ON_THE_WIRE: list[type[SignalManagerError]] = [
    error
    for error in (getattr(errors, name) for name in errors.__all__)
    if isinstance(error, type) and issubclass(error, SignalManagerError) and error not in OFF_THE_WIRE
]


@pytest.mark.parametrize("error", ON_THE_WIRE)
def test_an_error_comes_back_as_its_own_class(error: type[SignalManagerError]) -> None:
    sent = error("expected x, got y", details={"retry_after": 1.5})

    came = error_from_wire(sent.code, sent.message, sent.details, may_retry=sent.may_retry)

    assert type(came) is error
    assert (came.code, came.message, came.details, came.may_retry) == (
        sent.code,
        "expected x, got y",
        {"retry_after": 1.5},
        sent.may_retry,
    )


def test_each_code_belongs_to_one_class() -> None:
    codes = [error.code for error in ON_THE_WIRE]

    assert len(set(codes)) == len(codes)
    assert set(codes) == set(errors._BY_CODE)


@pytest.mark.parametrize("code", [0, 418, 500, 599])
def test_a_code_of_a_newer_service_is_kept(code: int) -> None:
    error = error_from_wire(code, "something new", may_retry=True)

    assert (type(error), error.code, error.may_retry) == (SignalManagerError, code, True)


def test_a_service_may_allow_a_retry_but_not_take_it_away() -> None:
    assert error_from_wire(404, "not yet", may_retry=True).may_retry
    assert error_from_wire(429, "wait", may_retry=False).may_retry
    # One error from a service changes nothing of its class.
    assert not NotFoundError("x").may_retry
    assert RateLimitedError("x").may_retry


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    assert errors.__doc__ is not None
    written = dict(re.findall(r"(\w+Error) +(\d{3})", errors.__doc__))
    retried = set(re.findall(r"(\w+Error) +\d{3}  may retry", errors.__doc__))
    classes: dict[str, type[SignalManagerError]] = {
        error.__name__: error for error in [*ON_THE_WIRE, MalformedMessageError, SignalManagerError]
    }

    assert written == {name: str(error.code) for name, error in classes.items()}
    assert retried == {name for name, error in classes.items() if error.may_retry}


def test_a_malformed_message_knows_which_it_was() -> None:
    error = MalformedMessageError("not JSON", message_id=bytes(16))

    assert (error.message_id, MalformedMessageError("not even a header").message_id) == (bytes(16), None)


def test_an_error_is_its_message_for_a_person() -> None:
    assert str(ForbiddenError("the token does not allow to publish")) == "the token does not allow to publish"
    assert issubclass(ForbiddenError, Exception)
