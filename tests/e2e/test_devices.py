"""Publications in Chromium, with its fake camera and microphone: devices that are let go, tracks that are replaced."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import CHROMIUM, SDK, OpenMember

pytestmark = [
    pytest.mark.long,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
    pytest.mark.skipif(not (SDK / "node_modules").exists(), reason="no SDK: make sdk/js/node_modules"),
]


async def test_a_released_camera_and_microphone_stop_and_come_back_without_negotiation(member: OpenMember) -> None:
    alice, bob = await member("alice"), await member("bob")
    await alice.do("publish")
    await bob.sees("green", muted=False)
    await bob.hears()
    before = await alice.do("negotiated"), await bob.do("negotiated")

    await alice.do("release", "video")
    await alice.do("release", "audio")
    assert (await alice.do("sending", "video"))["opened"] == ["ended"], "the light is off"
    assert (await alice.do("sending", "audio"))["opened"] == ["ended"]
    # Frames go on: an SFU forgets tracks of which nothing comes.
    await bob.sees("black", muted=True, frames=2)

    await alice.do("restore", "video")
    await alice.do("restore", "audio")
    for kind in ("video", "audio"):
        fresh = {"muted": False, "live": True, "inStream": True, "opened": ["ended", "live"]}
        assert await alice.do("sending", kind) == fresh
    await bob.sees("green", muted=False)
    await bob.hears()
    assert (await alice.do("negotiated"), await bob.do("negotiated")) == before


async def test_a_replaced_track_is_seen_without_negotiation_and_mute_survives_it(member: OpenMember) -> None:
    alice, bob = await member("alice"), await member("bob")
    await alice.do("publish")
    await bob.sees("green", muted=False)
    before = await alice.do("negotiated"), await bob.do("negotiated")

    await alice.do("replace", "red")
    await bob.sees("red", muted=False)
    await alice.do("setMuted", True)
    await bob.sees("black", muted=True, frames=2)
    await alice.do("replace", "blue")
    await bob.sees("black", muted=True, frames=2)
    await alice.do("setMuted", False)
    await bob.sees("blue", muted=False)

    assert (await alice.do("negotiated"), await bob.do("negotiated")) == before
