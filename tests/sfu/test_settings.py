"""The SFU's limits fit each other and the service's."""

from __future__ import annotations

import dataclasses

import pytest

from signal_manager.cli.sfu import DEFAULT_PACKETS
from signal_manager.protocol.messages import MAX_ITEMS
from signal_manager.service.settings import Config
from signal_manager.sfu.settings import SfuSettings

SETTINGS = SfuSettings()


def test_the_defaults_fit_each_other() -> None:
    assert SETTINGS.max_tracks_per_request == MAX_ITEMS
    assert SETTINGS.max_tracks_per_request <= SETTINGS.max_sections
    assert SETTINGS.max_sdp < SETTINGS.max_body
    assert SETTINGS.resend_floor < SETTINGS.resend_burst < SETTINGS.max_cache
    assert SETTINGS.key_frame_interval < SETTINGS.shared_key_frame_interval <= SETTINGS.key_frame_period
    assert SETTINGS.tick < min(SETTINGS.silence_timeout, SETTINGS.reuse_window, SETTINGS.track_timeout)
    assert 0 < SETTINGS.max_busy < 1


def test_the_packets_of_one_process_have_one_default() -> None:
    assert SETTINGS.max_packets_per_second == DEFAULT_PACKETS == Config().media.sfu_max_packets_per_second


def test_every_default_is_a_positive_number_but_for_what_is_off() -> None:
    values = dataclasses.asdict(SETTINGS)

    assert values.pop("drop_rate") == 0.0
    assert all(value > 0 for value in values.values())


def test_limits_cannot_change_under_a_running_sfu() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SETTINGS.tick = 2.0  # type: ignore[misc]
