"""The short way of a signal gives the same as the codec, or leaves the signal to it."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.protocol import relay
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import HEAD, Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import MessageType, PayloadType, Peer, Shape, Signal, SignalOffer
from signal_manager.protocol.relay import RelayEnd

ID = bytes(range(16))
SDP = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n"


def end(
    client_id: str,
    framing: Framing = Framing.V1,
    payload_type: PayloadType = PayloadType.JSON,
    shape: Shape = Shape.PLAIN,
) -> RelayEnd:
    return RelayEnd(client_id, framing, payload_type, shape)


def frame(
    body: bytes,
    framing: Framing = Framing.V1,
    payload_type: PayloadType = PayloadType.JSON,
    message_type: MessageType = MessageType.SIGNAL_OFFER,
) -> bytes:
    return encode_frame(framing, message_type, ID, payload_type, body)


def relayed(data: bytes, sender: RelayEnd, receiver: RelayEnd) -> bytes | None:
    signal = sender.read(data)
    return None if signal is None else receiver.write(data, bytes(signal.signal_data), sender)


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.BINARY, PayloadType.TEXT])
@pytest.mark.parametrize("framings", [*itertools.product((Framing.V1, Framing.V2), repeat=2)], ids=str)
@pytest.mark.parametrize("shapes", [*itertools.product(Shape, repeat=2)], ids=str)
def test_the_receiver_reads_what_the_codec_would_have_written(
    payload_type: PayloadType, framings: tuple[Framing, Framing], shapes: tuple[Shape, Shape]
) -> None:
    offer = SignalOffer(target_client_id="b", signal_data=SDP)
    _, body = encode_payload(offer, payload_type, shapes[0], sent_by=Peer.CLIENT)

    out = relayed(
        frame(body, framings[0], payload_type),
        end("a", framings[0], payload_type, shapes[0]),
        end("b", framings[1], payload_type, shapes[1]),
    )

    assert out is not None
    header = decode_frame(framings[1], out)
    message, shape = decode_payload(header.message_type, header.payload_type, header.payload, sent_by=Peer.SERVICE)
    assert isinstance(message, Signal)
    assert (header.message_id, header.payload_type, message.sender_client_id) == (ID, payload_type, "a")
    assert message.signal_data in (SDP, SDP.encode())
    assert payload_type is not PayloadType.JSON or (shape, message.target_client_id) == (shapes[1], "b")


def test_a_json_body_arrives_byte_for_byte() -> None:
    out = relayed(frame(b'{"target_client_id":"b","signal_data": {"a" : 1.0e0} }'), end("a"), end("b"))

    assert out is not None
    assert out[21:] == b'{"sender_client_id":"a","target_client_id":"b","signal_data":{"a" : 1.0e0}}'


# What the compiled form reads without msgspec. Both forms test it, though as Python it is too slow to be used.


def scanned(body: bytes) -> tuple[str, bytes, bool] | None:
    """Return what `_scan` reads, and see that msgspec reads the same."""
    signal = relay._scan(ID + body, len(ID), len(ID) + len(body))
    if signal is None:
        return None
    expected = relay._decode_plain(body)
    read, told = ((each.target_client_id, bytes(each.signal_data), each.ack) for each in (signal, expected))
    assert read == told
    return read


@pytest.mark.parametrize(
    "value",
    [
        b'""',
        b'"v=0\\r\\no=- 1 \\/ \\t"',
        b'"{\\"type\\":\\"offer\\"}"',
        b'{"type":"offer","sdp":"v=0\\r\\n"}',
        b'{"":""}',
        b'{"sdp":"%b"}' % (b"a" * 40 + b'\\"' * 9 + b"a" * 40),
    ],
)
def test_what_the_sdks_write_is_read_without_msgspec(value: bytes) -> None:
    assert scanned(b'{"target_client_id":"b","signal_data":%b}' % value) == ("b", value, False)


def test_a_signal_of_an_sdk_is_relayed_alike_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame(b'{"target_client_id":"b","signal_data":{"type":"offer","sdp":"v=0"}}')
    expected = relayed(data, end("a"), end("b"))

    monkeypatch.setattr(relay, "_SCANS", True, raising=False)  # the compiled form has no such name, and does so anyway

    assert relayed(data, end("a"), end("b")) == expected is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"target_client_id":"b',
        b'{"target_client_id":"b"}',
        b'{"target_client_id":"b\\n","signal_data":""}',
        b'{"target_client_id":"b","signal_data":}',
        b'{"target_client_id":"b","signal_data":1}',
        b'{"target_client_id":"b","signal_data":"a}',
        b'{"target_client_id":"b","signal_data":"a\\"}',
        b'{"target_client_id":"b","signal_data":"a\\\\"}',
        b'{"target_client_id":"b","signal_data":"\\u0041"}',
        b'{"target_client_id":"b","signal_data":"\xc3\xa4"}',
        b'{"target_client_id":"b","signal_data":"\n"}',
        b'{"target_client_id":"b","signal_data":"%b"}' % (b"a" * 40 + b'\\"' * 17),
        b'{"target_client_id":"b","signal_data":"%b' % (b"a" * 40),
        b'{"target_client_id":"b","signal_data":"","ack":true}',
        b'{"target_client_id":"b","signal_data":""} ',
        b'{"target_client_id":"b","signal_data":{}}',
        b'{"target_client_id":"b","signal_data":{"a"}}',
        b'{"target_client_id":"b","signal_data":{"a":1}}',
        b'{"target_client_id":"b","signal_data":{"a":"}}',
        b'{"target_client_id":"b","signal_data":{"a":"b"',
        b'{"target_client_id":"b","signal_data":{"a":"b" }}',
        b'{"target_client_id":"b","signal_data":{"a":"b",}}',
        b'{"target_client_id":"b","signal_data":{%b}}' % b",".join([b'"a":"b"'] * 17),
    ],
)
def test_everything_else_is_left_to_msgspec(body: bytes) -> None:
    assert scanned(body) is None


@given(
    st.lists(
        st.sampled_from(
            [
                b'"',
                b"\\",
                b"{",
                b"}",
                b":",
                b",",
                b"n",
                b"u",
                b"0041",
                b" ",
                b"\n",
                b"\x7f",
                b"\xc3\xa4",
                b'":"',
                b'","',
                b"a",
            ]
        ),
        max_size=12,
    ).map(b"".join),
    st.sampled_from([b'{"target_client_id":"%b","signal_data":"x"}', b'{"target_client_id":"b","signal_data":%b}']),
    st.sampled_from([b"%b", b'"%b"', b'{"a":"%b"}', b'{"%b":"a"}']),
)
def test_what_is_read_without_msgspec_is_what_msgspec_would_read(text: bytes, body: bytes, value: bytes) -> None:
    scanned(body % (value % text))


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=4))
def test_any_text_and_any_object_of_texts_is_read_as_msgspec_would(text: str, fields: dict[str, str]) -> None:
    for value in (text, fields, {**fields, "sdp": text}):
        scanned(b'{"target_client_id":"b","signal_data":%b}' % msgspec.json.encode(value))


def test_an_acknowledgement_is_asked_for_in_either_shape() -> None:
    plain = end("a").read(frame(b'{"ack":true,"target_client_id":"b","signal_data":1}'))
    tagged = end("a").read(frame(b'{"SignalOffer":{"ack":true,"target_client_id":"b","signal_data":1}}'))

    assert plain is not None
    assert plain.ack
    assert tagged is not None
    assert tagged.ack


@pytest.mark.parametrize(
    "body",
    [
        b'{"target_client_id":"b","signal_data":1,"sender_client_id":"boss"}',
        b'{"target_client_id":"b","signal_data":"QQ==","signal_encoding":"base64"}',
        b'{"target_client_id":"b"}',
        b'{"target_client_id":7,"signal_data":1}',
        b'{"target_client_id":"b","signal_data":[1,]}',
        b'{"target_client_id":"b","signal_data":"\xff"}',
        b'{"SignalAnswer":{"target_client_id":"b","signal_data":1}}',
        b"[" * 100_00,
        b"nothing like JSON",
    ],
)
def test_what_is_not_certain_is_left_to_the_codec(body: bytes) -> None:
    assert end("a").read(frame(body)) is None


def test_what_nests_deeper_than_the_reader_goes_is_left_to_the_codec() -> None:
    # Python 3.14 reads as deep as its stack allows, so it takes nearly the largest message.
    body = b'{"target_client_id":"b","signal_data":' + b"[" * 500_000 + b"]" * 500_000 + b"}"

    assert end("a", Framing.V2).read(frame(body, Framing.V2)) is None


def test_text_beyond_ascii_is_passed_on() -> None:
    out = relayed(frame('{"target_client_id":"b","signal_data":"grüß"}'.encode()), end("a"), end("b"))

    assert out is not None
    assert "grüß".encode() in out


@pytest.mark.parametrize(
    ("payload_type", "body"),
    [
        (PayloadType.BINARY, b"\x09b"),
        (PayloadType.BINARY, b"\x01\xffdata"),
        (PayloadType.TEXT, b"no colon"),
        (PayloadType.TEXT, b"b:\xff"),
        (PayloadType.CBOR, b"\xa0"),
        (PayloadType.PROTOBUF, b"\x00"),
    ],
)
def test_other_payloads_are_left_to_the_codec_when_in_doubt(payload_type: PayloadType, body: bytes) -> None:
    assert end("a", payload_type=payload_type).read(frame(body, payload_type=payload_type)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xaa",
        frame(b"x")[:21],
        frame(b'{"target_client_id":"b","signal_data":1}') + b"x",
        frame(b'{"target_client_id":"b","signal_data":1}', Framing.V2),
        frame(b'{"timestamp":1}', message_type=MessageType.HEARTBEAT),
    ],
)
def test_frames_that_are_not_whole_signals_are_left_to_the_codec(data: bytes) -> None:
    assert end("a").read(data) is None


def test_a_receiver_with_another_payload_type_is_left_to_the_codec() -> None:
    data = frame(b'{"target_client_id":"b","signal_data":1}')

    assert relayed(data, end("a"), end("b", payload_type=PayloadType.CBOR)) is None


def test_a_body_too_long_for_v1_is_left_to_the_codec() -> None:
    body = b'{"target_client_id":"b","signal_data":"%b"}' % (b"x" * 65_530)
    sender = end("a", Framing.V2)

    assert relayed(frame(body, Framing.V2), sender, end("b")) is None
    assert relayed(frame(body, Framing.V2), sender, end("b", shape=Shape.TAGGED)) is None
    assert relayed(frame(body, Framing.V2), sender, end("b", Framing.V2)) is not None


def test_a_tagged_receiver_gets_what_just_fits_without_its_sender() -> None:
    whole = b'{"SignalOffer":{"target_client_id":"b","signal_data":"%b"}}'
    whole = whole % (b"x" * (0xFFFF - len(whole) + 2))
    data = frame(whole)

    assert relayed(data, end("a", shape=Shape.TAGGED), end("b", shape=Shape.TAGGED)) == data


@pytest.mark.parametrize("value", [b"1e999", b'"\\ud800"', b"[[1]]", b"12"])
def test_a_tagged_receiver_gets_nothing_its_parser_might_refuse(value: bytes) -> None:
    data = frame(b'{"target_client_id":"b","signal_data":%b}' % value)

    assert relayed(data, end("a"), end("b", shape=Shape.TAGGED)) is None


def test_a_tagged_receiver_has_no_application_messages() -> None:
    data = frame(b'{"target_client_id":"b","signal_data":"x"}', message_type=MessageType.SIGNAL_MESSAGE)

    assert relayed(data, end("a"), end("b", shape=Shape.TAGGED)) is None


@given(st.binary(min_size=1, max_size=80), st.sampled_from([PayloadType.BINARY, PayloadType.TEXT]))
def test_whatever_comes_the_short_way_is_what_the_codec_can_read(body: bytes, payload_type: PayloadType) -> None:
    data = frame(body, payload_type=payload_type)

    out = relayed(data, end("a", payload_type=payload_type), end("b", payload_type=payload_type))

    if out is not None:
        header = decode_frame(Framing.V1, out)
        message, _ = decode_payload(header.message_type, header.payload_type, header.payload, sent_by=Peer.SERVICE)
        assert isinstance(message, Signal)
        assert message.sender_client_id == "a"


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.BINARY, PayloadType.TEXT])
def test_a_signal_that_was_taken_apart_goes_on_from_another_place(payload_type: PayloadType) -> None:
    """As between nodes: the head of the frame, who sent it to whom, and the body are all that travels."""
    offer = SignalOffer(target_client_id="b", signal_data=SDP)
    _, payload = encode_payload(offer, payload_type, Shape.PLAIN, sent_by=Peer.CLIENT)
    data, sender, receiver = frame(payload, payload_type=payload_type), end("a"), end("b", payload_type=payload_type)
    signal = sender.read(data)
    assert signal is not None

    out = receiver.write(data[:HEAD], bytes(signal.signal_data), relay.sender_end("a"))
    again = relay.client_payload(payload_type, "b", bytes(signal.signal_data))

    assert out == receiver.write(data, bytes(signal.signal_data), sender)
    decoded = decode_payload(MessageType.SIGNAL_OFFER, payload_type, again, sent_by=Peer.CLIENT).message
    assert decoded == decode_payload(MessageType.SIGNAL_OFFER, payload_type, payload, sent_by=Peer.CLIENT).message
