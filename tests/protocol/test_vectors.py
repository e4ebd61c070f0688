"""The golden frames of docs/vectors.json, written by hand from docs/protocol.md, against our codec."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from signal_manager import errors
from signal_manager.errors import MalformedMessageError, SignalManagerError
from signal_manager.protocol.catalogue import SPECS
from signal_manager.protocol.close_codes import CLOSE_CODES, CloseCode
from signal_manager.protocol.codec import Decoded, decode_payload, encode_payload
from signal_manager.protocol.framing import Frame, Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import Message, MessageType, PayloadType, Peer, Shape

_DOCS = Path(__file__).parents[2] / "docs"
_VECTORS = json.loads((_DOCS / "vectors.json").read_text(encoding="utf-8"))
_PAGE = (_DOCS / "protocol.md").read_text(encoding="utf-8")
_FRAMES = [pytest.param(vector, id=vector["name"]) for vector in _VECTORS["frames"]]
_CANONICAL = [pytest.param(vector, id=vector["name"]) for vector in _VECTORS["frames"] if vector["canonical"]]
_MALFORMED = [pytest.param(vector, id=vector["name"]) for vector in _VECTORS["malformed"]]

Vector = dict[str, Any]


@pytest.mark.parametrize("vector", _FRAMES)
def test_a_frame_decodes_to_its_message(vector: Vector) -> None:
    frame, decoded = _decode(vector)

    expected = vector["message"]
    assert frame.message_type.name == expected["type"]
    assert UUID(bytes=frame.message_id) == UUID(expected["id"])
    assert frame.payload_type.name == expected["payload_type"]
    assert decoded.shape == expected["shape"]
    assert decoded.message == _message(vector)
    data = getattr(decoded.message, "signal_data", None)
    assert type(data) is type(getattr(_message(vector), "signal_data", None))


@pytest.mark.parametrize("vector", _CANONICAL)
def test_a_canonical_message_encodes_to_its_bytes(vector: Vector) -> None:
    expected = vector["message"]
    message_type = MessageType[expected["type"]]

    payload_type, payload = encode_payload(
        _message(vector),
        PayloadType[expected["payload_type"]],
        Shape(expected["shape"]),
        sent_by=Peer(vector["sent_by"]),
    )
    wire = encode_frame(Framing(vector["framing"]), message_type, UUID(expected["id"]).bytes, payload_type, payload)

    assert wire == _wire(vector)


@pytest.mark.parametrize("vector", _MALFORMED)
def test_a_malformed_frame_is_refused_with_the_id_that_could_be_read(vector: Vector) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        _decode(vector)

    assert caught.value.code == vector["error_code"]
    assert caught.value.message_id == (vector["message_id"] and UUID(vector["message_id"]).bytes)


def test_the_vectors_cover_every_message_type_in_every_payload_type_that_has_it() -> None:
    """What a new message type or payload type would otherwise forget."""
    covered = {(vector["message"]["type"], vector["message"]["payload_type"]) for vector in _VECTORS["frames"]}

    for message_type, spec in SPECS.items():
        for payload_type in (PayloadType.JSON, PayloadType.CBOR, PayloadType.PROTOBUF):
            assert (message_type.name, payload_type.name) in covered, spec


def test_a_v2_payload_may_be_larger_than_v1_can_say() -> None:
    """Too long to stand in the file: 70,003 bytes, whose length field is 00 01 11 73."""
    body = b"\x02bo" + bytes(70_000)
    wire = bytes.fromhex("ab10" + "22" * 16 + "01" + "00011173") + body

    frame = decode_frame(Framing.V2, wire)
    decoded = decode_payload(frame.message_type, frame.payload_type, frame.payload, sent_by=Peer.CLIENT)

    assert decoded.message == _struct("SIGNAL_OFFER", {"target_client_id": "bo", "signal_data": bytes(70_000)})
    assert encode_frame(Framing.V2, frame.message_type, frame.message_id, frame.payload_type, frame.payload) == wire


def test_every_frame_on_the_protocol_page_is_a_golden_one() -> None:
    golden = {_wire(vector) for vector in _VECTORS["frames"]}
    annotated = [
        bytes.fromhex("".join(line.split()[0] for line in block.splitlines()))
        for block in re.findall(r"```hex\n(.*?)```", _PAGE, re.DOTALL)
    ]
    in_conversations = [
        bytes.fromhex(head) + payload.encode()
        for head, payload in re.findall(r"^[CSB] ([0-9a-f ]{45}) (.*)$", _PAGE, re.MULTILINE)
    ]
    as_text = [line.encode() for line in re.findall(r'^\{"type".*$', _PAGE, re.MULTILINE)]

    examples = [*annotated, *in_conversations, *as_text]

    assert len(examples) > 25
    assert [example for example in examples if example not in golden] == []


def test_the_protocol_page_lists_the_types_that_exist() -> None:
    message_types, payload_types = (
        {int(value, 16): name for value, name in re.findall(r"^\| (0x\w\w) \| (\w+) \|", part, re.MULTILINE)}
        for part in _PAGE.split("## Payload types")
    )
    variants = dict(re.findall(r"(\w+) \| `([A-Z]\w+)`", _PAGE))

    assert message_types == {kind: kind.name for kind in MessageType}
    assert payload_types == {kind: kind.name for kind in PayloadType}
    assert variants == {kind.name: spec.variant for kind, spec in SPECS.items() if spec.variant is not None}


def test_the_protocol_page_lists_the_errors_that_exist() -> None:
    rows = re.findall(r"^\| (\d{3}) \| .* \| (yes|no) \| \d+ \|$", _PAGE, re.MULTILINE)
    on_page = {(int(code), may_retry == "yes") for code, may_retry in rows}

    tree = {error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)}
    assert on_page == {(error.code, error.may_retry) for error in tree if issubclass(error, SignalManagerError)}


def test_the_protocol_page_and_the_vectors_have_the_close_codes_of_the_one_table() -> None:
    """Kept apart, such tables differ: browsers came back after an operator had thrown them out."""
    rows = re.findall(r"^\| (\d{4}) \| (.*) \| (.*) \| (stays|ends) \|$", _PAGE, re.MULTILINE)
    on_page = {int(code): (meaning, returns, session == "stays") for code, meaning, returns, session in rows}

    assert set(CLOSE_CODES) == set(CloseCode)
    assert on_page == {code: (end.meaning, end.returns, end.keeps_session) for code, end in CLOSE_CODES.items()}
    assert _VECTORS["close_codes"] == [
        {"code": code, "name": CloseCode(code).name, **ending._asdict()} for code, ending in CLOSE_CODES.items()
    ]


def _decode(vector: Vector) -> tuple[Frame, Decoded]:
    frame = decode_frame(Framing(vector["framing"]), _wire(vector))
    try:
        decoded = decode_payload(frame.message_type, frame.payload_type, frame.payload, sent_by=Peer(vector["sent_by"]))
    except MalformedMessageError as error:  # a payload does not know the id of its frame
        raise MalformedMessageError(error.message, message_id=frame.message_id) from error
    return frame, decoded


def _wire(vector: Vector) -> bytes:
    if "text" in vector:
        return str(vector["text"]).encode()
    return bytes.fromhex(vector["hex"])


def _message(vector: Vector) -> Message:
    fields = {name: _value(value) for name, value in vector["message"]["fields"].items()}
    return _struct(vector["message"]["type"], fields)


def _struct(message_type: str, fields: dict[str, Any]) -> Message:
    return msgspec.convert(fields, SPECS[MessageType[message_type]].struct)


def _value(value: Any) -> Any:
    """Return a field's value: JSON has no bytes, and JavaScript no exact integers beyond 2**53."""
    match value:
        case {"$hex": text}:
            return bytes.fromhex(text)
        case {"$u64": text}:
            return int(text)
        case _:
            return value
