"""A node that is killed with members in its rooms and tracks at the SFU: one of the others cleans up after it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from signal_manager.client import ParticipantJoined, ParticipantLeft, SignalClient
from signal_manager.sfu import LocalSfu
from tests.integration.processes import service_process
from tests.integration.test_room_sdk import Picture
from tests.nats_server import NatsServer
from tests.waiting import until

pytestmark = pytest.mark.long

LIMIT = 40.0
NAMES = ("alice", "bob")

# A node is believed gone after its lease, which no setting shortens; others look three times as often.
SHORT_LEASE = """\
from signal_manager.records.housekeeping import Housekeeping
Housekeeping.__init__.__kwdefaults__["lease"] = 3.0
"""


async def test_one_other_node_takes_a_dead_nodes_members_out_and_closes_their_tracks(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with LocalSfu(http_port=0) as sfu:
        settings = {
            "bus.backend": "nats",
            "bus.nats_url": nats.url,
            "storage.backend": "sqlite",
            "storage.sqlite_path": str(tmp_path / "shared.db"),
            "media.backend": "cloudflare",
            "cloudflare.app_id": sfu.app_id,
            "cloudflare.app_secret": sfu.app_secret,
            "cloudflare.base_url": sfu.base_url,
            "cloudflare.stun_url": "",
            "auth.api_keys": [f"{name}:t" for name in NAMES],
        }
        async with AsyncExitStack() as end:
            stack = ExitStack()
            end.push_async_callback(asyncio.to_thread, stack.close)  # while they stop, the SFU here must answer them
            nodes = []
            for number in range(3):
                folder = tmp_path / f"node-{number}"
                folder.mkdir()
                own = settings | {"bus.node_id": f"node-{number}"}
                nodes.append(stack.enter_context(service_process(folder, own, before=SHORT_LEASE)))
            async with SignalClient(nodes[1].url, "bob", "t") as bob:
                room = await bob.join("lunch", tracks=[], create=True)
                alice = SignalClient(nodes[0].url, "alice", "t")
                await alice.connect()
                await alice.join("lunch", tracks=[Picture()])
                await until(lambda: sfu.gauges().publications == 1, limit=LIMIT)
                # Of whom a node has let in and died before it told anybody, nobody hears that they left either.
                async with asyncio.timeout(LIMIT):
                    came = await anext(
                        event.participant async for event in room if isinstance(event, ParticipantJoined)
                    )
                assert came.client_id == "alice"

                os.kill(nodes[0].pid, signal.SIGKILL)
                await alice.close()

                async with asyncio.timeout(LIMIT):
                    left = await anext(event.participant async for event in room if isinstance(event, ParticipantLeft))
                assert left.client_id == "alice"
                await until(lambda: sfu.gauges().publications == 0, limit=LIMIT)
                cleaned = [
                    line for node in nodes[1:] for line in node.logged() if line["event"] == "cleaned up after a node"
                ]
                assert [line["node_id"] for line in cleaned] == ["node-0"]
