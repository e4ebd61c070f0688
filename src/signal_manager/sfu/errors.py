"""How the local SFU refuses: Cloudflare's error codes, with the HTTP status each comes with.

Neighbours: `http` turns a `RefusedError` into a response, and `sessions` puts an `ItemError` into a track of a 200.
"""

from __future__ import annotations

from dataclasses import dataclass

from signal_manager.errors import SignalManagerError

__all__ = [
    "ItemError",
    "RefusedError",
    "bad_description",
    "decoding_error",
    "gone",
    "invalid_params",
    "not_ready",
]


class RefusedError(SignalManagerError):
    """Refuse a whole request with an HTTP status and Cloudflare's errorCode."""

    def __init__(self, status: int, error_code: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.error_code = error_code


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one item of a request failed while the others may have succeeded."""

    code: str
    description: str


def decoding_error(description: str) -> RefusedError:
    """Say that the body is not the JSON that was expected."""
    return RefusedError(400, "decoding_error", description)


def invalid_params(description: str) -> RefusedError:
    """Say that a field, a combination of fields or a limit is wrong."""
    return RefusedError(406, "invalid_params", description)


def bad_description(description: str) -> RefusedError:
    """Say that a session description cannot be read, or comes out of order."""
    return RefusedError(406, "invalid_session_description", description)


def not_ready() -> RefusedError:
    """Say that the transport did not connect in time."""
    return RefusedError(
        425,
        "session_error",
        "Session is not ready yet. Please ensure the PeerConnection is connected before making this request",
    )


def gone(description: str) -> RefusedError:
    """Say that the session expired, was closed or never was."""
    return RefusedError(410, "session_error", description)
