"""The operator's own TURN servers: a real coturn takes the credentials that the service gives, and no others."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aioice.stun import TransactionFailed

from signal_manager.client import SignalClient
from signal_manager.protocol.messages import IceServer, IceServers, IceServersAck
from signal_manager.rooms.ice_servers import rest_credential
from tests.integration.conftest import ServiceWith
from tests.integration.v1_client import ALICE
from tests.turn_server import TurnServer, relayed

SECRET = "north-of-the-wall"


@pytest.fixture
async def coturn(tmp_path: Path) -> AsyncIterator[TurnServer]:
    server = TurnServer(tmp_path, "--use-auth-secret", f"--static-auth-secret={SECRET}")
    await server.start()
    yield server
    await server.stop()


async def told(url: str) -> IceServer:
    """Return the TURN server that a client is told of."""
    async with SignalClient(url, *ALICE) as alice:
        reply = await alice.request(IceServers(), IceServersAck)
    [server] = [server for server in reply.ice_servers if server.credential]
    return server


@pytest.mark.parametrize("backend", ["none", "local"])
async def test_credentials_of_the_shared_secret_open_a_relay(
    service_with: ServiceWith, coturn: TurnServer, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service = await service_with(
        **{"media.backend": backend, "media.turn_urls": [coturn.url], "media.turn_secret": SECRET}
    )

    server = await told(service.url)

    assert (server.username or "").endswith(f":{ALICE[0]}")
    assert await relayed(server.urls, server.username or "", server.credential or "") == b"through the relay"
    assert SECRET not in caplog.text
    assert (server.credential or "") not in caplog.text


async def test_credentials_of_another_secret_are_refused(service_with: ServiceWith, coturn: TurnServer) -> None:
    service = await service_with(**{"media.turn_urls": [coturn.url], "media.turn_secret": SECRET + "!"})

    server = await told(service.url)

    with pytest.raises(TransactionFailed, match="401"):
        await relayed(server.urls, server.username or "", server.credential or "")


async def test_credentials_that_have_ended_are_refused(coturn: TurnServer) -> None:
    username, password = rest_credential(SECRET, ALICE[0], int(time.time()) - 60)

    with pytest.raises(TransactionFailed, match="401"):
        await relayed([coturn.url], username, password)


async def test_static_credentials_open_a_relay(service_with: ServiceWith, tmp_path: Path) -> None:
    coturn = TurnServer(tmp_path, "--lt-cred-mech", "--user=everybody:s3same")
    await coturn.start()
    try:
        service = await service_with(
            **{
                "media.turn_urls": [coturn.url],
                "media.turn_username": "everybody",
                "media.turn_password": "s3same",
            }
        )
        server = await told(service.url)
        assert await relayed(server.urls, server.username or "", server.credential or "") == b"through the relay"
    finally:
        await coturn.stop()
