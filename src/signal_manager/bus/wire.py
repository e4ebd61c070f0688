"""What nodes write to each other: batches of signals, messages and news, with as little around them as possible.

Pure: bytes in, records out. A batch is numbered by the node that sends it; its receiver answers with that number and
with the entries that it could not deliver. Signal bodies travel as the bytes that their sender wrote.

    batch    version u8 · number u64 · awaited u8 · sending node (u8 length, text) · entries
    signal   1 · head 19 bytes · lengths u8 u8 u32 · target · sender · body
    message  2 · target (u8 length, text) · message type u8 · payload type u8 · id 16 bytes · u32 length · payload
    news     3 · lengths u8 u32 · room · bytes
    answer   4 · number u64 · count u16 · count times (place u16 · verdict u8 · u8 length, text)
    again    5 · target (u8 length, text): the message before it in the batch, for one more client

Numbers are big-endian. An answer takes no place in the count that places refer to, and is not answered. A batch that is
not awaited brings nothing whose sender asked to be told: its answer may wait for others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec

from signal_manager.errors import (
    InvalidRequestError,
    MalformedMessageError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.protocol.relay import HEAD

__all__ = [
    "OVERHEAD",
    "VERSION",
    "Answer",
    "Batch",
    "News",
    "RelayedMessage",
    "RelayedSignal",
    "Unsettled",
    "Verdict",
    "as_error",
    "encode_answer",
    "encode_batch",
    "encode_content",
    "encode_message",
    "encode_news",
    "encode_repeated",
    "encode_signal",
    "read_batch",
    "verdict_of",
]

VERSION = 1
# What a batch with the longest node id takes beside its entries (bytes).
OVERHEAD = 1 + 8 + 1 + 1 + 255

_SIGNAL, _MESSAGE, _NEWS, _ANSWER, _AGAIN = 1, 2, 3, 4, 5
_BATCH_HEAD = struct.Struct(">BQ?B")
_SIGNAL_HEAD = struct.Struct(f">B{HEAD}sBBI")
_TARGET_HEAD = struct.Struct(">BB")
_CONTENT_HEAD = struct.Struct(">BB16sI")
_NEWS_HEAD = struct.Struct(">BBI")
_ANSWER_HEAD = struct.Struct(">BQH")
_UNSETTLED = struct.Struct(">HBB")


class Verdict(IntEnum):
    """What the receiving node made of an entry, other than delivering it."""

    QUEUED = 1
    ABSENT = 2
    TOO_LARGE = 3
    INVALID = 4
    FAILED = 5


class RelayedSignal(msgspec.Struct, frozen=True, gc=False):
    """A signal in its sender's encoding."""

    head: bytes
    target: str
    sender: str
    body: bytes


class RelayedMessage(msgspec.Struct, frozen=True, gc=False):
    """Any message for a client, as the service would write it."""

    message_type: int
    payload_type: int
    message_id: bytes
    target: str
    payload: bytes


class News(msgspec.Struct, frozen=True, gc=False):
    """What was announced of a room."""

    room_id: str
    data: bytes


class Unsettled(NamedTuple):
    """An entry of a batch, by its place in it, that was not simply delivered."""

    place: int
    verdict: Verdict
    reason: str = ""


class Answer(NamedTuple):
    """What became of a batch; whatever is not named was delivered."""

    number: int
    unsettled: tuple[Unsettled, ...]


class Batch(NamedTuple):
    """What one node sends another in one go."""

    number: int
    is_awaited: bool
    node_id: str
    entries: tuple[RelayedSignal | RelayedMessage | News | Answer, ...]


def encode_signal(head: bytes, target: str, sender: str, body: bytes) -> bytes:
    """Return a signal as an entry; `head` is the first `HEAD` bytes of its frame."""
    target_name, sender_name = target.encode(), sender.encode()
    return b"".join(
        (
            _SIGNAL_HEAD.pack(_SIGNAL, head, len(target_name), len(sender_name), len(body)),
            target_name,
            sender_name,
            body,
        )
    )


def encode_content(message_type: int, payload_type: int, message_id: bytes, payload: bytes) -> bytes:
    """Return what a message is apart from its target, which several can share."""
    return _CONTENT_HEAD.pack(message_type, payload_type, message_id, len(payload)) + payload


def encode_message(target: str, content: bytes = b"") -> bytes:
    """Return a message as an entry; the content may also follow by itself."""
    name = target.encode()
    return b"".join((_TARGET_HEAD.pack(_MESSAGE, len(name)), name, content))


def encode_repeated(target: str) -> bytes:
    """Return, as an entry, that the message before it is for this client too."""
    name = target.encode()
    return _TARGET_HEAD.pack(_AGAIN, len(name)) + name


def encode_news(room_id: str, data: bytes) -> bytes:
    """Return what is announced of a room as an entry."""
    name = room_id.encode()
    return b"".join((_NEWS_HEAD.pack(_NEWS, len(name), len(data)), name, data))


def encode_answer(number: int, unsettled: Iterable[Unsettled]) -> bytes:
    """Return the answer to a batch as an entry."""
    parts: list[bytes] = []
    count = 0
    for each in unsettled:
        reason = each.reason.encode()[:255]
        parts += [_UNSETTLED.pack(each.place, each.verdict, len(reason)), reason]
        count += 1
    return b"".join((_ANSWER_HEAD.pack(_ANSWER, number, count), *parts))


def encode_batch(number: int, node_id: str, entries: Iterable[bytes], *, is_awaited: bool = True) -> bytes:
    """Return entries as one batch."""
    name = node_id.encode()
    return b"".join((_BATCH_HEAD.pack(VERSION, number, is_awaited, len(name)), name, *entries))


def read_batch(data: bytes) -> Batch:
    """Return what a batch holds.

    Raises:
        MalformedMessageError: the bytes are no batch, or one of another version.
    """
    try:
        version, number, is_awaited, length = _BATCH_HEAD.unpack_from(data)
        if version != VERSION:
            raise MalformedMessageError(f"batch of version {version}, expected {VERSION}")
        start = _BATCH_HEAD.size + length
        node_id = data[_BATCH_HEAD.size : start].decode()
        return Batch(number, is_awaited, node_id, tuple(_entries(data, start)))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise MalformedMessageError(f"no batch: {error}") from error


def as_error(verdict: Verdict, reason: str) -> SignalManagerError:
    """Return the error that a verdict stands for; not for QUEUED and ABSENT."""
    match verdict:
        case Verdict.TOO_LARGE:
            return TooLargeError(reason)
        case Verdict.INVALID:
            return InvalidRequestError(reason)
        case _:
            return UnavailableError(reason or "the other node could not deliver this")


def verdict_of(error: SignalManagerError) -> Verdict:
    """Return the verdict that stands for an error."""
    if isinstance(error, TooLargeError):
        return Verdict.TOO_LARGE
    return Verdict.INVALID if isinstance(error, InvalidRequestError) else Verdict.FAILED


def _entries(data: bytes, start: int) -> Iterator[RelayedSignal | RelayedMessage | News | Answer]:
    end = len(data)
    message: RelayedMessage | None = None
    while start < end:
        kind = data[start]
        if kind == _SIGNAL:
            _, head, target_length, sender_length, body_length = _SIGNAL_HEAD.unpack_from(data, start)
            target = start + _SIGNAL_HEAD.size
            sender = target + target_length
            body = sender + sender_length
            start = body + body_length
            yield RelayedSignal(head, data[target:sender].decode(), data[sender:body].decode(), data[body:start])
        elif kind == _MESSAGE:
            message, start = _read_message(data, start)
            yield message
        elif kind == _NEWS:
            _, length, size = _NEWS_HEAD.unpack_from(data, start)
            room = start + _NEWS_HEAD.size
            body = room + length
            start = body + size
            yield News(data[room:body].decode(), data[body:start])
        elif kind == _ANSWER:
            answer, start = _read_answer(data, start)
            yield answer
        elif kind == _AGAIN and message is not None:
            name, start = _read_target(data, start)
            yield RelayedMessage(message.message_type, message.payload_type, message.message_id, name, message.payload)
        else:
            raise MalformedMessageError(f"entry of kind {kind}, expected 1 to 4, or 5 after a message")
    if start != end:
        raise MalformedMessageError(f"batch ends {start - end} bytes too early")


def _read_target(data: bytes, start: int) -> tuple[str, int]:
    _, length = _TARGET_HEAD.unpack_from(data, start)
    start += _TARGET_HEAD.size
    return data[start : start + length].decode(), start + length


def _read_message(data: bytes, start: int) -> tuple[RelayedMessage, int]:
    name, start = _read_target(data, start)
    message_type, payload_type, message_id, size = _CONTENT_HEAD.unpack_from(data, start)
    payload = start + _CONTENT_HEAD.size
    end = payload + size
    return RelayedMessage(message_type, payload_type, message_id, name, data[payload:end]), end


def _read_answer(data: bytes, start: int) -> tuple[Answer, int]:
    _, number, count = _ANSWER_HEAD.unpack_from(data, start)
    start += _ANSWER_HEAD.size
    unsettled = []
    for _ in range(count):
        index, verdict, length = _UNSETTLED.unpack_from(data, start)
        start += _UNSETTLED.size
        unsettled.append(Unsettled(index, Verdict(verdict), data[start : start + length].decode(errors="replace")))
        start += length
    return Answer(number, tuple(unsettled)), start
