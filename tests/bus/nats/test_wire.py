"""What nodes write to each other, as bytes."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.bus.nats import wire
from signal_manager.errors import InvalidRequestError, MalformedMessageError, TooLargeError, UnavailableError
from signal_manager.protocol.framing import HEAD

NAMES = st.text("abcXYZ019._~@+=-", min_size=1, max_size=128)
NUMBERS = st.integers(0, 2**63 - 1)
SIGNALS = st.builds(
    wire.Signals,
    NAMES,
    NAMES,
    st.lists(st.tuples(st.binary(min_size=HEAD, max_size=HEAD), st.binary(max_size=50)), max_size=4),
)
CONTENTS = st.builds(
    wire.Content,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=50),
)
MESSAGES = st.builds(wire.Message, st.lists(NAMES, max_size=3), CONTENTS)
NEWS = st.builds(wire.News, NAMES, st.binary(max_size=50))
UNSETTLED = st.builds(
    wire.Unsettled, st.integers(0, 2**31), st.sampled_from(wire.Verdict), st.text("ab ü€", max_size=255)
)
ANSWERS = st.lists(st.builds(wire.Answer, NUMBERS, st.lists(UNSETTLED, max_size=3)), max_size=3)
ENTRIES = st.lists(SIGNALS | MESSAGES | NEWS, max_size=5)


def size_of(entry: wire.Entry) -> int:
    if isinstance(entry, wire.Message):
        return wire.size_of(entry.content) + sum(wire.TARGET_HEAD + len(target) for target in entry.targets)
    return wire.size_of(entry)


def encode(answers: list[wire.Answer], entries: list[wire.Entry], *, number: int = 1, node_id: str = "n") -> bytes:
    return wire.encode(wire.Batch(wire.VERSION, number, False, node_id, answers, entries))


@given(NUMBERS, st.booleans(), NAMES, ANSWERS, ENTRIES)
def test_a_batch_is_read_as_it_was_written(
    number: int, is_awaited: bool, node_id: str, answers: list[wire.Answer], entries: list[wire.Entry]
) -> None:
    batch = wire.Batch(wire.VERSION, number, is_awaited, node_id, answers, entries)

    assert wire.read_batch(wire.encode(batch)) == batch


@given(ANSWERS, ENTRIES)
def test_a_batch_takes_no_more_than_was_expected(answers: list[wire.Answer], entries: list[wire.Entry]) -> None:
    expected = wire.OVERHEAD + sum(answer.size for answer in answers) + sum(map(size_of, entries))

    assert len(encode(answers, entries, number=2**63 - 1, node_id="n" * 255)) <= expected


def test_long_bodies_and_many_signals_take_no_more_than_was_expected() -> None:
    entry = wire.Signals("a" * 255, "b" * 255, [(bytes(HEAD), bytes(70_000))] * 3 + [(bytes(HEAD), b"")] * 70_000)
    content = wire.Content(255, 255, bytes(16), bytes(70_000))

    data = encode([], [entry, wire.Message(["c"] * 70_000, content)], number=2**63 - 1, node_id="n" * 255)

    expected = wire.size_of(entry) + wire.size_of(content) + 70_000 * (wire.TARGET_HEAD + 1)
    assert len(data) <= wire.OVERHEAD + expected


@given(st.binary(max_size=200))
def test_noise_is_no_batch_and_no_crash(noise: bytes) -> None:
    for data in (noise, encode([], [])[:-1] + noise):
        with contextlib.suppress(MalformedMessageError):
            wire.read_batch(data)


@pytest.mark.parametrize(
    "noise",
    [b"", b"\xc0", b"\x02" + bytes(20), b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"\x96\x03\x01\xc2\xa1\xff\x90\x90"],
)
def test_what_is_no_batch_is_refused(noise: bytes) -> None:
    with pytest.raises(MalformedMessageError, match=f"no batch of version {wire.VERSION}"):
        wire.read_batch(noise)


@pytest.mark.parametrize(
    "entry",
    [
        wire.Signals("a", "b", [(bytes(HEAD - 1), b"{}")]),
        wire.Signals("a", "b", [(bytes(HEAD + 1), b"{}")]),
        wire.Signals("a" * 256, "b", []),
        wire.Message(["a"], wire.Content(17, 1, bytes(15), b"")),
        wire.Message(["a" * 256], wire.Content(17, 1, bytes(16), b"")),
        wire.News("r" * 256, b""),
    ],
)
def test_what_no_node_writes_is_refused(entry: wire.Entry) -> None:
    with pytest.raises(MalformedMessageError):
        wire.read_batch(encode([], [entry]))


def test_an_answer_that_no_node_writes_is_refused() -> None:
    unsettled = wire.Unsettled(0, wire.Verdict.FAILED, "x" * 256)
    for answer in (
        wire.Answer(-1),
        wire.Answer(1, [unsettled]),
        wire.Answer(1, [wire.Unsettled(-1, wire.Verdict.FAILED)]),
    ):
        with pytest.raises(MalformedMessageError):
            wire.read_batch(encode([answer], []))


@given(ANSWERS, ENTRIES, st.data())
def test_a_batch_that_was_cut_off_is_none(
    answers: list[wire.Answer], entries: list[wire.Entry], data: st.DataObject
) -> None:
    whole = encode(answers, entries)
    length = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(MalformedMessageError):
        wire.read_batch(whole[:length])


def test_another_version_is_refused() -> None:
    other = msgspec.msgpack.encode((wire.VERSION + 1, 1, True, "n", [], []))

    with pytest.raises(MalformedMessageError, match=f"version {wire.VERSION + 1}, expected {wire.VERSION}"):
        wire.read_batch(other)


@pytest.mark.parametrize("error", [TooLargeError("a"), InvalidRequestError("b"), UnavailableError("c")])
def test_an_error_survives_the_way_back(error: TooLargeError | InvalidRequestError | UnavailableError) -> None:
    place, verdict, reason = wire.failure(7, error)
    again = wire.as_error(verdict, reason)

    assert (place, type(again), again.message) == (7, type(error), error.message)


@pytest.mark.parametrize("reason", ["x" * 2_000, "€" * 2_000, "\ud800"])
def test_a_reason_is_bounded_and_can_be_written(reason: str) -> None:
    answer = wire.Answer(1, [wire.failure(0, InvalidRequestError(reason))])

    data = encode([answer], [])

    assert wire.read_batch(data).answers == [answer]
    assert len(data) < 1_000
