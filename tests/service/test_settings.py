"""What the settings say about themselves and together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from signal_manager.service.settings import (
    Auth,
    Bus,
    Config,
    Media,
    Server,
    Session,
    Storage,
    bus_backend_of,
    has_other_nodes,
    insecure_settings,
    is_loopback,
    static_keys,
    unsupported_settings,
    weak_secrets,
)

OWN_SECRET = SecretStr("a secret of our own, of 32 bytes and more")


def test_the_defaults_are_those_of_the_original_service() -> None:
    config = Config()

    assert (config.server.host, config.server.port, config.server.max_connections) == ("127.0.0.1", 8080, 1000)
    assert (config.server.heartbeat_interval, config.server.max_message_size) == (30, 1048576)
    assert config.auth.token_secret.get_secret_value() == "your-secret-key-change-in-production"
    assert static_keys(config) == ["test_client_1:test_token_1", "test_client_2:test_token_2"]
    assert (config.metrics.host, config.metrics.port) == ("127.0.0.1", 9090)


def test_constructing_a_config_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_PORT", "1234")

    assert Config().server.port == 8080


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().server.port = 1


def test_secrets_do_not_show_in_the_representation() -> None:
    config = Config(
        auth=Auth(token_secret=OWN_SECRET, api_keys=(SecretStr("alice:wonderland"),)),
        bus=Bus(nats_url=SecretStr("nats://user:hunter2@nats:4222")),
    )

    shown = repr(config)

    assert "of our own" not in shown
    assert "wonderland" not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_only_this_machine_reaches_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.example.org"])
def test_everything_else_counts_as_reachable(host: str) -> None:
    assert not is_loopback(host)


def test_default_secrets_are_fine_on_loopback() -> None:
    assert insecure_settings(Config()) == []


def test_default_secrets_are_named_beyond_loopback() -> None:
    assert insecure_settings(Config(server=Server(host="0.0.0.0"))) == ["auth.token_secret"]


def test_one_published_key_among_own_ones_is_still_insecure() -> None:
    auth = Auth(token_secret=OWN_SECRET, api_keys=(SecretStr("alice:t"), SecretStr("test_client_1:test_token_1")))

    assert insecure_settings(Config(server=Server(host="::"), auth=auth)) == ["auth.api_keys"]


def test_own_secrets_may_listen_everywhere() -> None:
    auth = Auth(token_secret=OWN_SECRET, api_keys=())

    assert insecure_settings(Config(server=Server(host="0.0.0.0"), auth=auth)) == []


def test_short_secrets_are_weak() -> None:
    auth = Auth(token_secret=SecretStr("short"), previous_token_secrets=(OWN_SECRET, SecretStr("too")))

    assert weak_secrets(Config()) == []
    assert weak_secrets(Config(auth=auth)) == ["auth.token_secret", "auth.previous_token_secrets"]


def test_the_defaults_are_supported() -> None:
    assert unsupported_settings(Config()) == []


@pytest.mark.parametrize(
    ("sections", "backend"),
    [
        ({}, "local"),
        ({"server": Server(workers=2)}, "nats"),
        ({"bus": Bus(backend="NATS")}, "nats"),
        ({"bus": Bus(backend="redis")}, "redis"),
        ({"bus": Bus(backend="redis"), "server": Server(workers=2)}, "redis"),
    ],
)
def test_nodes_meet_on_the_bus_that_is_named_and_workers_on_nats(sections: dict[str, Any], backend: str) -> None:
    config = Config(**sections)

    assert bus_backend_of(config) == backend
    assert has_other_nodes(config) is (backend != "local")


@pytest.mark.parametrize(
    "nodes", [{"server": Server(workers=2)}, {"bus": Bus(backend="nats")}, {"bus": Bus(backend="redis")}]
)
def test_several_processes_need_what_they_can_share(nodes: dict[str, Any]) -> None:
    assert unsupported_settings(Config(media=Media(backend="none"), **nodes)) == []


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"storage": Storage(backend="memory")}, "needs a store that all processes share"),
        ({"session": Session(max_sessions_per_client=2)}, "allows one session per client"),
        ({"media": Media(backend="local")}, "needs an SFU that all processes share"),
        ({"media": Media(backend="auto")}, "needs an SFU that all processes share"),
        ({"bus": Bus(backend="nats", nats_url=SecretStr("wss://n"))}, "over WebSocket is not supported"),
    ],
)
def test_what_they_cannot_share_is_refused(wrong: dict[str, Any], advice: str) -> None:
    sections = {"bus": Bus(backend="nats"), "media": Media(backend="none")} | wrong

    (problem,) = unsupported_settings(Config(**sections))

    assert advice in problem
