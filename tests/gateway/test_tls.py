"""Certificates that load, those that cannot, and what the operator is told."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from signal_manager.errors import ConfigurationError
from signal_manager.gateway.tls import Certificate
from tests.certificates import DAY, Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def load(pair: Pair, **more: str) -> Certificate:
    return Certificate(cert_path=str(pair.certificate), key_path=str(pair.key), **more)


def test_a_good_pair_serves_tls_1_2_and_newer(authority: Authority) -> None:
    certificate = load(authority.issue("good"))

    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert certificate.context.verify_mode is ssl.CERT_NONE
    assert certificate.problem(datetime.now(UTC)) is None


def test_a_client_gets_one_session_ticket_for_its_one_connection(authority: Authority) -> None:
    assert load(authority.issue("good")).context.num_tickets == 1


@pytest.mark.parametrize("setting", ["tls_cert_path", "tls_key_path"])
def test_a_missing_file_is_named(authority: Authority, tmp_path: Path, setting: str) -> None:
    pair = authority.issue("good")
    missing = tmp_path / "missing.pem"
    pair = pair._replace(certificate=missing) if setting == "tls_cert_path" else pair._replace(key=missing)

    with pytest.raises(ConfigurationError, match=rf"server\.{setting}: cannot read .*missing\.pem: No such file"):
        load(pair)


def test_a_key_of_another_certificate_is_explained(authority: Authority) -> None:
    pair = authority.issue("one")._replace(key=authority.issue("other").key)

    with pytest.raises(ConfigurationError, match=r"tls_key_path: no private key that belongs to server\.tls_cert_path"):
        load(pair)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"-----BEGIN CERTIFICATE-----\nrubbish\n"])
def test_what_is_no_certificate_is_explained(authority: Authority, content: bytes) -> None:
    pair = authority.issue("good")
    pair.certificate.write_bytes(content)

    with pytest.raises(ConfigurationError, match="tls_cert_path: no certificate in PEM"):
        load(pair)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"-----BEGIN PRIVATE KEY-----\nrubbish\n"])
def test_what_is_no_key_is_explained(authority: Authority, content: bytes) -> None:
    pair = authority.issue("good")
    pair.key.write_bytes(content)

    with pytest.raises(ConfigurationError, match="tls_key_path: no private key"):
        load(pair)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(authority: Authority) -> None:
    pair = authority.issue("locked", password=b"secret")

    with pytest.raises(ConfigurationError, match="tls_key_path: the key is encrypted"):
        load(pair)


@pytest.mark.parametrize(
    ("starts", "ends", "says"),
    [(-2 * DAY, -DAY, r"expired on \d{4}-\d\d-\d\d"), (DAY, 2 * DAY, r"not valid before \d{4}-\d\d-\d\d")],
)
def test_a_certificate_out_of_its_time_loads_with_a_warning(
    authority: Authority, starts: timedelta, ends: timedelta, says: str
) -> None:
    problem = load(authority.issue("late", starts=starts, ends=ends)).problem(datetime.now(UTC))

    assert problem is not None
    assert re.fullmatch(says, problem)


def test_with_authorities_clients_must_show_a_certificate(authority: Authority) -> None:
    certificate = load(authority.issue("good"), client_ca_path=str(authority.path))

    assert certificate.context.verify_mode is ssl.CERT_REQUIRED
    assert len(certificate.context.get_ca_certs()) == 1


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_authorities_that_cannot_be_read_are_explained(
    authority: Authority, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"server\.tls_client_ca_path: "):
        load(authority.issue("good"), client_ca_path=str(path))


def test_a_reload_that_fails_leaves_everything_as_it_was(authority: Authority) -> None:
    pair = authority.issue("good")
    certificate = load(pair)
    before = certificate.context
    pair.key.write_bytes(authority.issue("other").key.read_bytes())

    with pytest.raises(ConfigurationError):
        certificate.reload()

    assert certificate.context is before
