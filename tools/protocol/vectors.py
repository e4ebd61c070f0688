"""The lists of docs/vectors.json that are no frames: close codes, error codes, room events and leave reasons."""

from __future__ import annotations

import json
import re
from typing import Any

from signal_manager.protocol.catalogue import LEAVE_REASONS, ROOM_EVENTS
from signal_manager.protocol.close_codes import CLOSE_CODES, CloseCode
from tools.protocol.pages import wire_errors

__all__ = ["with_lists"]


def with_lists(present: str) -> str:
    """Return the file with its lists as they are now; its frames stay as they were written."""
    frames, found, _ = present.partition('\n  "close_codes": [')
    if not found:
        raise ValueError('docs/vectors.json has no "close_codes"')
    lists: dict[str, list[Any]] = {
        "close_codes": [
            {"code": int(code), "name": CloseCode(code).name, **ending._asdict()}
            for code, ending in CLOSE_CODES.items()
        ],
        "error_codes": [
            {"name": each.__name__, "code": each.code, "retryable": each.may_retry} for each in wire_errors()
        ],
        "room_events": list(ROOM_EVENTS),
        "leave_reasons": list(LEAVE_REASONS),
    }
    parts = [
        f'  "{name}": [\n' + ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows) + "\n  ]"
        for name, rows in lists.items()
    ]
    return re.sub(r"\s*\Z", "\n", frames) + ",\n".join(parts) + "\n}\n"
