"""Levels and speakers in Chromium, through the SFU: tones that become loud and silent."""

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


async def test_who_makes_sound_speaks_on_both_sides_and_is_silent_after_it(member: OpenMember) -> None:
    alice, bob = await member("alice"), await member("bob")
    for each in (alice, bob):
        await each.do("publishTone")
        await each.do("listen")
    await eventually(lambda: bob.do("heard"), lambda heard: set(heard["levels"]) == {"alice", "me"})

    await alice.do("setVolume", 0.3)
    heard = await eventually(lambda: bob.do("heard"), lambda heard: heard["speakers"] == ["alice"])
    assert heard["levels"]["me"] < 0.01
    await eventually(lambda: alice.do("heard"), lambda heard: heard["speakers"] == ["me"])
    await eventually(lambda: bob.do("heard"), lambda heard: heard["levels"]["alice"] > 0.1)

    await bob.do("setVolume", 0.9)
    await eventually(lambda: alice.do("heard"), lambda heard: heard["speakers"] == ["bob", "me"])
    await eventually(lambda: bob.do("heard"), lambda heard: heard["speakers"] == ["me", "alice"])

    await alice.do("setVolume", 0)
    await bob.do("setVolume", 0)
    for each in (alice, bob):
        await eventually(lambda each=each: each.do("heard"), lambda heard: heard["speakers"] == [])  # type: ignore[misc]
