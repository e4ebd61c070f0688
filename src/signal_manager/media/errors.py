"""Errors of a media backend: one class per reason, with the state that it leaves the session in.

Adapters raise these errors, and `negotiation.py` decides by `MediaFault.after` alone. The keys of `FAULTS` are the
error codes of Cloudflare Realtime, which every backend uses for errors of single items.

    MediaFault
    ├── MediaBackendError 502 ── CredentialsRefusedError, AppNotFoundError, RequestNotUnderstoodError,
    │                            InvalidParametersError, UpdateRefusedError, BackendFaultError, InternalFaultError,
    │                            SfuRefusedError (any other code)
    ├── InvalidRequestError 400 ── InvalidSessionDescriptionError
    ├── NotFoundError 404 ── TrackNotFoundError, TrackAlreadyClosedError
    ├── ConflictError 409 ── RepeatedTrackError, SessionGoneError, SessionReplacedError
    ├── TooLateError 408 ── QueuedTooLongError, AnswerTooLateError
    ├── TooLargeError 413 ── PayloadTooLargeError
    ├── NotReadyError 425 ── SessionNotReadyError, EmptyTrackError
    ├── RateLimitedError 429 ── TooManyCallsError
    └── UnavailableError 503 ── TransientFaultError, TemporarilyUnavailableError, TransportUnavailableError,
                                UnreachableError (never sent), NoAnswerError (sent, with an unknown result)
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    MediaBackendError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    SignalManagerError,
    TooLargeError,
    TooLateError,
    UnavailableError,
)

__all__ = [
    "FAULTS",
    "After",
    "AnswerTooLateError",
    "AppNotFoundError",
    "BackendFaultError",
    "CredentialsRefusedError",
    "EmptyTrackError",
    "InternalFaultError",
    "InvalidParametersError",
    "InvalidSessionDescriptionError",
    "MediaFault",
    "NoAnswerError",
    "PayloadTooLargeError",
    "QueuedTooLongError",
    "RepeatedTrackError",
    "RequestNotUnderstoodError",
    "SessionGoneError",
    "SessionNotReadyError",
    "SessionReplacedError",
    "SfuRefusedError",
    "TemporarilyUnavailableError",
    "TooManyCallsError",
    "TrackAlreadyClosedError",
    "TrackNotFoundError",
    "TransientFaultError",
    "TransportUnavailableError",
    "UnreachableError",
    "UpdateRefusedError",
]


class After(enum.Enum):
    """The state of the session after a failed call, which decides what its caller may do next."""

    REFUSED = "refused"  # the session is unchanged; the same call would fail again
    TRY_LATER = "try_later"  # the session is unchanged; the same call may succeed later
    REPLACE = "replace"  # the session is gone, or its state is unknown: open another one


class MediaFault(SignalManagerError):  # noqa: N818 - the root of a family, whose other classes end in Error
    """A media backend did not carry out a call.

    Args:
        message: what was expected and what came, safe to show to the peer.
        after: the state of the session, if it differs from the class's default.
    """

    after: After = After.REFUSED
    error_code: ClassVar[str] = "fault"  # the SFU's code if it has one; also a label in metrics

    def __init__(self, message: str, *, after: After | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        if after is not None:
            self.after = after


class SfuRefusedError(MediaFault, MediaBackendError):
    """The SFU refused a call for a reason without a class of its own."""

    error_code = "refused"


class CredentialsRefusedError(MediaFault, MediaBackendError):
    """The SFU does not accept the app secret or TURN token."""

    error_code = "unauthorized"


class AppNotFoundError(MediaFault, MediaBackendError):
    """The SFU has no app with this id."""

    error_code = "not_found"


class RequestNotUnderstoodError(MediaFault, MediaBackendError):
    """The SFU could not parse the request."""

    error_code = "decoding_error"


class InvalidParametersError(MediaFault, MediaBackendError):
    """The SFU refused a field, a combination of fields, or their number."""

    error_code = "invalid_params"


class PayloadTooLargeError(MediaFault, TooLargeError):
    """The request is larger than the SFU allows."""

    error_code = "payload_too_large"


class SessionNotReadyError(MediaFault, NotReadyError):
    """The session's transport is not connected yet."""

    error_code = "session_error"
    after = After.TRY_LATER


class SessionGoneError(MediaFault, ConflictError):
    """The session has expired or never existed."""

    error_code = "session_error"
    after = After.REPLACE


class InvalidSessionDescriptionError(MediaFault, InvalidRequestError):
    """The SDP cannot be parsed, or contradicts the earlier negotiation."""

    error_code = "invalid_session_description"


class TrackNotFoundError(MediaFault, NotFoundError):
    """The publisher has no such track, or it is not sending yet."""

    error_code = "not_found_track_error"
    after = After.TRY_LATER


class EmptyTrackError(MediaFault, NotReadyError):
    """The track exists, but no packet of it has arrived."""

    error_code = "empty_track_error"
    after = After.TRY_LATER


class RepeatedTrackError(MediaFault, ConflictError):
    """The session already has a track or data channel of this name."""

    error_code = "repeated_local_track_error"


class UpdateRefusedError(MediaFault, MediaBackendError):
    """The track cannot be changed in this way, for example because it has no simulcast."""

    error_code = "update_track_error"


class TrackAlreadyClosedError(MediaFault, NotFoundError):
    """The track does not exist or was closed before; a caller that closes it counts this as success."""

    error_code = "close_track_error"


# A request that failed inside the SFU may have changed the session.
class TransientFaultError(MediaFault, UnavailableError):
    """The SFU failed for a moment."""

    error_code = "retryable_transient_error"
    after = After.REPLACE


class TemporarilyUnavailableError(MediaFault, UnavailableError):
    """The SFU is out of service for now."""

    error_code = "temporarily_unavailable_error"
    after = After.REPLACE


class TransportUnavailableError(MediaFault, UnavailableError):
    """The SFU lost the transport behind the session."""

    error_code = "transport_unavailable_error"
    after = After.REPLACE


class BackendFaultError(MediaFault, MediaBackendError):
    """A part of the SFU behind its HTTP interface failed."""

    error_code = "backend_error"
    after = After.REPLACE


class InternalFaultError(MediaFault, MediaBackendError):
    """The SFU failed."""

    error_code = "internal_error"
    after = After.REPLACE


class TooManyCallsError(MediaFault, RateLimitedError):
    """The SFU refuses the call, because there were too many for this session."""

    error_code = "too_many_calls"
    after = After.TRY_LATER


class UnreachableError(MediaFault, UnavailableError):
    """The SFU could not be reached, so the request was never sent."""

    error_code = "unreachable"
    after = After.TRY_LATER


class NoAnswerError(MediaFault, UnavailableError):
    """The request was sent and no usable reply came; the SFU may have carried it out."""

    error_code = "no_answer"
    after = After.REPLACE


class SessionReplacedError(MediaFault, ConflictError):
    """The media session was given up; the client must build a new connection."""

    error_code = "session_replaced"
    after = After.REPLACE


class QueuedTooLongError(MediaFault, TooLateError):
    """The operation waited behind others until its time limit and was never sent."""

    error_code = "queued_too_long"
    after = After.TRY_LATER


class AnswerTooLateError(MediaFault, TooLateError):
    """The client's answer did not come in time, so its media session was given up."""

    error_code = "answer_too_late"
    after = After.REPLACE


# In an item, session_error means that the transport is not ready. For a whole reply the HTTP status decides.
FAULTS: dict[str, type[MediaFault]] = {
    "unauthorized": CredentialsRefusedError,
    "not_found": AppNotFoundError,
    "decoding_error": RequestNotUnderstoodError,
    "invalid_params": InvalidParametersError,
    "payload_too_large": PayloadTooLargeError,
    "session_error": SessionNotReadyError,
    "invalid_session_description": InvalidSessionDescriptionError,
    "not_found_track_error": TrackNotFoundError,
    "empty_track_error": EmptyTrackError,
    "repeated_local_track_error": RepeatedTrackError,
    "update_track_error": UpdateRefusedError,
    "close_track_error": TrackAlreadyClosedError,
    "retryable_transient_error": TransientFaultError,
    "temporarily_unavailable_error": TemporarilyUnavailableError,
    "transport_unavailable_error": TransportUnavailableError,
    "backend_error": BackendFaultError,
    "internal_error": InternalFaultError,
}
