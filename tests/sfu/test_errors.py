"""How the SFU refuses: Cloudflare's codes with their statuses."""

from __future__ import annotations

import pytest

from signal_manager.errors import SignalManagerError
from signal_manager.media.cloudflare_wire import fault_of
from signal_manager.media.errors import (
    InvalidParametersError,
    InvalidSessionDescriptionError,
    MediaFault,
    RequestNotUnderstoodError,
    SessionGoneError,
    SessionNotReadyError,
)
from signal_manager.sfu.api import failed
from signal_manager.sfu.errors import RefusedError, bad_description, decoding_error, gone, invalid_params, not_ready


@pytest.mark.parametrize(
    ("error", "status", "fault"),
    [
        (decoding_error("x"), 400, RequestNotUnderstoodError),
        (invalid_params("x"), 406, InvalidParametersError),
        (bad_description("x"), 406, InvalidSessionDescriptionError),
        (not_ready(), 425, SessionNotReadyError),
        (gone("x"), 410, SessionGoneError),
    ],
    ids=lambda value: getattr(value, "error_code", ""),
)
def test_each_refusal_is_what_the_services_adapter_reads(
    error: RefusedError, status: int, fault: type[MediaFault]
) -> None:
    response = failed(error)

    assert (response.status, error.status) == (status, status)
    assert type(fault_of(response.status, response.body, of_session=True)) is fault


def test_a_refusal_is_an_error_of_the_project_with_its_description() -> None:
    error = gone("the session has expired")

    assert isinstance(error, SignalManagerError)
    assert str(error) == error.message == "the session has expired"
