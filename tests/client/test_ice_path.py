"""Whether media take a relay, from aiortc's inside or, without it, from its description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiortc
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

from signal_manager.client.ice_path import chosen_types, is_relayed
from tests.waiting import until


@pytest.fixture
async def peer() -> AsyncIterator[RTCPeerConnection]:
    """A connection that is up, to another one on this machine."""
    here, there = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    here.addTrack(AudioStreamTrack())
    await here.setLocalDescription(await here.createOffer())
    await there.setRemoteDescription(here.localDescription)
    await there.setLocalDescription(await there.createAnswer())
    await here.setRemoteDescription(there.localDescription)
    await until(lambda: here.connectionState == "connected", limit=30)
    yield here
    await here.close()
    await there.close()


async def test_aiortc_tells_which_path_it_uses(peer: RTCPeerConnection) -> None:
    assert chosen_types(peer) in ({"host"}, {"prflx"}), (
        f"aiortc {aiortc.__version__} or aioice no longer has what signal_manager/client/ice_path.py takes from inside "
        "it. The client works, and also watches paths that are no relays. Look whether docs/upstream.md's proposal "
        "came true, and use that; or else adapt the module."
    )
    assert not is_relayed(peer)


class _Silent:
    """A connection of an aiortc that has other names inside."""

    def __init__(self, sdp: str) -> None:
        self.localDescription = RTCSessionDescription(sdp=sdp, type="offer")

    def getTransceivers(self) -> list[Any]:  # noqa: N802 -- as aiortc calls it
        class Sender:
            class transport:  # noqa: N801
                transport = object()

        class Transceiver:
            sender = Sender

        return [Transceiver]


@pytest.mark.parametrize(("kind", "expected"), [("relay", True), ("host", False)])
def test_without_aiortcs_names_a_path_that_may_be_relayed_counts_as_relayed(kind: str, expected: bool) -> None:
    peer: Any = _Silent(f"v=0\r\na=candidate:1 1 udp 1 192.0.2.1 1 typ {kind} raddr 0.0.0.0\r\n")

    assert chosen_types(peer) is None
    assert is_relayed(peer) is expected
