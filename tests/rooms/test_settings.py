"""Settings that all rooms share: what a service without any has."""

from __future__ import annotations

import pytest

from signal_manager.rooms.settings import STOP_TIMEOUT, RoomSettings
from tests.rooms.harness import RoomHarness, running


def test_rooms_can_be_had_without_settings_and_settings_do_not_change() -> None:
    settings = RoomSettings()

    assert (settings.max_participants, settings.stop_timeout) == (100, STOP_TIMEOUT)
    with pytest.raises(AttributeError):
        settings.max_participants = 7  # type: ignore[misc]


async def test_members_are_told_the_applications_id_and_the_stun_server() -> None:
    async with running(RoomHarness(has_media=False)) as harness:
        ack = await harness.client("alice").create()

    assert (ack.app_id, ack.stun_url) == ("app", "stun:stun.test:3478")


async def test_a_room_that_names_no_capacity_has_that_of_the_settings() -> None:
    async with running(RoomHarness(has_media=False, max_participants=2)) as harness:
        await harness.client("alice").create()

        assert (await harness.room()).max_participants == 2
