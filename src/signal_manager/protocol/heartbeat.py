"""The fast path of a HEARTBEAT, which idle clients send and which confirms the messages of resumable sessions.

As in `relay.py`, bytes become bytes without message objects. `read` returns None if it is not certain; then the codec
decodes the message.
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

# The codec handles larger counts, which are allowed but rare.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Beat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a HEARTBEAT (docs/protocol.md, "Fields"). Messages with other fields go to the codec."""

    timestamp: _Count = 0
    received: _Count | None = None


_decode = msgspec.json.Decoder(Beat).decode
_NOTHING = Beat()


def read(data: bytes, end: RelayEnd) -> Beat | None:
    """Return the fields of the HEARTBEAT in `data`, a whole frame; None if the codec must decode it."""
    start = end.body_start
    if len(data) < start or data[TYPE_AT] != _HEARTBEAT or data[PAYLOAD_TYPE_AT] != _JSON or data[0] != end.start_byte:
        return None
    if int.from_bytes(data[HEAD:start]) != len(data) - start:
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
        received: the count of received messages; None if the session cannot be resumed.
    """
    if received is None:
        payload = b'{"timestamp":%d,"server_time":%d}' % (beat.timestamp, server_time)
    else:
        payload = b'{"timestamp":%d,"server_time":%d,"received":%d}' % (beat.timestamp, server_time, received)
    return b"".join((end.start, _HEARTBEAT_ACK, data[ID_AT:HEAD], end.pack_length(len(payload)), payload))


def confirmation(end: RelayEnd, message_id: bytes, *, timestamp: int, received: int) -> bytes:
    """Return a HEARTBEAT that confirms the received messages; `timestamp` is in ms since the epoch."""
    payload = b'{"timestamp":%d,"received":%d}' % (timestamp, received)
    head = (end.start, _CONFIRMATION, message_id, bytes((_JSON,)))
    return b"".join((*head, end.pack_length(len(payload)), payload))
