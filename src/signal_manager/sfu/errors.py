"""The refusals of the local SFU: Cloudflare's error codes with their HTTP statuses.

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
    """The reason why one item of a request failed; others may have succeeded."""

    code: str
    description: str


def decoding_error(description: str) -> RefusedError:
    """Return the refusal of a body that is not the expected JSON."""
    return RefusedError(400, "decoding_error", description)


def invalid_params(description: str) -> RefusedError:
    """Return the refusal of a wrong field or combination of fields, or of an exceeded limit."""
    return RefusedError(406, "invalid_params", description)


def bad_description(description: str) -> RefusedError:
    """Return the refusal of a session description that is malformed or out of order."""
    return RefusedError(406, "invalid_session_description", description)


def not_ready() -> RefusedError:
    """Return the refusal while the transport is not connected."""
    return RefusedError(
        425,
        "session_error",
        "Session is not ready yet. Please ensure the PeerConnection is connected before making this request",
    )


def gone(description: str) -> RefusedError:
    """Return the refusal for a session that expired, was closed or never existed."""
    return RefusedError(410, "session_error", description)
