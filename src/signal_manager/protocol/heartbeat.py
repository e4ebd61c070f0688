"""The short way of a HEARTBEAT: what idle clients send, and what confirms the messages of resumable sessions.

As with `relay.py`, bytes become bytes with no message objects in between, and whatever is not known for certain is left
to the codec: `read` returns None for it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from signal_manager.protocol.framing import HEAD, ID_AT, PAYLOAD_TYPE_AT, TYPE_AT
from signal_manager.protocol.messages import MessageType, PayloadType
from signal_manager.protocol.relay import RelayEnd

__all__ = ["Beat", "acknowledgement", "confirmation", "read"]

_JSON = int(PayloadType.JSON)
_HEARTBEAT = int(MessageType.HEARTBEAT)
_HEARTBEAT_ACK = bytes((MessageType.HEARTBEAT_ACK,))
_CONFIRMATION = bytes((MessageType.HEARTBEAT,))

# Larger counts are allowed, and seen so rarely that they may take the long way.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Beat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What a HEARTBEAT says (docs/protocol.md, "Fields"); one with any other field is for the codec."""

    timestamp: _Count = 0
    received: _Count | None = None


_decode = msgspec.json.Decoder(Beat).decode
_NOTHING = Beat()


def read(data: bytes, end: RelayEnd) -> Beat | None:
    """Return what the HEARTBEAT in `data`, a whole frame, says, or None when that is for the codec to say."""
    start = end.body_start
    if len(data) < start or data[TYPE_AT] != _HEARTBEAT or data[PAYLOAD_TYPE_AT] != _JSON or data[0] != end.start_byte:
        return None
    if end.unpack_length(data, HEAD)[0] != len(data) - start:
        return None
    if len(data) == start:
        return _NOTHING
    try:
        return _decode(data[start:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def acknowledgement(data: bytes, beat: Beat, end: RelayEnd, *, server_time: int, received: int | None) -> bytes:
    """Return the frame that answers `beat`, which came in `data`.

    Args:
        server_time: ms since the epoch.
        received: how many messages have come, where the session can be resumed.
    """
    if received is None:
        payload = b'{"timestamp":%d,"server_time":%d}' % (beat.timestamp, server_time)
    else:
        payload = b'{"timestamp":%d,"server_time":%d,"received":%d}' % (beat.timestamp, server_time, received)
    return b"".join((end.start, _HEARTBEAT_ACK, data[ID_AT:HEAD], end.pack_length(len(payload)), payload))


def confirmation(end: RelayEnd, message_id: bytes, *, timestamp: int, received: int) -> bytes:
    """Return a HEARTBEAT that confirms what has come; `timestamp` is in ms since the epoch."""
    payload = b'{"timestamp":%d,"received":%d}' % (timestamp, received)
    head = (end.start, _CONFIRMATION, message_id, bytes((_JSON,)))
    return b"".join((*head, end.pack_length(len(payload)), payload))
