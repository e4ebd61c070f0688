"""What nodes write to each other: batches of signals, messages, news and answers, as MessagePack arrays.

Pure: bytes in, records out. A batch is numbered by the node that sends it; its receiver answers with that number and
with what it could not deliver. Signal bodies travel as the bytes that their sender wrote.

Places count what is delivered, one after the other, over all entries of a batch: each of several signals has one, and
a message one for each of its targets. Answers have none and are not answered. A batch that is not awaited brings
nothing whose sender asked to be told: its answer may wait for others.

The sizes are what entries take at most, so that a batch can be filled without encoding it first.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from signal_manager.errors import (
    InvalidRequestError,
    MalformedMessageError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.protocol.framing import HEAD

__all__ = [
    "OVERHEAD",
    "SIGNALS_HEAD",
    "SIGNAL_HEAD",
    "TARGET_HEAD",
    "VERSION",
    "Answer",
    "Batch",
    "Content",
    "Entry",
    "Message",
    "News",
    "Signals",
    "Unsettled",
    "Verdict",
    "as_error",
    "encode",
    "failure",
    "read_batch",
    "size_of",
]

VERSION = 3

# Bytes at most before what an array, bytes or text hold, and for a number.
_HEAD = 5
_NUMBER = 9
_LONGEST_NAME = 255
# What a batch takes beside its answers and entries, an entry of signals beside these and the two names, a signal beside
# its body, and a message's target beside its name.
OVERHEAD = 6 * _HEAD + _NUMBER + _LONGEST_NAME
SIGNALS_HEAD = 5 * _HEAD
SIGNAL_HEAD = 3 * _HEAD + HEAD
TARGET_HEAD = _HEAD
_LONGEST_REASON = 255

_Name = Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)]
_Number = Annotated[int, msgspec.Meta(ge=0)]
_Head = Annotated[bytes, msgspec.Meta(min_length=HEAD, max_length=HEAD)]
_MessageId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Reason = Annotated[str, msgspec.Meta(max_length=_LONGEST_REASON)]


class Verdict(IntEnum):
    """What the receiving node made of an entry, other than delivering it."""

    QUEUED = 1
    ABSENT = 2
    TOO_LARGE = 3
    INVALID = 4
    FAILED = 5


class Signals(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """Signals of one client to another in their sender's encoding: of each the head of its frame, and its body."""

    target: _Name
    sender: _Name
    signals: list[tuple[_Head, bytes]]


class Content(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Any message, as the service would write it."""

    message_type: int
    payload_type: int
    message_id: _MessageId
    payload: bytes


class Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """A message for one client or several."""

    targets: list[_Name]
    content: Content


class News(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """What was announced of a room."""

    room_id: _Name
    data: bytes


Entry: TypeAlias = Signals | Message | News


class Unsettled(NamedTuple):
    """A message of a batch, by its place in it, that was not simply delivered."""

    place: _Number
    verdict: Verdict
    reason: _Reason = ""


class Answer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What became of a batch; whatever is not named was delivered."""

    number: _Number
    unsettled: list[Unsettled] = []

    @property
    def size(self) -> int:
        """Bytes that it takes at most."""
        size = _HEAD + _NUMBER + _HEAD
        for each in self.unsettled:
            size += 4 * _HEAD + len(each.reason.encode())
        return size


class Batch(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one node sends another in one go."""

    version: int
    number: _Number
    is_awaited: bool
    node_id: _Name
    answers: list[Answer]
    entries: list[Entry]


# Returns the bytes of a `Batch`.
encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


def size_of(entry: Signals | Content | News) -> int:
    """Return how many bytes an entry takes at most, that of a message without its targets."""
    match entry:
        case Signals():
            size = SIGNALS_HEAD + len(entry.target) + len(entry.sender)
            for _, body in entry.signals:
                size += SIGNAL_HEAD + len(body)
            return size
        case Content():
            return 8 * _HEAD + len(entry.message_id) + len(entry.payload)
        case News():
            return 4 * _HEAD + len(entry.room_id) + len(entry.data)


def read_batch(data: bytes) -> Batch:
    """Return what a batch holds.

    Raises:
        MalformedMessageError: the bytes are no batch, or one of another version.
    """
    try:
        batch = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"no batch of version {VERSION}: {error}") from error
    if batch.version != VERSION:
        raise MalformedMessageError(f"batch of version {batch.version}, expected {VERSION}")
    return batch


def failure(place: int, error: SignalManagerError) -> Unsettled:
    """Return that a message failed, and why."""
    if isinstance(error, TooLargeError):
        verdict = Verdict.TOO_LARGE
    else:
        verdict = Verdict.INVALID if isinstance(error, InvalidRequestError) else Verdict.FAILED
    reason = error.message[:_LONGEST_REASON].encode(errors="replace").decode()
    return Unsettled(place, verdict, reason)


def as_error(verdict: Verdict, reason: str) -> SignalManagerError:
    """Return the error that a verdict stands for; not for QUEUED and ABSENT."""
    match verdict:
        case Verdict.TOO_LARGE:
            return TooLargeError(reason)
        case Verdict.INVALID:
            return InvalidRequestError(reason)
        case _:
            return UnavailableError(reason or "the other node could not deliver this")
