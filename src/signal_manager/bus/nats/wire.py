"""The format of messages between nodes: batches of signals, messages, news and answers, as MessagePack arrays.

Pure: bytes in, records out. The sending node numbers a batch. The receiver answers with that number and with the items
that it could not deliver. Bodies of signals travel as the bytes that their sender wrote.

Places count the items of a batch over all its entries: each signal has a place, and a message has one for each target.
Answers have no place and are not answered. In a batch that is not awaited no sender asked for a SIGNAL_ACK, so its
answer may wait for others.

Sizes are upper bounds, so that a batch can be filled without encoding it first.
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

# Upper bounds in bytes of the head of an array, bytes or text, and of a number.
_HEAD = 5
_NUMBER = 9
_LONGEST_NAME = 255
# Bytes beside the content: of a batch, of an entry of signals without its signals and names, of a signal without its
# body, and of a message's target without its name.
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
    """The result of an item that the receiving node did not simply deliver."""

    QUEUED = 1
    ABSENT = 2
    TOO_LARGE = 3
    INVALID = 4
    FAILED = 5


class Signals(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """Signals of one client to another in their sender's encoding: the head of the frame and the body of each."""

    target: _Name
    sender: _Name
    signals: list[tuple[_Head, bytes]]


class Content(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Any message in the service's own encoding."""

    message_type: int
    payload_type: int
    message_id: _MessageId
    payload: bytes


class Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """A message for one client or several."""

    targets: list[_Name]
    content: Content


class News(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """An announcement about a room."""

    room_id: _Name
    data: bytes


Entry: TypeAlias = Signals | Message | News


class Unsettled(NamedTuple):
    """An item of a batch that was not simply delivered, with its place."""

    place: _Number
    verdict: Verdict
    reason: _Reason = ""


class Answer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The answer to a batch; items that it does not name were delivered."""

    number: _Number
    unsettled: list[Unsettled] = []

    @property
    def size(self) -> int:
        """Upper bound of its bytes."""
        size = _HEAD + _NUMBER + _HEAD
        for each in self.unsettled:
            size += 4 * _HEAD + len(each.reason.encode())
        return size


class Batch(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Everything that one node sends another at once."""

    version: int
    number: _Number
    is_awaited: bool
    node_id: _Name
    answers: list[Answer]
    entries: list[Entry]


# Encodes a `Batch`.
encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode


def size_of(entry: Signals | Content | News) -> int:
    """Return an upper bound of an entry's bytes, without the targets of a message."""
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
    """Decode a batch.

    Raises:
        MalformedMessageError: the bytes are not a batch of this version.
    """
    try:
        batch = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"no batch of version {VERSION}: {error}") from error
    if batch.version != VERSION:
        raise MalformedMessageError(f"batch of version {batch.version}, expected {VERSION}")
    return batch


def failure(place: int, error: SignalManagerError) -> Unsettled:
    """Return the result of an item that failed, with the reason."""
    if isinstance(error, TooLargeError):
        verdict = Verdict.TOO_LARGE
    else:
        verdict = Verdict.INVALID if isinstance(error, InvalidRequestError) else Verdict.FAILED
    reason = error.message[:_LONGEST_REASON].encode(errors="replace").decode()
    return Unsettled(place, verdict, reason)


def as_error(verdict: Verdict, reason: str) -> SignalManagerError:
    """Return the error for a verdict other than QUEUED and ABSENT."""
    match verdict:
        case Verdict.TOO_LARGE:
            return TooLargeError(reason)
        case Verdict.INVALID:
            return InvalidRequestError(reason)
        case _:
            return UnavailableError(reason or "the other node could not deliver this")
