"""The figures of a call in Chromium: what one page sends, the other receives, and the quality that both see."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import CHROMIUM, SDK, OpenMember
from tests.e2e.service import eventually

pytestmark = [
    pytest.mark.long,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
    pytest.mark.skipif(not (SDK / "node_modules").exists(), reason="no SDK: make sdk/js/node_modules"),
]


async def test_both_sides_of_a_call_have_figures_and_a_quality(member: OpenMember) -> None:
    alice, bob = await member("alice"), await member("bob")
    await alice.do("publish")
    await bob.sees("green", muted=False)

    sent = await alice.do("stats")
    received = await bob.do("stats")

    assert sent["connection"]["state"] == received["connection"]["state"] == "connected"
    assert sent["connection"]["protocol"] == "udp"
    assert sent["connection"]["isRelayed"] is False
    assert sent["connection"]["bitrateUp"] > 1000
    assert received["connection"]["bitrateDown"] > 1000
    assert sent["subscriptions"] == received["publications"] == []
    ours = {each["kind"]: each for each in sent["publications"]}
    theirs = {each["kind"]: each for each in received["subscriptions"]}
    assert set(ours) == set(theirs) == {"audio", "video"}
    assert all(each["clientId"].startswith("alice") for each in theirs.values())
    for kind, codec in (("audio", "opus"), ("video", "VP8")):
        for track in (ours[kind], theirs[kind]):
            assert track["codec"] == codec
            assert track["packets"] > 0
            assert track["bitrate"] > 0
        assert 0 <= theirs[kind]["loss"] <= 1
        assert theirs[kind]["jitter"] >= 0
    for track in (ours["video"], ours["video"]["layers"][0], theirs["video"]):
        assert track["width"] / track["height"] == pytest.approx(4 / 3, abs=0.05)
        assert track["framesPerSecond"] > 0
    assert theirs["video"]["frozenTime"] >= 0

    # Any but "lost": on a slow machine a picture stands still now and then.
    some = {"excellent", "good", "poor"}
    await alice.do("watch")
    await bob.do("watch")
    await eventually(lambda: alice.do("lastQuality"), lambda seen: seen is not None and seen[0] in some)
    await eventually(lambda: bob.do("lastQuality"), lambda seen: seen is not None and set(seen) <= some)
    # The SFU's reports come every few seconds.
    await eventually(lambda: alice.do("stats"), lambda seen: seen["publications"][0].get("roundTripTime") is not None)
    assert await bob.do("leave") == 0, "watching ends with the room"
