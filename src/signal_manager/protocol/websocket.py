"""What RFC 6455 asks of an endpoint and picows leaves to it: which close codes may be sent, and that text is text.

`connection` asks here before it believes a frame. The frames that it writes itself begin and are taken apart here too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["frame_head", "is_text", "may_be_sent", "messages_in"]

# Two and four bytes of head, or ten (section 5.2).
_SHORT = struct.Struct(">BB")
_MEDIUM = struct.Struct(">BBH")
_LONG = struct.Struct(">BBQ")


def may_be_sent(code: int) -> bool:
    """Tell whether this close code may stand in a close frame (section 7.4, and the registry it began)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def is_text(data: bytes) -> bool:
    """Tell whether the payload of a text message is UTF-8, as it must be (section 8.1)."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def frame_head(first: int, size: int) -> bytes:
    """Return what stands before an unmasked payload of so many bytes (section 5.2); `first` has FIN and the opcode."""
    if size < 126:
        return _SHORT.pack(first, size)
    if size < 65536:
        return _MEDIUM.pack(first, 126, size)
    return _LONG.pack(first, 127, size)


def messages_in(frames: bytes) -> Iterator[bytes]:
    """Yield the payloads of whole, unmasked frames, as this side wrote them."""
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
