"""A call of Chromium's through a real TURN server whose credentials end while it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aioice.stun import TransactionFailed

from signal_manager.sfu import LocalSfu
from tests.e2e.conftest import CHROMIUM, OpenDemoClient
from tests.e2e.service import Service
from tests.e2e.test_network_change import WATCH_FOR_LEAVING
from tests.turn_server import TurnServer, relayed

pytestmark = [
    pytest.mark.long,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
]

SECRET = "north-of-the-wall"

# Seconds; SDKs ask for others 1.2 s before.
LIFETIME = 12

_RELAY_ONLY = """
window.peers = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(configuration) {
        super({ ...configuration, iceTransportPolicy: "relay" });
        window.peers.push(this);
    }
};
window.turnOf = (peer) => peer.getConfiguration().iceServers.find(({ username }) => username);
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def coturn(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TurnServer]:
    """A TURN server that takes the service's credentials until they end."""
    server = TurnServer(tmp_path_factory.mktemp("turn"), "--use-auth-secret", f"--static-auth-secret={SECRET}")
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory, coturn: TurnServer) -> AsyncIterator[Service]:
    """A service that gives short-lived credentials."""
    async with LocalSfu(http_port=0) as sfu:
        media = {"turn_urls": [coturn.url], "turn_secret": SECRET, "turn_ttl": LIFETIME}
        service = Service(tmp_path_factory.mktemp("service"), sfu=sfu, media=media)
        try:
            yield service
        finally:
            await service.stop()


async def test_a_relay_that_is_dropped_with_its_credentials_is_a_pause(
    guest: OpenDemoClient, coturn: TurnServer
) -> None:
    """Coturn itself keeps relays that it has; a new start of it drops them all, and only takes new credentials."""
    bob = await guest("bob")
    alice = await guest("alice", joins=False)
    await alice.page.add_init_script(_RELAY_ONLY)
    await alice.page.reload()
    await alice.page.get_by_label("Your name").fill("alice")
    await alice.join()
    await alice.sees(bob)
    await bob.sees(alice)
    await bob.page.evaluate(WATCH_FOR_LEAVING, "alice")
    first = await alice.page.evaluate("turnOf(peers[0])")

    # Before they end, the same peer connection has others; they do not reach the relay that there is.
    await alice.page.wait_for_function("(first) => turnOf(peers[0]).username !== first", arg=first["username"])
    ends = int(first["username"].partition(":")[0])
    await alice.page.wait_for_function("(ends) => Date.now() / 1000 > ends + 1", arg=ends)
    with pytest.raises(TransactionFailed, match="401"):
        await relayed([coturn.url], first["username"], first["credential"])
    await alice.sees(bob)
    before = await alice.page.evaluate("peers.length")

    await coturn.stop()
    await coturn.start()

    await alice.page.wait_for_function("(before) => peers.length > before", arg=before)
    await alice.sees(bob)
    await bob.sees(alice)
    assert await bob.page.evaluate("[window.saysLeft, window.tileWent].some(Boolean)") is False
