"""A call of the Python SDK's through a real TURN server whose credentials end while it goes on."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiortc import RTCConfiguration
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from signal_manager.client import ParticipantLeft, Room, RoomReconnecting, SignalClient, TrackAdded
from signal_manager.client import media as client_media
from signal_manager.protocol.messages import IceServers, IceServersAck
from tests.integration.conftest import ServiceWith
from tests.integration.test_room_sdk import AT_ONCE, BRIGHT, Picture, following, grey_of
from tests.integration.v1_client import ALICE, BOB
from tests.turn_server import TurnServer

SECRET = "north-of-the-wall"

# Seconds; the SDK looks from 1.2 s before their end.
LIFETIME = 12


@pytest.fixture
async def coturn(tmp_path: Path) -> AsyncIterator[TurnServer]:
    server = TurnServer(tmp_path, "--use-auth-secret", f"--static-auth-secret={SECRET}")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def relay_only(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = functools.partial(RTCConfiguration, iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    monkeypatch.setattr(client_media, "RTCConfiguration", configuration)


async def sees(room: Room) -> None:
    """Wait for a picture; a path that is replaced meanwhile ends the track of the one before."""
    while True:
        try:
            await grey_of((await following(room, TrackAdded)).track, BRIGHT)
        except MediaStreamError:
            continue
        return


@pytest.mark.usefixtures("relay_only")
@pytest.mark.long
async def test_a_relay_that_is_dropped_with_its_credentials_is_a_pause(
    service_with: ServiceWith, coturn: TurnServer
) -> None:
    """Coturn itself keeps relays that it has; a new start of it drops them all, and only takes new credentials."""
    service = await service_with(
        **{
            "media.backend": "local",
            "media.turn_urls": [coturn.url],
            "media.turn_secret": SECRET,
            "media.turn_ttl": LIFETIME,
        }
    )
    async with SignalClient(service.url, *ALICE) as alice, SignalClient(service.url, *BOB) as bob:
        sender = await alice.join("demo", tracks=[Picture()], create=True, retry=AT_ONCE)
        receiver = await bob.join("demo", retry=AT_ONCE)
        left: list[ParticipantLeft] = []
        receiver.on("participant_left", left.append)
        await sees(receiver)
        expires_at = (await bob.request(IceServers(), IceServersAck)).expires_at
        assert expires_at is not None
        await asyncio.sleep(max(expires_at / 1000 + 1 - time.time(), 0))

        await coturn.stop()
        await coturn.start()

        # Not by aiortc, which gives a path up after six checks of 5 s (RFC 7675): "the peer connection closed".
        assert str((await following(sender, RoomReconnecting)).error) == "the relay is lost"
        await sees(receiver)
        assert not left
