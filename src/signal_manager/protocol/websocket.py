"""What RFC 6455 asks of an endpoint and picows leaves to it: which close codes may be sent, and that text is text.

`connection` asks here before it believes a frame.
"""

from __future__ import annotations

__all__ = ["is_text", "may_be_sent"]


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
