"""Where a picture can begin, codec by codec."""

from __future__ import annotations

import pytest

from signal_manager.sfu.keyframes import starts_key_frame


@pytest.mark.parametrize(
    ("codec", "payload", "expected"),
    [
        ("vp8", "1000", True),
        ("vp8", "1001", False),  # refers to earlier pictures
        ("vp8", "0000", False),  # not the start of a partition
        ("vp8", "1100", False),  # a later partition
        ("vp8", "9080 05 00", True),  # picture id of one byte
        ("vp8", "9080 8505 00", True),  # picture id of two bytes
        ("vp8", "90e0 8505 01 20 00", True),  # and TL0PICIDX and TID
        ("vp8", "90e0 8505 01 20 01", False),
        ("vp8", "10", False),
        ("vp9", "0800", True),
        ("vp9", "4800", False),
        ("vp9", "0000", False),
        ("vp9", "8885 0500", True),
        ("vp9", "a885 0500", True),
        ("vp9", "a885 0502", False),  # an upper spatial layer
        ("h264", "65", True),
        ("h264", "67", True),
        ("h264", "61", False),
        ("h264", "18 0004 67", True),
        ("h264", "18 0004 61", False),
        ("h264", "7c 85", True),
        ("h264", "7c 05", False),
        ("h265", "2601", True),
        ("h265", "0201", False),
        ("h265", "6001 0004 4001", True),
        ("h265", "6201 93", True),
        ("h265", "6201 13", False),
        ("av1", "18", True),
        ("av1", "10", False),
        ("opus", "", True),
        ("av1", "", False),
    ],
)
def test_a_key_frame_is_known_by_its_first_bytes(codec: str, payload: str, expected: bool) -> None:
    assert starts_key_frame(codec, bytes.fromhex(payload)) is expected
