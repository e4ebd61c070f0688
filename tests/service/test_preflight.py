"""What `serve` would refuse is found without starting it: each case is tried with both."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from signal_manager.adapters import load_adapter
from signal_manager.errors import ConfigurationError
from signal_manager.service import preflight
from signal_manager.service.app import running
from signal_manager.service.settings import Config


def config_of(**sections: dict[str, Any]) -> Config:
    cluster: dict[str, dict[str, Any]] = {
        "server": {"port": 0},
        "metrics": {"port": 0},
        "storage": {"backend": "memory"},
        "media": {"backend": "none"},
    }
    return Config.model_validate({name: cluster.get(name, {}) | sections.get(name, {}) for name in Config.model_fields})


def test_the_defaults_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fine = config_of(storage={"backend": "sqlite"}, media={"backend": "local"}, logging={"file_path": "logs/new.log"})

    assert list(preflight.problems(fine)) == []
    assert list(preflight.busy_ports(fine)) == []
    assert not list(tmp_path.iterdir()), "looking changes nothing"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"storage": {"backend": "firestore"}}, "firestore.project_id is empty"),
        (
            {"storage": {"backend": "firestore"}, "firestore": {"project_id": "p", "collection_prefix": "a/b"}},
            "firestore.collection_prefix is 'a/b'",
        ),
        ({"storage": {"backend": "postgres"}}, "storage.backend is 'postgres', expected one of"),
        ({"storage": {"backend": "sqlite", "sqlite_path": "no/such.db"}}, "storage.sqlite_path"),
        ({"storage": {"backend": "sqlite", "sqlite_path": "."}}, "storage.sqlite_path"),
        ({"storage": {"backend": "sqlite", "sqlite_path": ":memory:"}}, "storage.sqlite_path is ':memory:'"),
        ({"media": {"backend": "cloudflare"}}, 'media.backend "cloudflare" needs cloudflare.app_id'),
        ({"media": {"backend": "janus"}}, "media.backend is 'janus', expected one of"),
        (
            {"server": {"port": 0, "tls_enabled": True, "tls_cert_path": "no.pem", "tls_key_path": "no.key"}},
            "server.tls_cert_path: cannot read no.pem",
        ),
        ({"server": {"port": 0, "host": "192.0.2.1"}}, "cannot listen on 192.0.2.1"),
        ({"metrics": {"port": 0, "host": "192.0.2.1"}, "admin": {"token": "t"}}, "cannot listen on 192.0.2.1"),
        ({"server": {"port": 0, "workers": 2}}, "needs a store that all processes share"),
    ],
)
async def test_what_serve_refuses_is_found(
    sections: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(**sections)

    assert [problem for problem in preflight.problems(config) if message in problem]
    with pytest.raises(ConfigurationError, match=message.split("'", maxsplit=1)[0].split("(", maxsplit=1)[0]):
        async with running(config):
            pass


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"server": {"host": "0.0.0.0"}}, "refusing to listen on 0.0.0.0 while auth.token_secret is the published"),
        ({"logging": {"file_path": "file/service.log"}}, "is no folder"),
        (
            {"bus": {"backend": "nats", "nats_ca_path": "no.pem"}, "storage": {"backend": "sqlite"}},
            "bus.nats_ca_path: cannot read no.pem",
        ),
        ({"server": {"port": 8123}, "metrics": {"port": 8123}}, "server.port and metrics.port are both 8123"),
        (
            {"firestore": {"project_id": "p", "credentials_path": "no.json"}, "storage": {"backend": "firestore"}},
            "firestore.credentials_path: cannot read no.json",
        ),
    ],
)
def test_other_mistakes_are_found(
    sections: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    assert [problem for problem in preflight.problems(config_of(**sections)) if message in problem]


def test_published_secrets_may_be_allowed() -> None:
    assert not list(preflight.problems(config_of(server={"host": "0.0.0.0", "port": 0}), insecure=True))


@pytest.mark.parametrize(
    ("absent", "sections", "message"),
    [
        ("aiortc", {"media": {"backend": "local"}}, "pip install 'signal-manager[sfu]'"),
        ("signal_manager.sfu", {"media": {"backend": "local"}}, "pip install 'signal-manager[sfu]'"),
        (
            "nkeys",
            {"bus": {"backend": "nats", "nats_credentials_path": "here"}, "storage": {"backend": "sqlite"}},
            "pip install 'signal-manager[nats]'",
        ),
    ],
)
def test_a_missing_package_is_named(
    absent: str, sections: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    monkeypatch.setattr(importlib.util, "find_spec", without(absent))

    assert [problem for problem in preflight.problems(config_of(**sections)) if message in problem]


def test_a_missing_package_of_firestore_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(wall: str, name: str) -> Any:
        if name == "firestore":
            raise ConfigurationError("storage.backend 'firestore' needs a package that is not installed")
        return load_adapter(wall, name)

    monkeypatch.setattr(preflight, "load_adapter", fail)

    found = list(preflight.problems(config_of(storage={"backend": "firestore"}, firestore={"project_id": "p"})))

    assert found == ["storage.backend 'firestore' needs a package that is not installed"]


def test_a_taken_port_is_no_mistake_but_worth_a_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = config_of(server={"port": port})

        assert not list(preflight.problems(config))
        assert list(preflight.busy_ports(config)) == [
            f"server.port: 127.0.0.1:{port} is taken now, by this service or by another program"
        ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_files_of_others_are_named(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    store.touch(mode=0o400)
    tmp_path.chmod(0o500)
    config = config_of(
        storage={"backend": "sqlite", "sqlite_path": str(store)}, logging={"file_path": str(tmp_path / "new.log")}
    )

    assert len(list(preflight.problems(config))) == 2


def without(absent: str) -> Callable[..., Any]:
    """Return `find_spec` of a machine on which one package is not installed."""
    find_spec = importlib.util.find_spec
    return lambda name, *arguments: None if name == absent else find_spec(name, *arguments)
