"""The media contract over real HTTP: the local SFU always, Cloudflare itself where credentials are in the environment.

Every request of our client and every reply of the local SFU is held to Cloudflare's field tables on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from signal_manager.media.cloudflare import CloudflareBackend
from signal_manager.observe.metrics import Metrics
from signal_manager.sfu import LocalSfu, SfuSettings
from tests.contracts.media_contract import MediaContract
from tests.media.field_tables import endpoint_of, misfits_of_reply, misfits_of_request

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


@asynccontextmanager
async def checked(app_id: str, app_secret: str, base_url: str) -> AsyncIterator[CloudflareBackend]:
    """Give a client whose traffic is held to the field tables."""
    misfits: list[str] = []

    async def check(response: httpx.Response) -> None:
        request = response.request
        endpoint = endpoint_of(request.method, request.url.raw_path.decode())
        misfits.extend(misfits_of_request(endpoint, json.loads(request.content) if request.content else None))
        misfits.extend(misfits_of_reply(endpoint, response.status_code, json.loads(await response.aread())))

    async with CloudflareBackend(
        app_id=app_id, app_secret=app_secret, base_url=base_url, metrics=Metrics(), stun_url=""
    ) as backend:
        backend._http.first.event_hooks = {"response": [check]}
        yield backend
    assert misfits == []
