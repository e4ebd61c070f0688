"""wss:// with real handshakes: two libraries, reloads, client certificates, and attacks before HTTP begins."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import WebSocketException

from signal_manager.client import SignalClient, SignalReceived
from signal_manager.errors import ConfigurationError
from tests.certificates import DAY, Authority, Pair
from tests.integration.attack import PONG, Frame, RudeClient, request, wire
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import ALICE, BOB, PLAIN, Client
from tests.waiting import until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("service")


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """Return what a client needs that trusts this authority and may show a certificate of its own."""
    context = ssl.create_default_context(cafile=authority.path)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def wss(service: Service) -> str:
    return service.url.replace("ws://", "wss://")


async def websocket(service: Service, context: ssl.SSLContext) -> ClientConnection:
    return await websocket_connect(wss(service), ssl=context, compression=None)


def serial_number(client: ClientConnection) -> str:
    return str(client.transport.get_extra_info("peercert")["serialNumber"])


async def test_two_clients_talk_over_tls(attacked: ServiceWith, authority: Authority, pair: Pair) -> None:
    service = await attacked(**pair.settings)
    context = trusting(authority)
    async with (
        SignalClient(wss(service), *ALICE, ssl_context=context) as alice,
        SignalClient(wss(service), *BOB, ssl_context=context) as bob,
    ):
        await alice.send_offer(BOB[0], "x" * 500_000, ack=True)

        async with asyncio.timeout(5):
            event = await anext(bob)
            while not isinstance(event, SignalReceived):
                event = await anext(bob)
        assert event.data == "x" * 500_000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_independent_library_and_http_work_too(
    attacked: ServiceWith, authority: Authority, pair: Pair, version: ssl.TLSVersion
) -> None:
    service = await attacked(**pair.settings)
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version

    client = await websocket(service, context)
    await Client(client, version="v1", dialect=PLAIN).log_in()
    await client.close()
    async with httpx.AsyncClient(verify=context) as http:
        response = await http.get(service.http.replace("http", "https") + "/health")

    assert response.json()["status"] == "healthy"


async def test_a_client_that_returns_resumes_its_tls_session(
    attacked: ServiceWith, authority: Authority, pair: Pair
) -> None:
    service = await attacked(**pair.settings)
    context, address = trusting(authority), ("127.0.0.1", service.port)

    def visit(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
        with (
            socket.create_connection(address, timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure,
        ):
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert secure.recv(1000).startswith(b"HTTP/1.1 200 ")  # the ticket came before it
            return secure.session_reused, secure.session

    is_reused, session = await asyncio.to_thread(visit, None)
    reuses = []
    for _ in range(2):  # each visit brings the ticket for the next one
        is_reused_now, session = await asyncio.to_thread(visit, session)
        reuses.append(is_reused_now)

    assert (is_reused, reuses) == (False, [True, True])


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_older_tls_is_refused(attacked: ServiceWith, authority: Authority, pair: Pair) -> None:
    service = await attacked(**pair.settings)
    context = trusting(authority)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    with pytest.raises((ssl.SSLError, OSError)):
        await websocket(service, context)


async def test_a_hangup_shows_new_connections_the_new_certificate_and_keeps_the_old_ones(
    attacked: ServiceWith, authority: Authority, pair: Pair
) -> None:
    service = await attacked(**pair.settings)
    context = trusting(authority)
    before = await websocket(service, context)
    alice = await Client(before, version="v1", dialect=PLAIN).log_in()
    certificate = service.server._listener._handshakes._certificate
    assert certificate is not None
    old = certificate.context

    authority.issue("service")
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: certificate.context is not old)

    after = await websocket(service, context)
    assert serial_number(after) != serial_number(before)
    await alice.check_alive()
    await before.close()
    await after.close()


async def test_a_hangup_with_a_wrong_pair_changes_nothing_and_says_so(
    service_with: ServiceWith, authority: Authority, pair: Pair
) -> None:
    service = await service_with(**pair.settings)
    context = trusting(authority)
    pair.key.write_bytes(authority.issue("other").key.read_bytes())

    with capture_logs() as lines:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: any(line["event"] == "certificate not reloaded" for line in lines))

    (line,) = [line for line in lines if line["event"] == "certificate not reloaded"]
    assert "tls_key_path" in line["reason"]
    client = await websocket(service, context)
    await client.close()


async def test_with_authorities_only_clients_with_a_certificate_get_in(
    attacked: ServiceWith, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    service = await attacked(**pair.settings, **{"server.tls_client_ca_path": str(authority.path)})
    friend = await websocket(service, trusting(authority, authority.issue("friend")))
    await Client(friend, version="v1", dialect=PLAIN).log_in()
    await friend.close()

    stranger = Authority(tmp_path, "stranger").issue("impostor")
    for own in (None, stranger):
        # With TLS 1.3 a client is told only after its own part of the handshake is over.
        with pytest.raises((OSError, WebSocketException)):
            await websocket(service, trusting(authority, own))


async def test_an_expired_certificate_is_a_warning(service_with: ServiceWith, authority: Authority) -> None:
    expired = authority.issue("expired", starts=-2 * DAY, ends=-DAY)

    with capture_logs() as lines:
        service = await service_with(**expired.settings)

    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["event"] == "clients will refuse the certificate"
    assert service.server.is_secure


async def test_a_missing_certificate_is_explained_before_anything_starts(service_with: ServiceWith, pair: Pair) -> None:
    pair.certificate.unlink()

    with pytest.raises(ConfigurationError, match=r"server\.tls_cert_path: cannot read"):
        await service_with(**pair.settings)


@pytest.mark.parametrize(
    "sent",
    [b"", b"\x16\x03\x01\x02\x00\x01", b"\x80\x2e\x01\x00\x02", request(), random.Random(4).randbytes(2000)],
    ids=["nothing", "half a ClientHello", "SSLv2", "plain HTTP", "noise"],
)
async def test_what_is_no_handshake_ends_without_a_trace(
    attacked: ServiceWith, authority: Authority, pair: Pair, sent: bytes
) -> None:
    service = await attacked(**pair.settings)
    for _ in range(3):
        async with RudeClient.open(service.port) as client:
            client.write(sent)
            await client.drain()
            client.finish()
            await client.read_end()

    client_that_means_it = await websocket(service, trusting(authority))
    await client_that_means_it.close()


async def test_a_handshake_that_stops_is_ended_in_time(attacked: ServiceWith, pair: Pair) -> None:
    service = await attacked(**pair.settings, **{"server.connection_timeout": 0.1})
    async with RudeClient.open(service.port) as client:
        client.write(b"\x16\x03\x01\x02\x00\x01")

        await client.read_end()
    await until(lambda: service.server._listener.half_open == 0)


@pytest.mark.long
async def test_a_slow_consumer_over_tls_is_closed_too(attacked: ServiceWith, authority: Authority, pair: Pair) -> None:
    service = await attacked(**pair.settings, **{"server.outbound_queue_bytes": 65_536})
    context = trusting(authority)
    async with RudeClient.open(service.port, ssl=context) as mallory:
        mallory.write(request())
        await mallory.read_head()
        mallory.write(wire(0x9, b"over TLS"))
        assert await mallory.read_frame() == Frame(PONG, b"over TLS")
        mallory.stop_reading()
        with capture_logs() as lines:
            while not any(line["event"] == "connection closed" for line in lines):
                mallory.write(wire(0x9, bytes(125)) * 200)
                await mallory.drain()
                await asyncio.sleep(0)

    assert [line["reason"] for line in lines if line["event"] == "connection closed"] == ["4413 outbound queue is full"]
