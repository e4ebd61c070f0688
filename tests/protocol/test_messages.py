"""Messages as structs: bounded, frozen, and without what must not be shown."""

from __future__ import annotations

import msgspec
import pytest

from signal_manager.protocol.catalogue import SPECS
from signal_manager.protocol.messages import (
    MAX_ITEMS,
    MAX_METADATA,
    Connect,
    Message,
    MessageType,
    PublishedTrack,
    Register,
    RoomCreate,
    SignalOffer,
    TracksNew,
)


@pytest.mark.parametrize("message_type", MessageType)
def test_every_type_has_a_struct_that_nobody_changes_once_it_is_read(message_type: MessageType) -> None:
    struct = SPECS[message_type].struct

    assert issubclass(struct, Message)
    assert struct.__struct_config__.frozen
    assert struct.__doc__


@pytest.mark.parametrize("message_type", MessageType)
def test_fields_are_named_and_not_counted(message_type: MessageType) -> None:
    with pytest.raises(TypeError):
        SPECS[message_type].struct("a value without a name")


@pytest.mark.parametrize(
    ("struct", "fields"),
    [
        (Connect, {"client_id": "", "auth_token": "t"}),
        (Connect, {"client_id": "a" * 129, "auth_token": "t"}),
        (Connect, {"client_id": "a/b", "auth_token": "t"}),
        (Connect, {"client_id": "..", "auth_token": "t"}),
        (Connect, {"client_id": "a", "auth_token": "x" * 100_000}),
        (Connect, {"client_id": "a", "auth_token": "t", "resume": {"session_id": "s", "resume_token": "t"}}),
        (Register, {"capabilities": ["x"] * 10_000}),
        (SignalOffer, {"target_client_id": "a b", "signal_data": 1}),
        (SignalOffer, {"target_client_id": "a"}),
        (RoomCreate, {"room_id": "__x__", "role": "sender"}),
        (TracksNew, {"room_id": "r", "tracks": [{"track_name": f"t{n}"} for n in range(MAX_ITEMS + 1)]}),
        (PublishedTrack, {"mid": "0", "track_name": ""}),
    ],
)
def test_what_is_out_of_bounds_is_no_message(struct: type[msgspec.Struct], fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, struct)


def test_what_is_within_bounds_is_one() -> None:
    longest = msgspec.convert({"client_id": "a" * 128, "auth_token": "t"}, Connect)
    many = msgspec.convert({"room_id": "r", "tracks": [{"track_name": f"t{n}"} for n in range(MAX_ITEMS)]}, TracksNew)

    assert len(longest.client_id) == 128
    assert many.tracks is not None
    assert len(many.tracks) == MAX_ITEMS
    assert MAX_METADATA == 16_384


def test_the_numbers_of_types_are_those_of_the_original_protocol() -> None:
    assert (MessageType.CONNECT, MessageType.SIGNAL_OFFER) == (0x01, 0x10)
    assert len({int(each) for each in MessageType}) == len(MessageType)
