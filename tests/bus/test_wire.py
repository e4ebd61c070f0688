"""What nodes write to each other, as bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.bus import wire
from signal_manager.errors import InvalidRequestError, MalformedMessageError, TooLargeError, UnavailableError
from signal_manager.protocol.relay import HEAD

NAMES = st.text("abcXYZ019._~@+=-", min_size=1, max_size=128)
ENTRIES = st.one_of(
    st.builds(
        wire.RelayedSignals,
        NAMES,
        NAMES,
        st.lists(st.tuples(st.binary(min_size=HEAD, max_size=HEAD), st.binary(max_size=50)), max_size=4).map(tuple),
    ),
    st.builds(
        wire.RelayedMessage,
        st.integers(0, 255),
        st.integers(0, 255),
        st.binary(min_size=16, max_size=16),
        NAMES,
        st.binary(max_size=50),
    ),
    st.builds(wire.News, NAMES, st.binary(max_size=50)),
    st.builds(
        wire.Answer,
        st.integers(0, 2**64 - 1),
        st.lists(
            st.builds(
                wire.Unsettled, st.integers(0, 0xFFFF), st.sampled_from(wire.Verdict), st.text("ab ü", max_size=9)
            ),
            max_size=3,
        ).map(tuple),
    ),
)


def encode(entry: wire.RelayedSignals | wire.RelayedMessage | wire.News | wire.Answer) -> bytes:
    match entry:
        case wire.RelayedSignals(target, sender, signals):
            parts = [part for head, body in signals for part in (wire.signal_head(head, len(body)), body)]
            return wire.encode_signals(target, sender, len(signals), parts)
        case wire.RelayedMessage(message_type, payload_type, message_id, target, payload):
            content = wire.encode_content(message_type, payload_type, message_id, payload)
            return wire.encode_message(target, content)
        case wire.News(room_id, data):
            return wire.encode_news(room_id, data)
        case wire.Answer(number, unsettled):
            return wire.encode_answer(number, unsettled)


@given(st.integers(0, 2**64 - 1), st.booleans(), NAMES, st.lists(ENTRIES, max_size=5))
def test_a_batch_is_read_as_it_was_written(
    number: int,
    is_awaited: bool,
    node_id: str,
    entries: list[wire.RelayedSignals | wire.RelayedMessage | wire.News | wire.Answer],
) -> None:
    data = wire.encode_batch(number, node_id, map(encode, entries), is_awaited=is_awaited)

    assert wire.read_batch(data) == wire.Batch(number, is_awaited, node_id, entries)


def test_a_message_for_several_clients_travels_once() -> None:
    content = wire.encode_content(17, 1, bytes(16), b"{}")
    entries = [wire.encode_message("a", content), wire.encode_repeated("b"), wire.encode_repeated("c")]

    batch = wire.read_batch(wire.encode_batch(1, "n", entries))

    assert batch.entries == [wire.RelayedMessage(17, 1, bytes(16), target, b"{}") for target in "abc"]


def test_nothing_can_be_repeated_before_there_was_a_message() -> None:
    with pytest.raises(MalformedMessageError, match="kind 5"):
        wire.read_batch(wire.encode_batch(1, "n", [wire.encode_news("r", b""), wire.encode_repeated("a")]))


@given(st.binary(max_size=200))
def test_noise_is_no_batch_and_no_crash(noise: bytes) -> None:
    for data in (noise, bytes((wire.VERSION,)) + noise):
        with contextlib.suppress(MalformedMessageError):
            wire.read_batch(data)


@given(st.lists(ENTRIES, min_size=1, max_size=3), st.data())
def test_a_batch_that_was_cut_off_is_none(
    entries: list[wire.RelayedSignals | wire.RelayedMessage | wire.News | wire.Answer], data: st.DataObject
) -> None:
    whole = wire.encode_batch(1, "n", map(encode, entries))
    boundaries = {len(wire.encode_batch(1, "n", map(encode, entries[:count]))) for count in range(len(entries) + 1)}
    length = data.draw(st.integers(0, len(whole) - 1).filter(lambda length: length not in boundaries))

    with pytest.raises(MalformedMessageError):
        wire.read_batch(whole[:length])


def test_another_version_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match=f"version {wire.VERSION + 1}, expected {wire.VERSION}"):
        wire.read_batch(bytes((wire.VERSION + 1,)) + wire.encode_batch(1, "n", [])[1:])


@pytest.mark.parametrize("error", [TooLargeError("a"), InvalidRequestError("b"), UnavailableError("c")])
def test_an_error_survives_the_way_back(error: TooLargeError | InvalidRequestError | UnavailableError) -> None:
    again = wire.as_error(wire.verdict_of(error), error.message)

    assert (type(again), again.message) == (type(error), error.message)
