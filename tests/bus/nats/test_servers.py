"""Addresses of nats-servers, and what proves to them who a node is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from signal_manager.bus.nats.protocol import Info, SignIn
from signal_manager.bus.nats.servers import Cluster, NatsSecurity, Server, learned_server, servers_of
from signal_manager.errors import ConfigurationError
from tests.nats_accounts import Accounts

SAFE, TLS = NatsSecurity(), NatsSecurity(ca_path="ca.pem")
NONCE = Info(nonce="abc")


def test_an_address_says_where_a_server_is_and_who_this_node_is_to_it() -> None:
    assert servers_of("nats://h", SAFE) == [Server("h", 4222, "h")]
    assert servers_of("tls://[::1]:1", SAFE) == [Server("::1", 1, "::1", wants_tls=True)]
    assert servers_of("nats://h", TLS)[0].wants_tls
    assert servers_of("nats://u:p%40w@h", SAFE)[0].sign_in == SignIn(user="u", password="p@w")
    assert servers_of("nats://t%2Fn@h", SAFE)[0].sign_in == SignIn(token="t/n")


def test_servers_of_a_cluster_share_the_first_ones_user_unless_they_have_their_own() -> None:
    servers = servers_of("nats://u:p@a:1, nats://b:2,nats://t@c:3", SAFE)

    assert [server.sign_in for server in servers] == [SignIn("u", "p"), SignIn("u", "p"), SignIn(token="t")]


@pytest.mark.parametrize("url", ["", "nats://", "nats://a,", "h:4222", "ws://h", "nats://secret@h:x", "nats://[secret"])
def test_a_wrong_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"bus\.nats_url: expected nats://") as caught:
        servers_of(url, SAFE)

    assert "secret" not in str(caught.value)


def test_a_server_that_is_learned_is_used_as_the_one_that_told_of_it() -> None:
    teacher = Server("a.example", 1, "a.example", wants_tls=True, sign_in=SignIn(token="t"))

    assert learned_server("b.example:2", teacher, [teacher]) == teacher._replace(
        host="b.example", port=2, tls_name="b.example"
    )
    assert learned_server("10.0.0.2:2", teacher, [teacher]) == teacher._replace(host="10.0.0.2", port=2)
    assert learned_server("[fd00::2]:2", teacher, [teacher]) == teacher._replace(host="fd00::2", port=2)


@pytest.mark.parametrize("address", ["a:1", "", ":2", "b:x", "[b"])
def test_a_server_that_is_known_or_none_is_not_learned(address: str) -> None:
    assert learned_server(address, Server("a", 1, "a"), [Server("a", 1, "a")]) is None


def test_credentials_sign_what_nats_server_asks(tmp_path: Path) -> None:
    security = NatsSecurity(credentials_path=str(Accounts().write_credentials(tmp_path / "a.creds")))

    signed = security.sign_in(NONCE, SignIn(token="t"))

    assert signed.jwt.count(".") == 2
    assert len(signed.signature) == 86
    assert (signed.token, signed.nkey) == ("t", "")
    assert security.sign_in(Info(nonce="other"), SignIn()).signature != signed.signature
    assert security.sign_in(Info(), SignIn("u", "p")) == SignIn("u", "p")


@pytest.mark.parametrize("content", [None, b"nonsense", b"SUTOOSHORT", b"SU!\xff"])
def test_credentials_that_cannot_be_used_are_named_and_not_shown(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.creds"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"bus\.nats_credentials_path: \w") as caught:
        NatsSecurity(credentials_path=str(path)).sign_in(NONCE, SignIn())

    assert "nonsense" not in str(caught.value)
    assert "TOOSHORT" not in str(caught.value)


def test_without_the_package_that_signs_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'signal-manager\[nats\]'"):
        NatsSecurity(credentials_path="a.creds").sign_in(NONCE, SignIn())


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_certificates_that_cannot_be_used_are_a_mistake_of_the_settings(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"bus\.nats_ca_path"):
        NatsSecurity(ca_path=str(path)).tls_context()


def test_a_cluster_tries_every_server_and_remembers_those_it_is_told_of() -> None:
    cluster = Cluster("nats://a:1,tls://b:2", SAFE)
    assert cluster.wants_tls
    assert {server.host for server in cluster.attempts()} == {"a", "b"}

    cluster.learn(["c:3", "a:1", "no address:x"])

    tried = {server.host: server for server in cluster.attempts()}
    assert set(tried) == {"a", "b", "c"}
    assert len(cluster) == 3
    assert cluster.latest in tried.values()


def test_a_cluster_forgets_the_servers_it_was_told_of_first() -> None:
    cluster = Cluster("nats://a:1", SAFE)

    cluster.learn(f"10.0.0.{number}:1" for number in range(1, 100))

    assert {server.host for server in cluster.attempts()} == {"a", *(f"10.0.0.{n}" for n in range(68, 100))}
