"""Opening connections: each kind of port that does not answer as the service does is one clear error."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from signal_manager.client import (
    Framing,
)
from signal_manager.client.connection import Closed
from signal_manager.client.dialer import Dialer, DialSettings, wait_closed
from signal_manager.client.exchange import Exchange
from signal_manager.client.timing import Clock
from signal_manager.client.tokens import TokenSource
from signal_manager.errors import (
    TOKEN_EXPIRED,
    AuthenticationError,
    MalformedMessageError,
    UnavailableError,
)
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    ErrorMessage,
    Message,
    PayloadType,
)
from tests.client.fake_service import TOKEN, Client, FakeService, make_client, within


def dialer(service: FakeService, **options: Any) -> Dialer:
    """Return a dialer, whose connections hand their messages to no caller."""
    given: dict[str, Any] = {
        "url": service and service.url,
        "connect": Connect(version="1.0.0", client_id="alice", auth_token="", instance_id="i"),
        "token": TokenSource(TOKEN),
        "framing": Framing.V2,
        "payload_type": PayloadType.JSON,
        "time_limit": 30.0,
    }
    settings = DialSettings(**given | options)
    return Dialer(settings, clock=Clock(), exchange=Exchange(), receive=lambda *_: None, on_asked=lambda: None)


def expire_first(service: FakeService, *, times: int) -> list[str]:
    """Refuse the first tokens as expired, and return all tokens that came."""
    tokens: list[str] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        assert isinstance(message, Connect)
        tokens.append(message.auth_token)
        if len(tokens) <= times:
            details = {"reason": TOKEN_EXPIRED}
            await client.send(ErrorMessage(error_code=401, error_message="expired", details=details), message_id)
            await client.close(4401, "expired")
        else:
            await client.send(ConnectAck(status="success", session_id="s"), message_id)

    service.answer = answer
    return tokens


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def plain_server(answer: bytes | None) -> AsyncIterator[str]:
    """Answer the upgrade with these bytes and hang up, or keep silent for None until the client hangs up."""
    done = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await within(done.wait())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_wss_checks_the_services_certificate(certificate: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with FakeService(ssl_context=server) as service:
        async with make_client(service, ssl_context=trusting) as client:
            assert await client.heartbeat() >= 0

        with pytest.raises(UnavailableError, match="self-signed certificate"):
            await within(make_client(service).connect())


async def test_nobody_listening_fails_fast() -> None:
    client = make_client(f"ws://127.0.0.1:{free_port()}")

    with pytest.raises(UnavailableError, match="cannot connect"):
        await within(client.connect())


async def test_a_host_that_does_not_exist_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="cannot connect"):
        await within(make_client(f"ws://{'x' * 64}.invalid").connect())


async def test_a_service_that_never_answers_fails_after_the_connect_timeout(service: FakeService) -> None:
    async def answer(_client: Client, _message_id: bytes, _message: Message) -> None:
        pass

    service.answer = answer

    with pytest.raises(UnavailableError, match=r"no answer from the service within 0.05 s"):
        await within(make_client(service, connect_timeout=0.05).connect())


async def test_a_port_that_accepts_and_says_nothing_fails_after_the_connect_timeout() -> None:
    async with plain_server(None) as url:
        with pytest.raises(UnavailableError, match="within"):
            await within(make_client(url, connect_timeout=0.05).connect())


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "expected a WebSocket service"),
        (b"220 mail.example ESMTP\r\n\r\n", "expected a WebSocket service"),
        (b"", "closed during the WebSocket upgrade"),
    ],
)
async def test_a_port_of_something_else_is_unavailable(answer: bytes, complaint: str) -> None:
    async with plain_server(answer) as url:
        with pytest.raises(UnavailableError, match=complaint):
            await within(make_client(url).connect())


async def test_a_cancelled_connect_leaves_no_connection(service: FakeService) -> None:
    asked: asyncio.Queue[Client] = asyncio.Queue()

    async def answer(client: Client, _message_id: bytes, _message: Message) -> None:
        asked.put_nowait(client)

    service.answer = answer
    connecting = asyncio.create_task(make_client(service).connect())
    refused = await within(asked.get())

    connecting.cancel()

    await within(refused.socket.wait_closed())
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_a_service_without_the_framing_is_refused() -> None:
    async with FakeService(subprotocols=()) as service:
        with pytest.raises(MalformedMessageError, match=r"expected a service that speaks signal-manager\.v2"):
            await within(make_client(service).connect())


async def test_v1_needs_no_subprotocol() -> None:
    async with FakeService(subprotocols=()) as service, make_client(service, framing=Framing.V1) as client:
        assert await client.heartbeat() >= 0


async def test_a_service_that_refuses_and_does_not_close_is_left(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        await client.send(ErrorMessage(error_code=401, error_message="no"), message_id)

    service.answer = answer
    monkeypatch.setattr("signal_manager.client.dialer._REFUSAL_TIMEOUT", 0.01)

    with pytest.raises(AuthenticationError, match="no"):
        await within(make_client(service).connect())


# Tokens and sockets


async def test_an_expired_token_is_replaced_by_a_new_one_at_once_and_only_once(service: FakeService) -> None:
    fetched = iter(["old", "new", "older", "oldest"])
    source = TokenSource(lambda: next(fetched))
    tokens = expire_first(service, times=1)

    (await within(dialer(service, token=source).open())).abort("enough")
    assert tokens == ["old", "new"]

    tokens = expire_first(service, times=9)
    with pytest.raises(AuthenticationError, match="expired"):
        await within(dialer(service, token=source).open())
    assert tokens == ["older", "oldest"]


async def test_a_fixed_token_that_has_expired_is_not_shown_again(service: FakeService) -> None:
    tokens = expire_first(service, times=9)

    with pytest.raises(AuthenticationError):
        await within(dialer(service).open())

    assert tokens == [TOKEN]


async def test_a_token_that_cannot_be_fetched_opens_no_socket(service: FakeService) -> None:
    def fail() -> str:
        raise ZeroDivisionError

    with pytest.raises(UnavailableError, match="fetches the token failed"):
        await within(dialer(service, token=TokenSource(fail)).open())

    assert service.accepted.empty()


async def test_a_refusal_notes_the_close_code_that_follows_it(service: FakeService) -> None:
    dialing = dialer(service, token=TokenSource("wrong"))

    with pytest.raises(AuthenticationError):
        await within(dialing.open())

    assert dialing.closed == Closed(4401, "authentication failed")


async def test_a_spare_socket_is_what_the_next_attempt_logs_in_on(service: FakeService) -> None:
    dialing = dialer(service)
    spare = dialing.spare = await within(dialing.dial())
    assert service.accepted.empty()  # it is not logged in

    connection = await within(dialing.open())
    assert connection is spare
    assert dialing.spare is None
    await within(service.accepted.get())

    another = await within(dialing.open())
    assert another is not spare
    for each in (connection, another):
        each.abort("enough")


async def test_dialing_ends_after_its_time_limit_and_leaves_no_socket() -> None:
    async with plain_server(None) as url:
        with pytest.raises(UnavailableError, match=r"no answer from the service within 0\.05 s"):
            await within(dialer(cast("FakeService", None), url=url, time_limit=0.05).dial())


async def test_waiting_for_the_end_of_a_connection_has_a_limit(service: FakeService) -> None:
    connection = await within(dialer(service).open())
    assert await wait_closed(connection, 0.01) is None

    await service.clients["alice"].close(4409, "replaced")

    assert await within(wait_closed(connection, 30.0)) == Closed(4409, "replaced")
