"""The PROTOBUF payload, read and written beside the generated module itself."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol import messages
from signal_manager.protocol.catalogue import SPECS, Spec
from signal_manager.protocol.codec import protobuf, signal_manager_pb2
from signal_manager.protocol.messages import (
    Connect,
    MessageType,
    Peer,
    Register,
    Resume,
    SignalOffer,
    Simulcast,
    TrackRequest,
    TracksNew,
)


def refused(message_type: MessageType, payload: bytes) -> str:
    with pytest.raises(MalformedMessageError) as refusal:
        protobuf.decode(message_type, payload, sent_by=Peer.CLIENT)
    return refusal.value.message


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.message_type.name)
def test_the_schema_has_every_message_with_its_fields(spec: Spec) -> None:
    descriptor = signal_manager_pb2.DESCRIPTOR.message_types_by_name[spec.struct.__name__]
    in_schema = set(descriptor.fields_by_name) - {"signal_bytes", "signal_json"}
    if "signal_data" in descriptor.oneofs_by_name:
        in_schema.add("signal_data")

    assert in_schema == {field.name for field in msgspec.structs.fields(spec.struct)}


def test_a_message_of_the_schema_is_read() -> None:
    wire = signal_manager_pb2.Connect(
        client_id="a",
        auth_token="t",
        capabilities=signal_manager_pb2.StringList(items=["x"]),
        metadata='{"n": 18446744073709551615}',
        resume=signal_manager_pb2.Resume(session_id="s", resume_token="r", received=0),
    )

    message = protobuf.decode(MessageType.CONNECT, wire.SerializeToString(), sent_by=Peer.CLIENT)

    resume = Resume(session_id="s", resume_token="r", received=0)
    assert message == Connect(
        client_id="a", auth_token="t", capabilities=["x"], metadata={"n": 2**64 - 1}, resume=resume
    )
    written = signal_manager_pb2.Connect.FromString(protobuf.encode(message))
    assert written.capabilities.items == ["x"]
    assert written.metadata == '{"n":18446744073709551615}'
    assert written.resume.HasField("received")


@pytest.mark.parametrize(
    "part",
    [*messages.Part.__subclasses__(), Resume],
    ids=lambda part: part.__name__,  # what stands inside messages
)
def test_the_schema_has_every_part_with_its_fields(part: type[msgspec.Struct]) -> None:
    descriptor = signal_manager_pb2.DESCRIPTOR.message_types_by_name[part.__name__]

    assert set(descriptor.fields_by_name) == {field.name for field in msgspec.structs.fields(part)}


def test_lists_of_objects_are_written_as_lists_of_messages() -> None:
    message = TracksNew(
        room_id="r",
        tracks=[
            TrackRequest(track_name="a", client_id="bob", simulcast=Simulcast(preferred_rid="h")),
            TrackRequest(track_name="b", mid="0", kind="audio"),
        ],
    )

    wire = signal_manager_pb2.TracksNew.FromString(protobuf.encode(message))

    assert [item.track_name for item in wire.tracks.items] == ["a", "b"]
    assert wire.tracks.items[0].simulcast.preferred_rid == "h"
    assert not wire.tracks.items[1].HasField("simulcast")
    assert protobuf.decode(MessageType.TRACKS_NEW, wire.SerializeToString(), sent_by=Peer.CLIENT) == message


def test_an_empty_list_is_not_an_absent_one() -> None:
    for message in (Register(capabilities=[]), Register(capabilities=None)):
        assert protobuf.decode(MessageType.REGISTER, protobuf.encode(message), sent_by=Peer.CLIENT) == message


@pytest.mark.parametrize(
    ("data", "member", "value"),
    [
        (b"\xff", "signal_bytes", b"\xff"),
        (b"", "signal_bytes", b""),
        ("x", "signal_json", '"x"'),
        (None, "signal_json", "null"),
    ],
)
def test_signal_data_is_bytes_or_json_text(data: object, member: str, value: object) -> None:
    message = SignalOffer(target_client_id="b", signal_data=data)

    payload = protobuf.encode(message)

    wire = signal_manager_pb2.SignalOffer.FromString(payload)
    assert wire.WhichOneof("signal_data") == member
    assert getattr(wire, member) == value
    assert protobuf.decode(MessageType.SIGNAL_OFFER, payload, sent_by=Peer.CLIENT) == message


@pytest.mark.parametrize(
    ("message_type", "payload", "message"),
    [
        (MessageType.CONNECT, b"\x0a\xff", "not a Protobuf signal_manager.v1.Connect"),
        (MessageType.CONNECT, b"\x0a\x01\xff\x12\x01t", "not a Protobuf signal_manager.v1.Connect"),
        (MessageType.CONNECT, b"\x12\x01t", "Object missing required field `client_id`"),
        (MessageType.CONNECT, b"\x0a\x01a\x12\x01t\x2a\x01{", "Input data was truncated"),
        (MessageType.CONNECT, b"\x0a\x01a\x12\x01t\x2a\x02[]", "Expected `object | null`, got `array`"),
        (MessageType.CONNECT, b"\x0a\x01a\x12\x01t\x42\x00", "Object missing required field `session_id`"),
        (MessageType.CONNECT_ACK, b"\x21" + bytes.fromhex("000000000000f87f"), "number is not finite"),
        (MessageType.ERROR, b"\x08\x80\x80\x04\x12\x00", "Expected `int` <= 65535"),
        (MessageType.SIGNAL_OFFER, b"\x0a\x01a", "Object missing required field `signal_data`"),
        (MessageType.SIGNAL_OFFER, b"\x0a\x01a\x22\x80\x01" + b"[" * 64 + b"]" * 64, "nested deeper than 64 levels"),
    ],
)
def test_what_is_no_such_message_is_refused(message_type: MessageType, payload: bytes, message: str) -> None:
    assert refused(message_type, payload).startswith(message)


def test_the_module_runs_with_each_protobuf_that_an_application_may_have() -> None:
    source = Path(signal_manager_pb2.__file__).read_text()

    # What protoc writes looks at the runtime's version, and imports what is internal to it.
    assert re.findall(r"^(?:from|import) .+", source, re.MULTILINE) == [
        "from google.protobuf import descriptor_pool, message_factory"
    ]
