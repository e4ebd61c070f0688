"""The media contract: the local SFU, over HTTP and without; Cloudflare itself with credentials in the environment.

Every request of our client and every reply of the local SFU is held to Cloudflare's field tables on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from signal_manager.media.cloudflare import CloudflareBackend
from signal_manager.media.cloudflare_client import Transport
from signal_manager.media.cloudflare_http import Pools
from signal_manager.observe.metrics import Metrics
from signal_manager.service.local_sfu import InThisProcess
from signal_manager.sfu import LocalSfu, SfuSettings
from tests.contracts.media_contract import MediaContract
from tests.media.field_tables import endpoint_of, misfits_of_reply, misfits_of_request

ELSEWHERE = "http://sfu.invalid/v1"
CLOUDFLARE = "https://rtc.live.cloudflare.com/v1"
APP_ID = os.environ.get("CLOUDFLARE_APP_ID", "")
APP_SECRET = os.environ.get("CLOUDFLARE_APP_SECRET", "")


class TestLocalSfu(MediaContract):
    """An SFU for each test, with waits short enough for tests."""

    @pytest.fixture
    async def sfu(self) -> AsyncIterator[LocalSfu]:
        settings = SfuSettings(connect_wait=0.5, first_packet_wait=1.0, tick=0.1)
        async with LocalSfu(http_port=0, settings=settings) as sfu:
            yield sfu

    @pytest.fixture
    async def backend(self, sfu: LocalSfu) -> AsyncIterator[CloudflareBackend]:
        async with checked(sfu.app_id, sfu.app_secret, sfu.base_url) as backend:
            yield backend

    @pytest.fixture
    async def intruder(self, sfu: LocalSfu) -> AsyncIterator[CloudflareBackend]:
        async with checked(sfu.app_id, "wrong-secret", sfu.base_url) as backend:
            yield backend


class TestLocalSfuInThisProcess(TestLocalSfu):
    """The same SFU without HTTP, as the service has it."""

    @pytest.fixture
    async def backend(self, sfu: LocalSfu) -> AsyncIterator[CloudflareBackend]:
        async with checked(sfu.app_id, sfu.app_secret, ELSEWHERE, InThisProcess(sfu)) as backend:
            yield backend

    @pytest.fixture
    async def intruder(self, sfu: LocalSfu) -> AsyncIterator[CloudflareBackend]:
        async with checked(sfu.app_id, "wrong-secret", ELSEWHERE, InThisProcess(sfu)) as backend:
            yield backend


@pytest.mark.skipif(not (APP_ID and APP_SECRET), reason="CLOUDFLARE_APP_ID and CLOUDFLARE_APP_SECRET are not set")
class TestCloudflare(MediaContract):
    """Cloudflare itself; its replies may have more fields than are documented."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[CloudflareBackend]:
        async with CloudflareBackend(app_id=APP_ID, app_secret=APP_SECRET, metrics=Metrics()) as backend:
            yield backend

    @pytest.fixture
    async def intruder(self) -> AsyncIterator[CloudflareBackend]:
        async with CloudflareBackend(app_id=APP_ID, app_secret="wrong-secret", metrics=Metrics()) as backend:
            yield backend


class Checked:
    """A transport whose traffic is held to the field tables."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.misfits: list[str] = []

    async def exchange(
        self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        endpoint = endpoint_of(method, "/" + url.split("/", 3)[3])
        self.misfits += misfits_of_request(endpoint, json.loads(content) if content else None)
        status, body = await self._transport.exchange(method, url, content=content, headers=headers)
        self.misfits += misfits_of_reply(endpoint, status, json.loads(body))
        return status, body

    async def aclose(self) -> None:
        await self._transport.aclose()


@asynccontextmanager
async def checked(
    app_id: str, app_secret: str, base_url: str, transport: Transport | None = None
) -> AsyncIterator[CloudflareBackend]:
    """Give a client whose traffic is held to the field tables; over HTTP, unless there is another transport."""
    held = Checked(transport or Pools(base_url, max_connections=8, timeout=10.0))
    async with CloudflareBackend(
        app_id=app_id, app_secret=app_secret, base_url=base_url, metrics=Metrics(), stun_url="", transport=held
    ) as backend:
        yield backend
    assert held.misfits == []
