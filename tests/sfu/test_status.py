"""The status page: what is there, and that no name of a client is more than text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from signal_manager.sfu.metrics import Gauges
from signal_manager.sfu.sdp import Outgoing
from signal_manager.sfu.status import render_status
from signal_manager.sfu.wire import TrackObject
from tests.sfu.test_forwarding import KEY, rtp
from tests.sfu.test_tracks import Scene

GAUGES = Gauges(7, 6, 5, 4, 3, 2)


def session(scene: Scene, *, channels: tuple[str, ...] = (), is_connected: bool = True) -> Any:
    """Return what the page reads of a session."""
    by_id = {number: SimpleNamespace(name=name) for number, name in enumerate(channels)}
    return SimpleNamespace(
        id="0123456789abcdef",
        is_connected=is_connected,
        tracks=scene.tracks,
        channels=SimpleNamespace(channels=by_id),
    )


def test_an_sfu_without_sessions_says_so() -> None:
    page = render_status(GAUGES, [], tick=1.0)

    assert "none yet" in page
    assert "<dt>pending handshakes</dt><dd>2</dd>" in page


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    scene.publish("<script>alert(1)</script>")
    return scene


async def test_names_of_clients_are_text(scene: Scene) -> None:
    page = render_status(GAUGES, [session(scene, channels=("<b>chat</b>",))], tick=1.0)

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (vp8, " in page
    assert "&lt;b&gt;chat&lt;/b&gt;" in page


async def test_a_session_shows_what_flows_and_whether_it_is_connected(scene: Scene) -> None:
    source = next(iter(scene.tracks.published.values()))
    puller = Scene("t")
    puller.tracks.send("1", source, TrackObject(), Outgoing(500, 501, "stream", "track"), source.codec)
    scene.connection.transport.on_rtp(rtp(1, KEY + bytes(995)))
    source.tick(0.0)

    page = render_status(GAUGES, [session(scene), session(puller, is_connected=False), session(Scene("u"))], tick=2.0)

    assert "4 kbit/s" in page
    assert "(0 packets)" in page
    assert page.count("<td>connected</td>") == 2
    assert page.count("<td>not connected</td>") == 1
    assert page.count("<code>01234567</code>") == 3
