"""The rules of RFC 6455 that picows leaves to its user: valid close codes, valid text, and the heads of frames.

`gateway/frames.py` checks received frames here. `gateway/connection.py` builds the heads of the frames that it writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["MEDIUM_HEAD", "frame_head", "is_text", "may_be_sent", "messages_in"]

# Heads of two, four or ten bytes (section 5.2).
_SHORT = struct.Struct(">BB")
MEDIUM_HEAD = struct.Struct(">BBH")
_LONG = struct.Struct(">BBQ")


def may_be_sent(code: int) -> bool:
    """Tell whether a close frame may have this close code (section 7.4, and IANA's registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def is_text(data: bytes) -> bool:
    """Tell whether the payload of a text message is UTF-8 (section 8.1)."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def frame_head(first: int, size: int) -> bytes:
    """Return the head of an unmasked frame of `size` bytes (section 5.2); `first` holds FIN and the opcode."""
    if size < 126:
        return _SHORT.pack(first, size)
    if size < 65536:
        return MEDIUM_HEAD.pack(first, 126, size)
    return _LONG.pack(first, 127, size)


def messages_in(frames: bytes) -> Iterator[bytes]:
    """Yield the payloads of complete, unmasked frames, which this side wrote."""
    start = 0
    while start < len(frames):
        size = frames[start + 1]
        start += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(frames[start : start + width], "big")
            start += width
        yield frames[start : start + size]
        start += size
