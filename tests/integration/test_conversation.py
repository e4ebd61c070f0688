"""Whole conversations with a running service, as docs/protocol.md tells them."""

from __future__ import annotations

import json
import struct
from uuid import UUID

import pytest

from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import (
    ALICE,
    BOB,
    CBOR,
    DIALECTS,
    NIL_ID,
    PLAIN,
    PROTOBUF,
    TAGGED,
    TEXT,
    Client,
    Dialect,
    RawSocket,
    connect,
    frame,
    string8,
)
from tests.web import plain_http

SUBPROTOCOLS = (None, "signal-manager.v1", "signal-manager.v2", "signal-manager.json")
CLOSE, PING = 0x8, 0x9


# -- CONNECT ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_connect_is_welcomed_under_every_subprotocol(service: Service, subprotocol: str | None) -> None:
    async with connect(service.url, subprotocol) as client:
        request = await client.send("CONNECT", {"client_id": ALICE[0], "auth_token": ALICE[1]})

        welcome = await client.expect("CONNECT_ACK")

        assert welcome.id == request
        assert welcome.fields["status"] == "success"
        assert UUID(welcome.fields["session_id"])
        assert welcome.fields["heartbeat_interval"] > 0
        assert welcome.fields["heartbeat_timeout"] > 0
        assert welcome.fields["server_version"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_connect_is_answered_in_its_own_payload_type_or_json(service: Service, dialect: Dialect) -> None:
    async with connect(service.url, dialect=dialect) as client:
        await client.send("CONNECT", dialect.credentials(*ALICE), dialect.payload_type)

        welcome = await client.expect("CONNECT_ACK")

        assert welcome.payload_type == ("JSON" if dialect.payload_type == "BINARY" else dialect.payload_type)
        if dialect is TEXT:
            status, session_id = welcome.payload.decode().split(":")
            assert (status, str(UUID(session_id))) == ("success", session_id)
        elif dialect is not PROTOBUF:
            assert welcome.fields["status"] == "success"


async def test_both_websocket_paths_are_served(service: Service) -> None:
    async with connect(service.url + "/ws") as client:
        await client.log_in()


async def test_the_first_known_subprotocol_is_chosen_and_an_unknown_one_falls_back_to_v1(service: Service) -> None:
    async with connect(service.url, "signal-manager.v2") as client:
        await client.log_in()
    async with plain_http() as http:
        answer = await http.get(
            service.http,
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Sec-WebSocket-Protocol": "chat, signal-manager.json, signal-manager.v2",
            },
        )

        assert answer.status_code == 101
        assert answer.headers["Sec-WebSocket-Protocol"] == "signal-manager.json"


@pytest.mark.parametrize("dialect", [PLAIN, TAGGED], ids=lambda dialect: dialect.name)
async def test_connect_and_register_sent_back_to_back_both_succeed_in_order(service: Service, dialect: Dialect) -> None:
    """The original service's client does so, without waiting."""
    client_id, token = ALICE
    async with connect(service.url, dialect=dialect) as client:
        first = await client.send("CONNECT", {"client_id": client_id, "auth_token": token})
        second = await client.send(
            "REGISTER",
            {
                "version": "1.0.0",
                "client_id": client_id,
                "auth_token": token,
                "capabilities": ["websocket", "webrtc"],
                "metadata": {"name": "Alice"},
            },
        )

        welcome = await client.expect("CONNECT_ACK")
        registered = await client.expect("REGISTER_ACK")

        assert (welcome.id, registered.id) == (first, second)
        assert registered.fields["status"] == 200
        assert registered.fields["client_id"] == client_id
        assert registered.fields["session_id"] == welcome.fields["session_id"]
        assert registered.fields["version"] == "1.0.0"
        assert isinstance(registered.fields["message"], str)


@pytest.mark.parametrize(("dialect", "code"), [(PLAIN, 401), (TAGGED, 1), (TEXT, 401), (PROTOBUF, 401), (CBOR, 401)])
async def test_a_wrong_token_is_refused_and_the_connection_closed(
    service: Service, dialect: Dialect, code: int
) -> None:
    async with connect(service.url, dialect=dialect) as client:
        request = await client.send("CONNECT", dialect.credentials(ALICE[0], "guessed-it"), dialect.payload_type)

        refusal = await client.expect_error(code, id=request)

        assert b"guessed-it" not in refusal.payload
        await client.expect_close(4401)


@pytest.mark.parametrize("credentials", [(BOB[0], ALICE[1]), ("nobody", ALICE[1]), (ALICE[0], "")])
async def test_credentials_that_do_not_belong_together_are_refused(
    service: Service, credentials: tuple[str, str]
) -> None:
    async with connect(service.url) as client:
        await client.send("CONNECT", PLAIN.credentials(*credentials))

        await client.expect_error(401)
        await client.expect_close(4401)


@pytest.mark.parametrize(
    ("message_type", "fields"),
    [
        ("REGISTER", {"version": "1.0.0", "client_id": ALICE[0], "auth_token": ALICE[1]}),
        ("SIGNAL_OFFER", {"target_client_id": BOB[0], "signal_data": "v=0"}),
        ("HEARTBEAT", {"timestamp": 1}),
        ("UNREGISTER", {"version": "1.0.0"}),
        ("CONNECT_ACK", {"status": "success", "session_id": "mine"}),
    ],
)
async def test_anything_before_connect_gets_401_and_connect_may_still_follow(
    service: Service, message_type: str, fields: dict[str, object]
) -> None:
    async with connect(service.url) as client:
        request = await client.send(message_type, fields)

        await client.expect_error(401, id=request)
        await client.log_in()


async def test_a_tagged_client_is_told_to_connect_first_in_a_code_that_it_knows(service: Service) -> None:
    async with connect(service.url, dialect=TAGGED) as client:
        request = await client.send("REGISTER", {"version": "1.0.0", "client_id": ALICE[0], "auth_token": ALICE[1]})

        await client.expect_error(1, id=request)


async def test_a_second_connect_is_refused_and_the_connection_lives(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        request = await client.send("CONNECT", PLAIN.credentials(*ALICE))

        await client.expect_error(400, id=request)
        await client.check_alive()


async def test_a_message_that_only_the_service_sends_is_refused_and_the_connection_lives(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        request = await client.send("SIGNAL_ACK", {"status": "delivered"})

        await client.expect_error(400, id=request)
        await client.check_alive()


# -- liveness --------------------------------------------------------------------------------------------------------


async def test_a_connection_without_connect_is_closed_in_time(service_with: ServiceWith) -> None:
    service = await service_with(**{"server.connection_timeout": 1})
    async with connect(service.url) as client:
        await client.expect_close(4408)


async def test_messages_that_are_no_connect_do_not_extend_the_time_for_it(service_with: ServiceWith) -> None:
    service = await service_with(**{"server.connection_timeout": 1})
    async with connect(service.url) as client:
        await client.send("HEARTBEAT", {"timestamp": 1})
        await client.expect_error(401)

        await client.expect_close(4408)


async def test_a_client_that_answers_nothing_is_pinged_and_then_closed(service_with: ServiceWith) -> None:
    service = await service_with(**{"server.heartbeat_interval": 1, "server.heartbeat_timeout": 2})
    async with RawSocket.open(service.port) as silent:
        silent.write_frame(0x2, frame("CONNECT", "JSON", PLAIN.credentials(*ALICE), id=NIL_ID))
        opcodes = []
        while True:
            opcode, payload = await silent.read_frame()
            opcodes.append(opcode)
            if opcode == CLOSE:
                break

        assert opcodes[0] == 0x2
        assert set(opcodes[1:-1]) == {PING}
        assert payload[:2] == struct.pack(">H", 4408)


async def test_a_client_that_only_answers_pings_lives(service_with: ServiceWith) -> None:
    """The original service's client never sends HEARTBEAT.

    A silent connection, opened after the quiet one, is closed for its silence: by then the quiet one has been silent
    for longer, but for its pongs.
    """
    service = await service_with(**{"server.heartbeat_interval": 1, "server.heartbeat_timeout": 2})
    async with connect(service.url) as quiet, RawSocket.open(service.port) as silent:
        await quiet.log_in()
        silent.write_frame(0x2, frame("CONNECT", "JSON", PLAIN.credentials(*BOB), id=NIL_ID))
        while (await silent.read_frame())[0] != CLOSE:
            pass

        await quiet.check_alive()


async def test_a_clients_own_ping_is_answered(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()

        await (await client.websocket.ping(b"are you there"))


# -- HEARTBEAT and DISCONNECT ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestamp", [0, 1718000000000, 2**64 - 1])
async def test_heartbeat_is_answered_with_its_own_timestamp(service: Service, timestamp: int) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        plain = await client.send("HEARTBEAT", {"timestamp": timestamp})
        binary = await client.send("HEARTBEAT", struct.pack(">Q", timestamp), "BINARY")

        reply = await client.expect("HEARTBEAT_ACK")
        assert reply.id == plain
        assert reply.fields["timestamp"] == timestamp
        assert reply.fields["server_time"] > 1_700_000_000_000
        reply = await client.expect("HEARTBEAT_ACK")
        assert reply.id == binary
        assert (reply.payload_type, reply.payload) == ("BINARY", struct.pack(">Q", timestamp))


async def test_an_empty_heartbeat_counts_as_timestamp_0(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        request = await client.send("HEARTBEAT", b"", "JSON")

        reply = await client.expect("HEARTBEAT_ACK")

        assert reply.id == request
        assert reply.fields["timestamp"] == 0


async def test_a_text_heartbeat_is_answered_in_json_because_text_has_no_form_for_it(service: Service) -> None:
    async with connect(service.url, dialect=TEXT) as client:
        await client.log_in()
        await client.send("HEARTBEAT", b"", "TEXT")

        reply = await client.expect("HEARTBEAT_ACK")

        assert reply.payload_type == "JSON"
        assert reply.fields["timestamp"] == 0


@pytest.mark.parametrize("payload_type", ["JSON", "TEXT", "CBOR"])
async def test_a_tagged_connection_is_answered_in_the_tagged_shape_even_where_the_request_had_none(
    service: Service, payload_type: str
) -> None:
    """The shape of a connection's CONNECT is the shape of everything that the service sends it."""
    async with connect(service.url, dialect=TAGGED) as client:
        await client.log_in()
        await client.send("HEARTBEAT", b"", payload_type)

        reply = await client.expect("HEARTBEAT_ACK")

        assert reply.fields["timestamp"] == 0


async def test_a_plain_request_on_a_tagged_connection_is_answered_in_the_tagged_shape(service: Service) -> None:
    async with connect(service.url, dialect=TAGGED) as client:
        await client.log_in()
        await client.send("HEARTBEAT", b'{"timestamp":5}', "JSON")

        reply = await client.expect("HEARTBEAT_ACK")

        assert reply.fields["timestamp"] == 5


async def test_a_clients_heartbeat_ack_is_taken_in_silence(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        await client.send("HEARTBEAT_ACK", {"timestamp": 1})

        await client.check_alive()


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"client_id":"test_client_1","reason":"bye"}'])
async def test_disconnect_closes_with_1000(service: Service, payload: bytes) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        await client.send("DISCONNECT", payload, "JSON")

        await client.expect_close(1000)


async def test_what_was_sent_before_disconnect_is_still_answered(service: Service) -> None:
    async with connect(service.url) as client:
        await client.send("CONNECT", PLAIN.credentials(*ALICE))
        await client.send("REGISTER", {})
        await client.send("HEARTBEAT", {"timestamp": 9})
        await client.send("DISCONNECT", {})

        await client.expect("CONNECT_ACK")
        await client.expect("REGISTER_ACK")
        await client.expect("HEARTBEAT_ACK")
        await client.expect_close(1000)


# -- REGISTER and UNREGISTER -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        (
            "BINARY",
            string8("1.0.0") + string8(ALICE[0]) + string8(ALICE[1]) + b"\x01" + string8("webrtc") + b"\x00\x02{}",
        ),
        ("BINARY", string8("1.0.0") + bytes(5)),
        ("TEXT", f"1.0.0:{ALICE[0]}:{ALICE[1]}".encode()),
        ("JSON", b"{}"),
        ("CBOR", b"\xa0"),
    ],
)
async def test_register_is_answered_in_every_payload_type(service: Service, payload_type: str, payload: bytes) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        request = await client.send("REGISTER", payload, payload_type)

        reply = await client.expect("REGISTER_ACK")

        assert reply.id == request
        if payload_type == "TEXT":
            version, status, _, client_id, session_id = reply.payload.decode().split(":")
            assert (version, status, client_id) == ("1.0.0", "200", ALICE[0])
            assert UUID(session_id)
        else:
            assert reply.payload_type == ("JSON" if payload_type == "BINARY" else payload_type)
            assert reply.fields["status"] == 200


@pytest.mark.parametrize("dialect", [PLAIN, TAGGED], ids=lambda dialect: dialect.name)
async def test_unregister_is_answered_and_the_client_may_register_again(service: Service, dialect: Dialect) -> None:
    async with connect(service.url, dialect=dialect) as client:
        await client.log_in()
        fields = {"version": "1.0.0", "client_id": ALICE[0], "auth_token": ALICE[1]}
        await client.send("REGISTER", fields)
        await client.expect("REGISTER_ACK")

        request = await client.send("UNREGISTER", fields)
        reply = await client.expect("UNREGISTER_ACK")

        assert reply.id == request
        assert (reply.fields["status"], reply.fields["client_id"]) == (200, ALICE[0])
        assert reply.fields["version"] == "1.0.0"
        assert isinstance(reply.fields["message"], str)
        await client.send("REGISTER", fields)
        await client.expect("REGISTER_ACK")


async def test_what_a_client_puts_on_record_is_bounded(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        await client.send("REGISTER", {"metadata": {"a": "x" * 16_384}})
        await client.expect_error(413)
        await client.send("REGISTER", {"metadata": {"a": "x" * 16_000}})
        await client.expect("REGISTER_ACK")
        await client.send("REGISTER", {"capabilities": ["chat"] * 65})
        await client.expect_error(400)


@pytest.mark.parametrize("message_type", ["REGISTER", "UNREGISTER"])
@pytest.mark.parametrize(("dialect", "code"), [(PLAIN, 403), (TAGGED, 403 % 256)])
async def test_nobody_makes_requests_in_another_clients_name(
    service: Service, message_type: str, dialect: Dialect, code: int
) -> None:
    async with connect(service.url, dialect=dialect) as client:
        await client.log_in()
        request = await client.send(message_type, {"version": "1.0.0", "client_id": BOB[0], "auth_token": ALICE[1]})

        await client.expect_error(code, id=request)
        await client.check_alive()


@pytest.mark.parametrize(("dialect", "code"), [(PLAIN, 401), (TAGGED, 1)])
async def test_a_token_in_a_request_must_be_right(service: Service, dialect: Dialect, code: int) -> None:
    async with connect(service.url, dialect=dialect) as client:
        await client.log_in()
        request = await client.send("REGISTER", {"version": "1.0.0", "client_id": ALICE[0], "auth_token": "wrong"})

        await client.expect_error(code, id=request)
        await client.check_alive()


async def test_an_empty_token_in_a_request_counts_as_none(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        await client.send("REGISTER", {"client_id": ALICE[0], "auth_token": ""})

        await client.expect("REGISTER_ACK")


@pytest.mark.parametrize("version", ["2.0.0", "10.0", "999"])
async def test_a_newer_major_version_is_refused(service: Service, version: str) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        request = await client.send("REGISTER", {"version": version})

        await client.expect_error(400, id=request)
        await client.check_alive()


@pytest.mark.parametrize("version", ["2.0.0", "one", "1..0", ""])
async def test_connect_with_a_newer_or_unreadable_version_is_refused(service: Service, version: str) -> None:
    async with connect(service.url) as client:
        request = await client.send("CONNECT", {"client_id": ALICE[0], "auth_token": ALICE[1], "version": version})

        await client.expect_error(400, id=request)


@pytest.mark.parametrize("version", ["1", "1.0.0", "1.99.3", "0.9.12"])
async def test_an_older_version_or_a_newer_minor_one_is_welcome(service: Service, version: str) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        await client.send("REGISTER", {"version": version})

        await client.expect("REGISTER_ACK")


# -- one session per client ------------------------------------------------------------------------------------------


async def test_the_newest_connection_of_a_client_replaces_the_one_before(service: Service) -> None:
    async with connect(service.url) as first, connect(service.url) as second, connect(service.url) as bob:
        await first.log_in()
        await second.log_in()
        await bob.log_in(BOB)

        await first.expect_close(4409)
        await bob.signal("SIGNAL_MESSAGE", ALICE[0], "to the newest")

        assert PLAIN.read_signal(await second.expect("SIGNAL_MESSAGE")) == (BOB[0], "to the newest")


async def test_a_reconnect_of_the_same_instance_is_no_duplicate(service: Service) -> None:
    """4409 would tell the instance not to come back, on a connection that it may not even know to be dead."""
    credentials = {"client_id": ALICE[0], "auth_token": ALICE[1], "instance_id": "tab-1"}
    async with connect(service.url) as stale, connect(service.url) as fresh:
        await stale.send("CONNECT", credentials)
        await stale.expect("CONNECT_ACK")
        await fresh.send("CONNECT", credentials)
        await fresh.expect("CONNECT_ACK")

        await stale.expect_close(4408)
        await fresh.check_alive()


async def test_other_clients_are_not_touched_when_one_is_replaced(service: Service) -> None:
    async with connect(service.url) as bob:
        await bob.log_in(BOB)
        for _ in range(5):
            async with connect(service.url) as alice:
                await alice.log_in()

        await bob.check_alive()


# -- HTTP and the json subprotocol -----------------------------------------------------------------------------------


async def test_health_is_told_over_http(service: Service) -> None:
    async with connect(service.url) as client, plain_http() as http:
        await client.log_in()
        answer = await http.get(service.http + "/health")

        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"
        health = answer.json()
        assert health["status"] == "healthy"
        assert health["version"]
        assert health["uptime"] >= 0
        assert health["connections"] == 1


@pytest.mark.parametrize("path", ["/nothing-here", "/healthy", "/ws/deeper"])
async def test_an_unknown_path_is_not_found(service: Service, path: str) -> None:
    async with plain_http() as http:
        answer = await http.get(service.http + path)

        assert answer.status_code == 404


async def test_a_person_can_talk_to_the_service_with_any_websocket_tool(service: Service) -> None:
    """Typed as a person would: no ids, white space, a slip."""

    async def say(client: Client, line: str) -> None:
        await client.send_raw(line)

    async with connect(service.url, "signal-manager.json") as anna, connect(service.url, "signal-manager.json") as ben:
        await say(anna, '{"type": "CONNECT", "payload": {"client_id": "test_client_1", "auth_token": "test_token_1"}}')
        welcome = await anna.expect("CONNECT_ACK")
        assert welcome.id == NIL_ID
        await say(ben, '{"type":"CONNECT","payload":{"client_id":"test_client_2","auth_token":"test_token_2"}}')
        await ben.expect("CONNECT_ACK")

        await say(anna, '{"type": "SIGNAL_MESSAGE" "payload": {}}')
        await anna.expect_error(400)
        await say(
            anna, '{"type": "SIGNAL_MESSAGE", "payload": {"target_client_id": "test_client_2", "signal_data": "hi"}}'
        )
        delivered = await ben.expect("SIGNAL_MESSAGE")
        assert PLAIN.read_signal(delivered) == ("test_client_1", "hi")
        await say(ben, json.dumps({"type": "SIGNAL_MESSAGE", "payload": {"target_client_id": "me", "signal_data": 1}}))
        await ben.expect_error(404)

        await say(anna, '{"type": "HEARTBEAT"}')
        assert (await anna.expect("HEARTBEAT_ACK")).fields["timestamp"] == 0
        await say(anna, '{"type": "DISCONNECT"}')
        await anna.expect_close(1000)
