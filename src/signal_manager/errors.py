"""The errors of the service and the SDK, and their codes on the wire.

    SignalManagerError                500
    ├── ConfigurationError            not on the wire: one line for a person, exit status 2
    ├── MalformedMessageError         400  the peer's bytes or fields are wrong
    ├── InvalidRequestError           400  well formed, but not allowed in this state
    ├── AuthenticationError           401
    ├── ForbiddenError                403
    ├── NotFoundError                 404
    ├── TooLateError                  408  may retry
    ├── ConflictError                 409
    ├── TooLargeError                 413
    ├── NotReadyError                 425  may retry
    ├── RateLimitedError              429  may retry
    ├── MediaBackendError             502
    └── UnavailableError              503  may retry

The codes are those of docs/protocol.md, "Errors and close codes". The peer sees an error's message: it says what was
expected and what came, and never contains a token, an SDP, a path or a stack trace.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "TOKEN_EXPIRED",
    "AuthenticationError",
    "ConfigurationError",
    "ConflictError",
    "ForbiddenError",
    "InvalidRequestError",
    "MalformedMessageError",
    "MediaBackendError",
    "NotFoundError",
    "NotReadyError",
    "RateLimitedError",
    "SignalManagerError",
    "TooLargeError",
    "TooLateError",
    "UnavailableError",
    "error_from_wire",
]


# `details.reason` of an AuthenticationError that a new token resolves (docs/protocol.md, "Tokens").
TOKEN_EXPIRED = "token_expired"  # noqa: S105 - no password


class SignalManagerError(Exception):
    """The root of all errors here; as such an internal error.

    Args:
        message: what was expected and what came; safe to show to the peer.
        details: machine-readable details, sent as `details` of ERROR.
    """

    # Defaults of the class; an error from a service may have its own values.
    code: int = 500
    may_retry: bool = False

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class ConfigurationError(SignalManagerError):
    """The configuration cannot work; the message names the setting."""


class MalformedMessageError(SignalManagerError):
    """The peer sent bytes or fields that the protocol does not allow.

    `message_id` is the sixteen UUID bytes of the request if they could be read, for the ERROR to repeat.
    """

    code = 400

    def __init__(self, message: str, *, message_id: bytes | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.message_id = message_id


class InvalidRequestError(SignalManagerError):
    """The request is well formed but not allowed in the present state."""

    code = 400


class AuthenticationError(SignalManagerError):
    """The credentials are missing, wrong or expired."""

    code = 401


class ForbiddenError(SignalManagerError):
    """The credentials are valid but do not allow this request."""

    code = 403


class NotFoundError(SignalManagerError):
    """The client or room does not exist."""

    code = 404


class TooLateError(SignalManagerError):
    """The time limit has passed."""

    code = 408
    may_retry = True


class ConflictError(SignalManagerError):
    """The request contradicts the present state: registered by another, already in the room, or replaced."""

    code = 409


class TooLargeError(SignalManagerError):
    """The message is too large; the error's text has its size and the limit."""

    code = 413


class NotReadyError(SignalManagerError):
    """The media session is not ready for this request yet."""

    code = 425
    may_retry = True


class RateLimitedError(SignalManagerError):
    """The client sent too many messages or requests in too short a time."""

    code = 429
    may_retry = True


class MediaBackendError(SignalManagerError):
    """The SFU refused the request."""

    code = 502


class UnavailableError(SignalManagerError):
    """A part that the service depends on does not answer, or the service is draining."""

    code = 503
    may_retry = True


_BY_CODE: dict[int, type[SignalManagerError]] = {
    error.code: error
    for error in (
        InvalidRequestError,
        AuthenticationError,
        ForbiddenError,
        NotFoundError,
        TooLateError,
        ConflictError,
        TooLargeError,
        NotReadyError,
        RateLimitedError,
        MediaBackendError,
        UnavailableError,
    )
}


def error_from_wire(
    code: int, message: str, details: dict[str, Any] | None = None, *, may_retry: bool = False
) -> SignalManagerError:
    """Return the error for an ERROR message; an unknown code gives a `SignalManagerError` with that code.

    Args:
        may_retry: allows a retry even if the class of the error does not.
    """
    error = _BY_CODE.get(code, SignalManagerError)(message, details=details)
    error.code = code
    error.may_retry = error.may_retry or may_retry
    return error
