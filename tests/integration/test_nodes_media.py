"""A media session that is replaced, with members on two nodes: the real service twice, nats-server, SFU and aiortc."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from signal_manager.client import ParticipantLeft, RetryPolicy, Room, SignalClient, TrackAdded
from signal_manager.sfu import LocalSfu
from tests.integration.conftest import ServiceWith
from tests.integration.test_room_sdk import BRIGHT, Picture, following, grey_of
from tests.nats_server import NatsServer

LIMIT = 30.0
NAMES = ("ann", "ben")


@pytest.fixture
async def members(nats: NatsServer, service_with: ServiceWith, tmp_path: Path) -> AsyncIterator[list[Room]]:
    """Two members of one room, each at a node of its own, who send a picture; the room is the first one's node's."""
    async with AsyncExitStack() as stack:
        sfu = await stack.enter_async_context(LocalSfu(http_port=0))
        nodes = [
            await service_with(
                **{
                    "media.backend": "cloudflare",
                    "cloudflare.app_id": sfu.app_id,
                    "cloudflare.app_secret": sfu.app_secret,
                    "cloudflare.base_url": sfu.base_url,
                    "cloudflare.stun_url": "",
                    "bus.backend": "nats",
                    "bus.nats_url": nats.url,
                    "bus.node_id": f"node-{number}",
                    "storage.backend": "sqlite",
                    "storage.sqlite_path": str(tmp_path / "shared.db"),
                    "auth.api_keys": [f"{name}:t" for name in NAMES],
                }
            )
            for number in range(2)
        ]
        rooms = []
        for node, name in zip(nodes, NAMES, strict=True):
            client = SignalClient(node.url, name, "t", retry=RetryPolicy(random=lambda: 0.0))
            await stack.enter_async_context(client)
            rooms.append(await client.join("demo", tracks=[Picture()], create=True))
        yield rooms


@pytest.mark.parametrize("who", [0, 1], ids=["at the node of the room", "at another node"])
async def test_a_replaced_media_session_is_a_pause_for_a_member_of_another_node(members: list[Room], who: int) -> None:
    mover, other = members[who], members[1 - who]
    gone: list[ParticipantLeft] = []
    other.on("participant_left", gone.append)
    before = (await following(other, TrackAdded)).track
    await grey_of(before, BRIGHT)
    await grey_of((await following(mover, TrackAdded)).track, BRIGHT)

    mover.restart_ice()

    async with asyncio.timeout(LIMIT):
        after = (await following(other, TrackAdded)).track
        await grey_of(after, BRIGHT)
        await grey_of((await following(mover, TrackAdded)).track, BRIGHT)
    assert after is not before
    assert gone == []
