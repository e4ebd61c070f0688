"""A browser's network changes in a call: what was on its way is lost on both paths, and new paths work."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import CHROMIUM, OpenDemoClient
from tests.e2e.service import Service

pytestmark = [
    pytest.mark.long,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
]

_KEEP_SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
    constructor(...parameters) { super(...parameters); window.sockets.push(this); }
};
"""
WATCH_FOR_LEAVING = """(name) => {
    const look = () => {
        window.saysLeft ||= document.querySelector('[role="status"]')?.textContent.includes(`${name} left`);
        window.tileWent ||= document.querySelector(`.tile[data-name="${name}"]`) === null;
    };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


async def test_media_comes_back_on_another_network_and_nobody_sees_a_departure(
    guest: OpenDemoClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.sfu is not None
    port = service.sfu._port
    alice = await guest("alice")
    bob = await guest("bob", joins=False)
    await bob.page.add_init_script(_KEEP_SOCKETS)
    await bob.page.reload()
    await bob.page.get_by_label("Your name").fill("bob")
    others = set(port.by_address)
    await bob.join()
    await alice.sees(bob)
    await bob.sees(alice)
    await alice.page.evaluate(WATCH_FOR_LEAVING, "bob")
    lost = set(port.by_address) - others
    assert lost
    receive, send = port._receive, port.send

    monkeypatch.setattr(port, "_receive", lambda data, source: source in lost or receive(data, source))
    monkeypatch.setattr(port, "send", lambda data, target: target in lost or send(data, target))
    await bob.page.evaluate("window.sockets.at(-1).close(4408)")

    await bob.is_shown("reconnecting")
    await bob.is_shown("connected")
    await bob.sees(alice)
    await alice.sees(bob)
    assert await alice.page.evaluate("[window.saysLeft, window.tileWent].some(Boolean)") is False
    assert await bob.page.evaluate("window.sockets.length") == 2
