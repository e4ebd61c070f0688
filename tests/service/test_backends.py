"""The local SFU starts while the service runs already."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.loading import Loader
from signal_manager.observe.metrics import Metrics
from signal_manager.service.backends import media_for
from signal_manager.service.config import Config


async def test_the_first_who_needs_the_local_sfu_waits_for_it() -> None:
    async with media_for(Config(), Metrics()) as media:
        assert media.backend is not None
        assert len(media.app_id) == 32

        await media.backend.validate_credentials()
        session = await media.backend.open_session()

        assert session


async def test_a_service_may_stop_before_its_sfu_has_started() -> None:
    async with media_for(Config(), Metrics()) as media:
        assert media.backend is not None


async def test_a_start_that_fails_before_the_service_listens_does_not_wait_for_it() -> None:
    async with asyncio.timeout(30), media_for(Config(), Metrics(), Loader(waits=True)) as media:
        assert media.backend is not None


class _Failing(Loader):
    async def load(self, function: Callable[[], Any]) -> Any:
        raise RuntimeError("no SFU today")


async def test_an_sfu_that_cannot_start_is_logged_and_refused_as_unavailable() -> None:
    structlog.reset_defaults()
    with capture_logs() as lines:
        async with media_for(Config(), Metrics(), _Failing()) as media:
            assert media.backend is not None
            with pytest.raises(UnavailableError, match="the local SFU could not start"):
                await media.backend.open_session()

    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["the local SFU could not start"]


async def test_a_media_port_that_is_taken_is_still_a_reason_not_to_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        config = Config.model_validate({"media": {"sfu_udp_port": taken.getsockname()[1]}})

        with pytest.raises(ConfigurationError, match="cannot listen on UDP"):
            async with media_for(config, Metrics()):
                pass


async def test_a_port_of_its_own_is_there_from_the_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with media_for(Config.model_validate({"media": {"sfu_udp_port": port}}), Metrics()) as media:
        assert media.backend is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("absent", ["signal_manager.sfu", "aiortc"])
async def test_a_local_sfu_that_is_not_installed_is_refused_at_once(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_without(absent, monkeypatch)

    with pytest.raises(ConfigurationError, match=r"pip install 'signal-manager\[sfu\]'"):
        async with media_for(Config.model_validate({"media": {"backend": "local"}}), Metrics()):
            pass


async def test_without_a_local_sfu_the_service_starts_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install_without("signal_manager.sfu", monkeypatch)

    with capture_logs() as logged:
        async with media_for(Config(), Metrics()) as media:
            assert media.backend is None

    assert [(line["log_level"], "pip install 'signal-manager[sfu]'" in line["event"]) for line in logged] == [
        ("warning", True)
    ]


def install_without(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one package not be there."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name))


def test_nothing_of_the_sfu_is_imported_before_it_starts() -> None:
    code = "import sys, signal_manager.service.app; print({'aiortc', 'av', 'httpx', 'dns'} & set(sys.modules))"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "set()\n"
