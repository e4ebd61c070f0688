"""What nodes write to each other: batches of signals, messages and news, with as little around them as possible.

Pure: bytes in, records out. A batch is numbered by the node that sends it; its receiver answers with that number and
with the entries that it could not deliver. Signal bodies travel as the bytes that their sender wrote.

    batch    version u8 · number u64 · awaited u8 · sending node (u8 length, text) · entries
    signals  1 · count u16 · lengths u8 u8 · target · sender · count times (head 19 bytes · u32 length · body)
    message  2 · target (u8 length, text) · message type u8 · payload type u8 · id 16 bytes · u32 length · payload
    news     3 · lengths u8 u32 · room · bytes
    answer   4 · number u64 · count u16 · count times (place u16 · verdict u8 · u8 length, text)
    again    5 · target (u8 length, text): the message before it in the batch, for one more client

Numbers are big-endian. Places count messages, one after the other: each of several signals has one, an answer has none
and is not answered. A batch that is not awaited brings nothing whose sender asked to be told: its answer may wait for
others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
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
    "MOST_PLACES",
    "OVERHEAD",
    "SIGNAL_HEAD",
    "VERSION",
    "Answer",
    "Batch",
    "Entry",
    "News",
    "RelayedMessage",
    "RelayedSignals",
    "Unsettled",
    "Verdict",
    "as_error",
    "batch_head",
    "encode_answer",
    "encode_batch",
    "encode_content",
    "encode_message",
    "encode_news",
    "encode_repeated",
    "encode_signals",
    "read_batch",
    "read_signals",
    "signal_head",
    "verdict_of",
]

VERSION = 2
MOST_PLACES = 0xFFFF
# What a batch with the longest node id takes beside its entries (bytes).
OVERHEAD = 1 + 8 + 1 + 1 + 255

_SIGNALS, _MESSAGE, _NEWS, _ANSWER, _AGAIN = 1, 2, 3, 4, 5
_BATCH_HEAD = struct.Struct(">BQ?B")
_SIGNALS_HEAD = struct.Struct(">BHBB")
_SIGNAL_HEAD = struct.Struct(f">{HEAD}sI")
# Bytes of a signal beside its body.
SIGNAL_HEAD = _SIGNAL_HEAD.size
_read_signal_head = _SIGNAL_HEAD.unpack_from
# Called with a frame, or its first `HEAD` bytes, and the length of its signal's body; returns what stands before that.
signal_head = _SIGNAL_HEAD.pack
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


class RelayedSignals(msgspec.Struct, frozen=True, gc=False):
    """Signals of one client to another in their sender's encoding: of each the head of its frame, and its body."""

    target: str
    sender: str
    signals: tuple[tuple[bytes, bytes], ...]


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


class Answer(msgspec.Struct, frozen=True):
    """What became of a batch; whatever is not named was delivered."""

    number: int
    unsettled: tuple[Unsettled, ...]


Entry = RelayedSignals | RelayedMessage | News | Answer


class Batch(msgspec.Struct, frozen=True):
    """What one node sends another in one go."""

    number: int
    is_awaited: bool
    node_id: str
    entries: list[Entry]


def encode_signals(target: str, sender: str, count: int, parts: Iterable[bytes]) -> bytes:
    """Return signals as an entry.

    Args:
        parts: of each signal its `signal_head` and its body.
    """
    target_name, sender_name = target.encode(), sender.encode()
    head = _SIGNALS_HEAD.pack(_SIGNALS, count, len(target_name), len(sender_name))
    return b"".join((head, target_name, sender_name, *parts))


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


def encode_answer(number: int, unsettled: Sequence[Unsettled]) -> bytes:
    """Return the answer to a batch as an entry."""
    if not unsettled:
        return _ANSWER_HEAD.pack(_ANSWER, number, 0)
    parts: list[bytes] = []
    count = 0
    for each in unsettled:
        reason = each.reason.encode()[:255]
        parts += [_UNSETTLED.pack(each.place, each.verdict, len(reason)), reason]
        count += 1
    return b"".join((_ANSWER_HEAD.pack(_ANSWER, number, count), *parts))


def batch_head(number: int, node_name: bytes, *, is_awaited: bool) -> bytes:
    """Return what stands before the entries of a batch."""
    return _BATCH_HEAD.pack(VERSION, number, is_awaited, len(node_name)) + node_name


def encode_batch(number: int, node_id: str, entries: Iterable[bytes], *, is_awaited: bool = True) -> bytes:
    """Return entries as one batch."""
    return b"".join((batch_head(number, node_id.encode(), is_awaited=is_awaited), *entries))


def read_batch(data: bytes) -> Batch:
    """Return what a batch holds.

    Raises:
        MalformedMessageError: the bytes are no batch, or one of another version.
    """
    try:
        version, number, is_awaited, length = _BATCH_HEAD.unpack_from(data)
        if version != VERSION:
            raise MalformedMessageError(f"batch of version {version}, expected {VERSION}")
        start, end = _BATCH_HEAD.size + length, len(data)
        node_id = data[_BATCH_HEAD.size : start].decode()
        entries: list[Entry] = []
        message: RelayedMessage | None = None
        entry: Entry
        while start < end:
            kind = data[start]
            if kind == _SIGNALS:
                entry, start = _read_signals(data, start)
            elif kind == _ANSWER:
                entry, start = _read_answer(data, start)
            elif kind == _MESSAGE:
                entry, start = message, _ = _read_message(data, start)
            elif kind == _NEWS:
                entry, start = _read_news(data, start)
            elif kind == _AGAIN and message is not None:
                entry, start = _read_again(data, start, message)
            else:
                raise MalformedMessageError(f"entry of kind {kind}, expected 1 to 4, or 5 after a message")
            entries.append(entry)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise MalformedMessageError(f"no batch: {error}") from error
    if start != end:
        raise MalformedMessageError(f"batch ends {start - end} bytes too early")
    return Batch(number, is_awaited, node_id, entries)


def read_signals(entry: bytes) -> RelayedSignals:
    """Return the signals of an entry that `encode_signals` has made."""
    return _read_signals(entry, 0)[0]


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


def _read_again(data: bytes, start: int, message: RelayedMessage) -> tuple[RelayedMessage, int]:
    name, start = _read_target(data, start)
    again = RelayedMessage(message.message_type, message.payload_type, message.message_id, name, message.payload)
    return again, start


def _read_news(data: bytes, start: int) -> tuple[News, int]:
    _, length, size = _NEWS_HEAD.unpack_from(data, start)
    room = start + _NEWS_HEAD.size
    body = room + length
    end = body + size
    return News(data[room:body].decode(), data[body:end]), end


def _read_signals(data: bytes, start: int) -> tuple[RelayedSignals, int]:
    _, count, target_length, sender_length = _SIGNALS_HEAD.unpack_from(data, start)
    target = start + _SIGNALS_HEAD.size
    sender = target + target_length
    start = sender + sender_length
    target_name, sender_name = data[target:sender].decode(), data[sender:start].decode()
    signals = []
    for _ in range(count):
        head, length = _read_signal_head(data, start)
        body = start + SIGNAL_HEAD
        start = body + length
        signals.append((head, data[body:start]))
    return RelayedSignals(target_name, sender_name, tuple(signals)), start


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
    unsettled: list[Unsettled] = []
    for _ in range(count):
        index, verdict, length = _UNSETTLED.unpack_from(data, start)
        start += _UNSETTLED.size
        unsettled.append(Unsettled(index, Verdict(verdict), data[start : start + length].decode(errors="replace")))
        start += length
    return Answer(number, tuple(unsettled)), start
