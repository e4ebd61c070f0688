"""What RFC 6455 says about close codes, text and the head of a frame."""

from __future__ import annotations

import pytest

from signal_manager.protocol.websocket import frame_head, is_text, may_be_sent, messages_in


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_codes_for_the_wire_may_be_sent(code: int) -> None:
    assert may_be_sent(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_only_mean_something_locally_or_nothing_may_not_be_sent(code: int) -> None:
    assert not may_be_sent(code)


@pytest.mark.parametrize("data", [b"", b"ascii", "κόσμε".encode(), "\U0010ffff".encode(), "\ufffe".encode()])
def test_utf_8_is_text(data: bytes) -> None:
    assert is_text(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff", id="no such byte"),
        pytest.param(b"\xed\xa0\x80", id="surrogate"),
        pytest.param(b"\xf4\x90\x80\x80", id="beyond U+10FFFF"),
        pytest.param(b"\xc0\xaf", id="overlong"),
        pytest.param("κ".encode()[:1], id="cut off"),
    ],
)
def test_anything_else_is_not(data: bytes) -> None:
    assert not is_text(data)


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_length_of_a_frame_takes_as_few_bytes_as_it_can(size: int, head: bytes) -> None:
    assert frame_head(0x82, size) == head


def test_frames_are_taken_apart_as_they_were_written() -> None:
    messages = [bytes(size) for size in (0, 1, 125, 126, 65535, 65536)]

    frames = b"".join(frame_head(0x81, len(data)) + data for data in messages)

    assert list(messages_in(frames)) == messages
