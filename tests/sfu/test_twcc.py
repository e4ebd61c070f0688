"""What publishers are told of the arrival of their packets."""

from __future__ import annotations

import struct

import pytest

from signal_manager.sfu.twcc import ArrivalFeedback, transport_number

BEGIN = 1000.0


def read(message: bytes) -> dict[int, float | None]:
    """Read feedback as a sender does: when each packet arrived (s), or None for one that did not."""
    assert message[0] & 0x1F == 15
    assert message[1] == 205
    assert len(message) == 4 + 4 * int.from_bytes(message[2:4], "big")
    base, count = struct.unpack_from("!HH", message, 12)
    time = int.from_bytes(message[16:19], "big") * 0.064
    position, statuses = 20, list[int]()
    while len(statuses) < count:
        chunk = int.from_bytes(message[position : position + 2], "big")
        position += 2
        if not chunk & 0x8000:
            statuses += [chunk >> 13 & 3] * (chunk & 0x1FFF)
        else:
            assert chunk & 0x4000
            statuses += [chunk >> shift & 3 for shift in range(12, -1, -2)]
    arrived: dict[int, float | None] = {}
    for step, status in enumerate(statuses[:count]):
        number = (base + step) & 0xFFFF
        if status == 0:
            arrived[number] = None
            continue
        delta, size = (message[position], 1) if status == 1 else (*struct.unpack_from("!h", message, position), 2)
        position += size
        time += delta * 0.00025
        arrived[number] = time
    assert len(message) - position < 4
    return arrived


def told(arrivals: list[tuple[int, float]]) -> list[dict[int, float | None]]:
    feedback, messages = ArrivalFeedback(1), list[bytes]()
    for number, at in arrivals:
        if feedback.take(number, BEGIN + at):
            messages += feedback.build(11, BEGIN + at)
    return [read(message) for message in [*messages, *feedback.build(11, BEGIN + 99)]]


@pytest.mark.parametrize(
    "arrivals",
    [
        [(n, n * 0.001) for n in range(50)],
        [(n & 0xFFFF, (n - 65500) * 0.0005) for n in range(65500, 65600)],
        [(0, 0.0), (1, 0.001), (9, 0.002), (5, 0.003), (30, 0.08)],
        [(n, n * 0.0001) for n in range(0, 400, 3)],
        [(7, 0.0), (8, 0.099)],
    ],
)
def test_arrivals_are_told_as_they_were_and_gaps_as_losses(arrivals: list[tuple[int, float]]) -> None:
    (message,) = told(arrivals)

    expected = dict(arrivals)
    assert {number for number, at in message.items() if at is not None} == set(expected)
    first = message[arrivals[0][0]]
    assert first is not None
    for number, at in expected.items():
        arrived = message[number]
        assert arrived is not None
        assert arrived - first == pytest.approx(at - arrivals[0][1], abs=0.0006)


def test_feedback_is_due_ten_times_a_second_and_continues() -> None:
    messages = told([(n, n * 0.01) for n in range(0, 100) if n != 50])

    assert 9 <= len(messages) <= 11
    numbers = [number for message in messages for number in message]
    assert numbers == list(range(100))
    assert [n for message in messages for n, at in message.items() if at is None] == [50]


def test_a_sender_that_jumps_or_was_silent_is_told_of_what_came_only() -> None:
    messages = told([(1, 0.0), (20000, 0.01), (20001, 30.0), (20002, 30.001)])

    assert all(len(message) <= 3 for message in messages)
    assert messages[-1][20002] is not None


def test_the_number_is_found_among_other_extensions() -> None:
    extension = bytes.fromhex("bede0003 10aa 00 52aabbcc 311234 0000")
    assert transport_number(bytes(12) + extension, 12, 12 + len(extension), 3) == 0x1234
    assert transport_number(bytes(12) + extension, 12, 12 + len(extension), 7) is None
    assert transport_number(bytes(12) + b"\x10\x00\x00\x00", 12, 16, 3) is None
    assert transport_number(bytes(12) + bytes.fromhex("bede00013112"), 12, 18, 3) is None
