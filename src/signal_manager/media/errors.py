"""What a media backend refuses, one class per reason, and what each refusal leaves behind.

`base.py` promises these; adapters raise them, and `negotiation.py` decides by `MediaFault.after` alone. The words in
`FAULTS` are the error codes of Cloudflare Realtime, which every backend uses for per-item errors.

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
                                UnreachableError (never sent), NoAnswerError (sent, and nobody knows what happened)
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
    """What a failed call leaves behind, which decides what its caller may do next."""

    REFUSED = "refused"  # the session is as it was; the same call would fail again
    TRY_LATER = "try_later"  # the session is as it was; the same call may succeed later
    REPLACE = "replace"  # the session is gone, or nobody knows what it holds: open another one


class MediaFault(SignalManagerError):  # noqa: N818 - the root of a family; every class one meets ends in Error
    """A media backend did not do what it was asked.

    Args:
        message: what was expected and what came, safe to show to the peer.
        after: what this failure leaves behind where it differs from the class's own answer.
    """

    after: After = After.REFUSED
    error_code: ClassVar[str] = "fault"  # the SFU's word where it has one, ours otherwise; also a label in metrics

    def __init__(self, message: str, *, after: After | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        if after is not None:
            self.after = after


class SfuRefusedError(MediaFault, MediaBackendError):
    """The SFU refused for a reason that has no class of its own."""

    error_code = "refused"


class CredentialsRefusedError(MediaFault, MediaBackendError):
    """The SFU does not accept the app secret or TURN token."""

    error_code = "unauthorized"


class AppNotFoundError(MediaFault, MediaBackendError):
    """The SFU knows no app of this id."""

    error_code = "not_found"


class RequestNotUnderstoodError(MediaFault, MediaBackendError):
    """The SFU could not read the request."""

    error_code = "decoding_error"


class InvalidParametersError(MediaFault, MediaBackendError):
    """The SFU refused a field, a combination of fields, or their number."""

    error_code = "invalid_params"


class PayloadTooLargeError(MediaFault, TooLargeError):
    """The request is larger than the SFU takes."""

    error_code = "payload_too_large"


class SessionNotReadyError(MediaFault, NotReadyError):
    """The session's transport is not connected yet."""

    error_code = "session_error"
    after = After.TRY_LATER


class SessionGoneError(MediaFault, ConflictError):
    """The session expired or was never there."""

    error_code = "session_error"
    after = After.REPLACE


class InvalidSessionDescriptionError(MediaFault, InvalidRequestError):
    """The SDP cannot be read, or does not fit what was negotiated before."""

    error_code = "invalid_session_description"


class TrackNotFoundError(MediaFault, NotFoundError):
    """The publisher has no such track, or it is not sending yet."""

    error_code = "not_found_track_error"
    after = After.TRY_LATER


class EmptyTrackError(MediaFault, NotReadyError):
    """The track exists and no packet of it has arrived."""

    error_code = "empty_track_error"
    after = After.TRY_LATER


class RepeatedTrackError(MediaFault, ConflictError):
    """The session already has a track or data channel of this name."""

    error_code = "repeated_local_track_error"


class UpdateRefusedError(MediaFault, MediaBackendError):
    """The track cannot be changed so, for example because it is no simulcast track."""

    error_code = "update_track_error"


class TrackAlreadyClosedError(MediaFault, NotFoundError):
    """The track is not there or was closed before; to whoever closes it, that is success."""

    error_code = "close_track_error"


# That a request failed inside the SFU does not prove that nothing changed there.
class TransientFaultError(MediaFault, UnavailableError):
    """The SFU failed and expects to recover at once."""

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
    """The SFU counts too many calls for this session."""

    error_code = "too_many_calls"
    after = After.TRY_LATER


class UnreachableError(MediaFault, UnavailableError):
    """No connection to the SFU came about, so the request was never sent."""

    error_code = "unreachable"
    after = After.TRY_LATER


class NoAnswerError(MediaFault, UnavailableError):
    """The request was sent and no usable answer came: it may or may not have been carried out."""

    error_code = "no_answer"
    after = After.REPLACE


class SessionReplacedError(MediaFault, ConflictError):
    """The media session was given up; the client must build a new connection."""

    error_code = "session_replaced"
    after = After.REPLACE


class QueuedTooLongError(MediaFault, TooLateError):
    """The operation waited behind others until its time was over, and was never begun."""

    error_code = "queued_too_long"
    after = After.TRY_LATER


class AnswerTooLateError(MediaFault, TooLateError):
    """The client's answer did not come in time, and its media session was given up."""

    error_code = "answer_too_late"
    after = After.REPLACE


# A session_error in an item means that the transport is not ready; as a whole reply its HTTP status decides.
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
