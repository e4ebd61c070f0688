"""Signals between two clients of a running service, in every pair of payload types."""

from __future__ import annotations

import json
import struct
from itertools import product
from uuid import uuid4

import cbor2
import pytest

from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import (
    ALICE,
    BINARY,
    BOB,
    CBOR,
    DIALECTS,
    PLAIN,
    PROTOBUF,
    SIGNAL_TYPES,
    TAGGED,
    TEXT,
    Dialect,
    connect,
    frame,
    protobuf,
    read_protobuf,
    string8,
)

SDP = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\na=group:BUNDLE 0\r\na=ice-ufrag:\u00e9\u20ac\r\n"
_PAIRS = [pytest.param(*pair, id=f"{pair[0].name} to {pair[1].name}") for pair in product(DIALECTS, DIALECTS)]


@pytest.mark.parametrize(("sender", "receiver"), _PAIRS)
async def test_every_signal_arrives_between_every_pair_of_dialects(
    service: Service, sender: Dialect, receiver: Dialect
) -> None:
    async with connect(service.url, dialect=sender) as alice, connect(service.url, dialect=receiver) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        for message_type in SIGNAL_TYPES:
            # SIGNAL_MESSAGE is no type of the original service, so tagged clients neither send nor get it.
            if message_type == "SIGNAL_MESSAGE" and (sender.tagged or receiver.tagged):
                continue
            request = await alice.signal(message_type, BOB[0], SDP)

            delivered = await bob.expect(message_type)

            assert receiver.read_signal(delivered) == (ALICE[0], SDP)
            assert delivered.id == request
        await alice.check_alive()
        await bob.check_alive()


@pytest.mark.parametrize("theirs", ["signal-manager.v1", "signal-manager.v2", "signal-manager.json"])
@pytest.mark.parametrize("ours", [None, "signal-manager.v2", "signal-manager.json"])
async def test_signals_cross_framings(service: Service, ours: str | None, theirs: str) -> None:
    async with connect(service.url, ours) as alice, connect(service.url, theirs) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        request = await alice.signal("SIGNAL_ANSWER", BOB[0], SDP)

        delivered = await bob.expect("SIGNAL_ANSWER")

        assert PLAIN.read_signal(delivered) == (ALICE[0], SDP)
        assert delivered.id == request


async def test_a_tagged_receiver_cannot_be_sent_signal_message_and_its_sender_learns_so(service: Service) -> None:
    async with connect(service.url) as alice, connect(service.url, dialect=TAGGED) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        request = await alice.signal("SIGNAL_MESSAGE", BOB[0], "hello")

        await alice.expect_error(400, id=request)
        await bob.check_alive()


@pytest.mark.parametrize(("dialect", "other"), [(PLAIN, PLAIN), (PLAIN, TEXT), (CBOR, CBOR), (TAGGED, TAGGED)])
async def test_a_sender_that_the_client_names_is_replaced_by_the_true_one(
    service: Service, dialect: Dialect, other: Dialect
) -> None:
    async with connect(service.url, dialect=dialect) as alice, connect(service.url, dialect=other) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        fields = {"target_client_id": BOB[0], "signal_data": "x", "sender_client_id": "mallory"}
        await alice.send("SIGNAL_OFFER", fields)

        assert other.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], "x")


async def test_a_client_may_signal_itself(service: Service) -> None:
    async with connect(service.url) as alice:
        await alice.log_in()
        await alice.signal("SIGNAL_OFFER", ALICE[0], "echo")

        assert PLAIN.read_signal(await alice.expect("SIGNAL_OFFER")) == (ALICE[0], "echo")


# -- signal_data between encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [PLAIN, CBOR], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "data", [{"type": "offer", "sdp": SDP}, [1, -1, 2.5, True, None, {"n": 2**64 - 1}], None, 7, "", {}, False]
)
async def test_any_json_value_is_signal_data(service: Service, dialect: Dialect, data: object) -> None:
    async with connect(service.url, dialect=dialect) as alice, connect(service.url, dialect=dialect) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await alice.send("SIGNAL_OFFER", {"target_client_id": BOB[0], "signal_data": data})

        assert (await bob.expect("SIGNAL_OFFER")).fields["signal_data"] == data


@pytest.mark.parametrize(("dialect", "end"), [(BINARY, 1 + len(ALICE[0])), (TEXT, len(ALICE[0]) + 1)])
async def test_a_json_value_reaches_binary_and_text_as_its_json_text(
    service: Service, dialect: Dialect, end: int
) -> None:
    async with connect(service.url) as alice, connect(service.url, dialect=dialect) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        candidate = {"candidate": "candidate:1", "sdpMLineIndex": 0}
        await alice.send("SIGNAL_ICE_CANDIDATE", {"target_client_id": BOB[0], "signal_data": candidate})

        delivered = await bob.expect("SIGNAL_ICE_CANDIDATE")

        assert json.loads(delivered.payload[end:]) == candidate


@pytest.mark.parametrize("dialect", [PLAIN, TAGGED], ids=lambda dialect: dialect.name)
async def test_bytes_that_are_no_text_reach_json_in_base64(service: Service, dialect: Dialect) -> None:
    async with connect(service.url, dialect=BINARY) as alice, connect(service.url, dialect=dialect) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await alice.send("SIGNAL_OFFER", string8(BOB[0]) + b"\xde\xad\xbe\xef", "BINARY")

        fields = (await bob.expect("SIGNAL_OFFER")).fields

        assert (fields["signal_data"], fields["signal_encoding"]) == ("3q2+7w==", "base64")


async def test_base64_from_json_reaches_the_others_as_bytes(service: Service) -> None:
    fields = {"target_client_id": BOB[0], "signal_data": "3q2+7w==", "signal_encoding": "base64"}
    async with connect(service.url) as alice:
        await alice.log_in()
        async with connect(service.url, dialect=BINARY) as bob:
            await bob.log_in(BOB)
            await alice.send("SIGNAL_OFFER", fields)
            assert (await bob.expect("SIGNAL_OFFER")).payload == string8(ALICE[0]) + b"\xde\xad\xbe\xef"
        async with connect(service.url, dialect=CBOR) as bob:
            await bob.log_in(BOB)
            await alice.send("SIGNAL_OFFER", fields)
            assert (await bob.expect("SIGNAL_OFFER")).fields["signal_data"] == b"\xde\xad\xbe\xef"
        async with connect(service.url, dialect=PROTOBUF) as bob:
            await bob.log_in(BOB)
            await alice.send("SIGNAL_OFFER", fields)
            assert read_protobuf((await bob.expect("SIGNAL_OFFER")).payload)[3] == b"\xde\xad\xbe\xef"
        async with connect(service.url) as bob:
            await bob.log_in(BOB)
            await alice.send("SIGNAL_OFFER", fields)
            delivered = (await bob.expect("SIGNAL_OFFER")).fields
            assert (delivered["signal_data"], delivered["signal_encoding"]) == ("3q2+7w==", "base64")


async def test_bytes_that_are_no_text_reach_a_text_receiver_as_json(service: Service) -> None:
    """TEXT has no form for them."""
    async with connect(service.url, dialect=CBOR) as alice, connect(service.url, dialect=TEXT) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        payload = cbor2.dumps({"target_client_id": BOB[0], "signal_data": b"\xff\x00"})
        await alice.send("SIGNAL_OFFER", payload, "CBOR")

        delivered = await bob.expect("SIGNAL_OFFER")

        assert delivered.payload_type == "JSON"
        assert (delivered.fields["signal_data"], delivered.fields["signal_encoding"]) == ("/wA=", "base64")


async def test_a_signal_may_be_written_in_another_payload_type_than_connect(service: Service) -> None:
    """A delivered signal has the payload type of the receiver's CONNECT, not that of its later messages."""
    async with connect(service.url) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await bob.send("HEARTBEAT", struct.pack(">Q", 1), "BINARY")
        await bob.expect("HEARTBEAT_ACK")
        for payload_type, payload in (
            ("BINARY", string8(BOB[0]) + b"v=0"),
            ("TEXT", BOB[0].encode() + b":v=0"),
            ("CBOR", cbor2.dumps({"target_client_id": BOB[0], "signal_data": "v=0"})),
            ("PROTOBUF", protobuf((1, BOB[0]), (4, '"v=0"'))),
        ):
            await alice.send("SIGNAL_OFFER", payload, payload_type)

            assert PLAIN.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], "v=0")


# -- outcomes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [PLAIN, CBOR, PROTOBUF], ids=lambda dialect: dialect.name)
async def test_a_signal_that_asks_for_it_is_acknowledged(service: Service, dialect: Dialect) -> None:
    async with connect(service.url, dialect=dialect) as alice, connect(service.url, dialect=dialect) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        if dialect is PROTOBUF:
            payload = protobuf((1, BOB[0]), (4, '"v=0"')) + b"\x28\x01"
        else:
            payload = dialect.write("SIGNAL_OFFER", {"target_client_id": BOB[0], "signal_data": "v=0", "ack": True})
        request = await alice.send("SIGNAL_OFFER", payload, dialect.payload_type)

        assert dialect.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], "v=0")
        acknowledgement = await alice.expect("SIGNAL_ACK")

        assert acknowledgement.id == request
        assert acknowledgement.payload_type == dialect.payload_type
        if dialect is PROTOBUF:
            assert read_protobuf(acknowledgement.payload) == {1: b"delivered", 2: BOB[0].encode()}
        else:
            assert acknowledgement.fields == {"status": "delivered", "target_client_id": BOB[0]}


async def test_a_signal_that_does_not_ask_is_not_acknowledged(service: Service) -> None:
    async with connect(service.url) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await alice.signal("SIGNAL_OFFER", BOB[0], "v=0")

        await bob.expect("SIGNAL_OFFER")
        await alice.check_alive()


@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("dialect", [PLAIN, CBOR], ids=lambda dialect: dialect.name)
async def test_an_absent_target_is_an_error_with_the_requests_id(service: Service, dialect: Dialect, ack: bool) -> None:
    async with connect(service.url, dialect=dialect) as alice:
        await alice.log_in()
        request = await alice.send("SIGNAL_OFFER", {"target_client_id": "nobody", "signal_data": "x", "ack": ack})

        await alice.expect_error(404, id=request)
        await alice.check_alive()


async def test_a_tagged_client_learns_of_an_absent_target_in_a_code_that_fits_a_byte(service: Service) -> None:
    async with connect(service.url, dialect=TAGGED) as alice:
        await alice.log_in()
        request = await alice.signal("SIGNAL_OFFER", "nobody", "v=0")

        await alice.expect_error(404 % 256, id=request)
        await alice.check_alive()


@pytest.mark.parametrize("receiver", [TAGGED, PLAIN], ids=lambda dialect: dialect.name)
async def test_a_tagged_client_is_never_sent_signal_ack(service: Service, receiver: Dialect) -> None:
    async with connect(service.url, dialect=TAGGED) as alice, connect(service.url, dialect=receiver) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await alice.send("SIGNAL_OFFER", {"target_client_id": BOB[0], "signal_data": "x", "ack": True})

        assert receiver.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], "x")
        await alice.check_alive()


@pytest.mark.parametrize("receiver", [PLAIN, TEXT], ids=lambda dialect: dialect.name)
async def test_a_plain_signal_on_a_tagged_connection_is_never_answered_with_signal_ack(
    service: Service, receiver: Dialect
) -> None:
    async with connect(service.url, dialect=TAGGED) as alice, connect(service.url, dialect=receiver) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        payload = PLAIN.write("SIGNAL_OFFER", {"target_client_id": BOB[0], "signal_data": "x", "ack": True})
        await alice.send("SIGNAL_OFFER", payload, "JSON")

        await bob.expect("SIGNAL_OFFER")
        await alice.check_alive()


async def test_a_client_that_has_left_is_absent(service: Service) -> None:
    async with connect(service.url) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await bob.send("DISCONNECT", {})
        await bob.expect_close(1000)
        request = await alice.signal("SIGNAL_OFFER", BOB[0], "x")

        await alice.expect_error(404, id=request)


async def test_a_room_that_does_not_exist_is_an_error(service: Service) -> None:
    async with connect(service.url) as alice:
        await alice.log_in()
        request = await alice.send("SIGNAL_MESSAGE", {"room_id": "demo-1", "signal_data": "hi"})

        await alice.expect_error(404, id=request)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_thousand_signals_sent_back_to_back_arrive_in_order(
    service_with: ServiceWith, dialect: Dialect
) -> None:
    service = await service_with(**{"security.rate_limit_enabled": False})
    async with connect(service.url, dialect=dialect) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        for number in range(1000):
            await alice.signal("SIGNAL_OFFER", BOB[0], str(number))

        for number in range(1000):
            assert PLAIN.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], str(number))


async def test_signals_and_requests_of_one_client_are_handled_in_the_order_they_came(service: Service) -> None:
    """Also those that wait for a reply in between."""
    async with connect(service.url) as alice:
        await alice.send("CONNECT", PLAIN.credentials(*ALICE))
        for number in range(20):
            await alice.signal("SIGNAL_OFFER", ALICE[0], str(number))
            await alice.send("REGISTER", {})

        await alice.expect("CONNECT_ACK")
        for number in range(20):
            assert PLAIN.read_signal(await alice.expect("SIGNAL_OFFER")) == (ALICE[0], str(number))
            await alice.expect("REGISTER_ACK")


# -- sizes -----------------------------------------------------------------------------------------------------------


async def test_v2_carries_what_v1_cannot(service: Service) -> None:
    data = SDP * 1000
    assert len(data) > 65_535
    async with connect(service.url, "signal-manager.v2") as alice, connect(service.url, "signal-manager.v2") as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        await alice.signal("SIGNAL_OFFER", BOB[0], data)

        assert PLAIN.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], data)


@pytest.mark.parametrize("dialect", [PLAIN, BINARY, TEXT, CBOR], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("receiver", [PLAIN, TEXT], ids=lambda dialect: dialect.name)
async def test_a_signal_too_large_for_a_v1_receiver_is_refused_to_its_sender(
    service: Service, dialect: Dialect, receiver: Dialect
) -> None:
    """Never truncated: the error names the size and advises v2, and the receiver notices nothing."""
    async with (
        connect(service.url, "signal-manager.v2", dialect=dialect) as alice,
        connect(service.url, dialect=receiver) as bob,
    ):
        await alice.log_in()
        await bob.log_in(BOB)
        request = await alice.signal("SIGNAL_OFFER", BOB[0], "x" * 66_000)

        refusal = await alice.expect_error(413, id=request)

        assert b"66" in refusal.payload
        assert b"signal-manager.v2" in refusal.payload
        await alice.check_alive()
        await bob.check_alive()


@pytest.mark.parametrize("dialect", [PLAIN, BINARY], ids=lambda dialect: dialect.name)
async def test_a_signal_that_grows_beyond_v1_by_its_senders_name_is_refused_too(
    service: Service, dialect: Dialect
) -> None:
    """What a v1 client may send is not always what a v1 client can be sent: JSON gains `sender_client_id`."""
    async with connect(service.url, dialect=dialect) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        overhead = len(dialect.signal("SIGNAL_OFFER", BOB[0], ""))
        request = await alice.signal("SIGNAL_OFFER", BOB[0], "x" * (65_535 - overhead))

        await alice.expect_error(413, id=request)
        await bob.check_alive()


async def test_the_largest_v1_signal_is_relayed(service: Service) -> None:
    """In BINARY the sender's name takes the place of the target's, which is as long."""
    async with connect(service.url, dialect=BINARY) as alice, connect(service.url, dialect=BINARY) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        data = bytes(65_535 - len(string8(BOB[0])))
        await alice.send_raw(frame("SIGNAL_OFFER", "BINARY", string8(BOB[0]) + data, id=uuid4()))

        assert (await bob.expect("SIGNAL_OFFER")).payload == string8(ALICE[0]) + data
