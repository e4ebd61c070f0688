"""What the composition root works out from the configuration; and a whole service in this process."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from structlog.testing import capture_logs

from signal_manager import __version__
from signal_manager.errors import ConfigurationError
from signal_manager.gateway.server import Dashboard, Server
from signal_manager.service import app
from signal_manager.service.settings import DEFAULT_TOKEN_SECRET, Config
from tests.certificates import Authority
from tests.nats_server import free_port
from tests.waiting import until
from tests.web import plain_http


class Listening(NamedTuple):
    host: str
    port: int
    is_secure: bool = False


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "ws://127.0.0.1:8080"),
        ("0.0.0.0", "ws://127.0.0.1:8080"),
        ("::", "ws://[::1]:8080"),
        ("10.1.2.3", "ws://10.1.2.3:8080"),
    ],
)
def test_a_browser_on_this_machine_is_told_an_address_that_it_can_reach(host: str, url: str) -> None:
    assert app.local_url(Listening(host, 8080)) == url  # type: ignore[arg-type]  # nothing else is read
    secure = app.local_url(Listening(host, 8080, is_secure=True))  # type: ignore[arg-type]  # the same
    assert secure == url.replace("ws:", "wss:")


# -- a whole service, in this process --------------------------------------------------------------------------------


def config_of(**sections: dict[str, Any]) -> Config:
    """Return a configuration on free ports, without media and with storage in memory."""
    settings: dict[str, dict[str, Any]] = {
        "server": {"port": 0, "drain_timeout": 0.2},
        "storage": {"backend": "memory"},
        "media": {"backend": "none"},
        "metrics": {"port": 0},
    }
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values
    return Config.model_validate(settings)


async def get(url: str) -> httpx.Response:
    async with plain_http() as http:
        return await http.get(url)


async def test_a_service_listens_on_both_ports_until_the_block_ends() -> None:
    async with app.running(config_of()) as server:
        health = await get(f"http://127.0.0.1:{server.port}/health")
        assert server.dashboard is not None
        dashboard = await get(server.dashboard.url + "health")

    assert health.json()["version"] == __version__
    assert dashboard.status_code == 200
    with pytest.raises(httpx.ConnectError):
        await get(f"http://127.0.0.1:{server.port}/health")


async def test_without_a_second_port_there_is_no_dashboard_but_that_of_another_process() -> None:
    elsewhere = Dashboard("127.0.0.1", 9999)

    async with app.running(config_of(metrics={"enabled": False})) as alone:
        pass
    async with app.running(config_of(metrics={"enabled": False}), dashboard=elsewhere) as worker:
        pass

    assert (alone.dashboard, worker.dashboard) == (None, elsewhere)


async def test_what_a_version_cannot_do_is_refused_before_anything_listens() -> None:
    port = free_port()
    config = config_of(server={"port": port}, bus={"backend": "nats"})

    with pytest.raises(ConfigurationError, match="a store that all processes share"):
        async with app.running(config):
            pass
    socket.create_server(("127.0.0.1", port)).close()


async def test_a_service_that_cannot_start_leaves_its_port_to_others(tmp_path: Path) -> None:
    port = free_port()
    config = config_of(server={"port": port, "tls_enabled": True, "tls_cert_path": "none", "tls_key_path": "none"})

    with pytest.raises(ConfigurationError, match="tls_cert_path"):
        async with app.running(config):
            pass
    socket.create_server(("127.0.0.1", port)).close()


async def test_sessions_of_an_earlier_start_are_reclaimed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reclaim(self: Server) -> int:
        return 7

    monkeypatch.setattr(Server, "reclaim", reclaim)

    with capture_logs() as logs:
        async with app.running(config_of(metrics={"enabled": False})):
            pass

    assert [line["sessions"] for line in logs if line["event"] == "sessions reclaimed"] == [7]


@pytest.mark.parametrize(("is_announced", "level"), [(True, "debug"), (False, "info")])
async def test_the_log_need_not_tell_of_a_start_that_the_terminal_shows(is_announced: bool, level: str) -> None:
    with capture_logs() as logs:
        async with app.running(config_of(metrics={"enabled": False}), is_announced=is_announced):
            pass

    assert [line["log_level"] for line in logs if line["event"] == "service started"] == [level]
    assert [line["event"] for line in logs][-2:] == ["service stopping", "service stopped"]


async def test_a_hangup_loads_the_certificate_again_and_a_broken_one_is_not_used(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("good")
    config = config_of(
        server={"tls_enabled": True, "tls_cert_path": str(pair.certificate), "tls_key_path": str(pair.key)},
        metrics={"enabled": False},
    )
    with capture_logs() as logs:

        def logged(event: str) -> bool:
            return any(line["event"] == event for line in logs)

        async with app.running(config) as server:
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: logged("certificate reloaded"), limit=30)
            pair.certificate.write_text("garbage")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: logged("certificate not reloaded"), limit=30)

    assert server.is_secure


def test_run_serves_until_a_signal_and_announces_once() -> None:
    announced: list[Server] = []

    def announce(server: Server) -> None:
        announced.append(server)
        os.kill(os.getpid(), signal.SIGTERM)

    config = config_of(metrics={"enabled": False}, logging={"level": "ERROR"})
    before = signal.getsignal(signal.SIGTERM)
    app.run(config, announce=announce)
    signal.signal(signal.SIGTERM, before)

    assert len(announced) == 1


def test_published_secrets_are_not_served_to_other_machines() -> None:
    config = config_of(server={"host": "0.0.0.0"}, auth={"token_secret": DEFAULT_TOKEN_SECRET})

    with pytest.raises(ConfigurationError, match="token_secret"):
        app.check_exposure(config, insecure=False)
    app.check_exposure(config, insecure=True)


@pytest.mark.parametrize(
    ("host", "proxies", "is_announced", "level"),
    [
        ("127.0.0.1", (), False, "info"),
        ("127.0.0.1", (), True, "debug"),
        ("127.0.0.1", ("10.0.0.1",), True, "warning"),
        ("0.0.0.0", (), True, "warning"),
    ],
)
def test_published_credentials_are_a_warning_where_other_machines_can_connect(
    host: str, proxies: tuple[str, ...], is_announced: bool, level: str
) -> None:
    with capture_logs() as logs:
        app.tell_of_published_credentials(
            config_of(server={"host": host, "trusted_proxies": proxies}), is_announced=is_announced
        )
        app.tell_of_published_credentials(config_of(auth={"api_keys": ["a:t"], "token_secret": "x" * 40}))

    assert [line["log_level"] for line in logs] == [level]


@pytest.mark.parametrize(
    ("auth", "signs"),
    [
        ({"auth_method": "jwt"}, True),
        ({"auth_method": "api_key"}, False),
        ({"auth_method": "store"}, False),
    ],
)
def test_tokens_are_signed_only_where_the_service_accepts_them(auth: dict[str, Any], signs: bool) -> None:
    issuer = app._token_issuer(config_of(auth=auth | {"token_secret": "x" * 40}))

    assert (issuer is not None) is signs


def test_so_many_connections_are_allowed_as_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 100_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))

    plenty = app._allow_descriptors(1000)
    raised = limits[-1][0]
    limits.append((4096, 4096))
    with capture_logs() as logs:
        few = app._allow_descriptors(10_000)

    assert plenty.connections == 1000
    assert 1000 < raised <= 100_000
    assert 0 < few.connections < 4096
    assert [line["log_level"] for line in logs] == ["warning"]
