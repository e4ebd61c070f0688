"""Every error that crosses a wall of this project, and the code it has on the wire.

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

Codes are those of docs/protocol.md, "Errors and close codes". An error's message is shown to the peer: it says what
was expected and what came, and never holds a token, an SDP, a path or a stack.
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


# `details.reason` of an AuthenticationError of which a new token is the cure (docs/protocol.md, "Tokens").
TOKEN_EXPIRED = "token_expired"  # noqa: S105 - no password


class SignalManagerError(Exception):
    """An internal error; the root of all that carry a failure to its cause.

    Args:
        message: what was expected and what came, safe to show to the peer.
        details: machine-readable additions, sent as ERROR's `details`.
    """

    # Of the class; an error that came from a service may have its own.
    code: int = 500
    may_retry: bool = False

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class ConfigurationError(SignalManagerError):
    """A person set the service up in a way that cannot work; the message says which setting."""


class MalformedMessageError(SignalManagerError):
    """The peer sent bytes or fields that the protocol does not allow.

    `message_id` is the request's sixteen UUID bytes where they could be read, so that the ERROR can carry them.
    """

    code = 400

    def __init__(self, message: str, *, message_id: bytes | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.message_id = message_id


class InvalidRequestError(SignalManagerError):
    """A well-formed request that is wrong in the connection's present state."""

    code = 400


class AuthenticationError(SignalManagerError):
    """The credentials are missing, wrong or expired."""

    code = 401


class ForbiddenError(SignalManagerError):
    """The credentials are right and do not allow this."""

    code = 403


class NotFoundError(SignalManagerError):
    """No such client or room."""

    code = 404


class TooLateError(SignalManagerError):
    """The time allowed for this has passed."""

    code = 408
    may_retry = True


class ConflictError(SignalManagerError):
    """The request contradicts what already is: registered by another, already in the room, replaced."""

    code = 409


class TooLargeError(SignalManagerError):
    """The message does not fit: the text names its size and the limit."""

    code = 413


class NotReadyError(SignalManagerError):
    """The media session cannot do this yet."""

    code = 425
    may_retry = True


class RateLimitedError(SignalManagerError):
    """Too many of these in too short a time."""

    code = 429
    may_retry = True


class MediaBackendError(SignalManagerError):
    """The SFU refused."""

    code = 502


class UnavailableError(SignalManagerError):
    """Something the service depends on does not answer, or the service is draining."""

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
    """Return the error that an ERROR message stands for; an unknown code gives the tree's root with that code.

    Args:
        may_retry: the service says so, of an error that usually stays.
    """
    error = _BY_CODE.get(code, SignalManagerError)(message, details=details)
    error.code = code
    error.may_retry = error.may_retry or may_retry
    return error
