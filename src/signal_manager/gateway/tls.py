"""The service's certificate: loaded, checked, and loaded again without dropping a connection.

`listener` uses `context` for each new connection, so a reload takes effect with the next one. `app` configures the
files and reloads them on SIGHUP.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cryptography import x509

from signal_manager.errors import ConfigurationError

__all__ = ["Certificate"]

_CERTIFICATE = "server.tls_cert_path"
_KEY = "server.tls_key_path"
_AUTHORITIES = "server.tls_client_ca_path"


class Certificate:
    """A certificate with its key, as the context of a TLS server (TLS 1.2 or newer).

    Args:
        cert_path: PEM file with the certificate first, then its issuers.
        key_path: PEM file with the certificate's private key, not encrypted.
        client_ca_path: PEM file with authorities; when given, a client must show a certificate that one of them issued.

    Raises:
        ConfigurationError: a file is missing, unreadable, not PEM or encrypted, or does not match the other one; the
            message names the setting.
    """

    def __init__(self, *, cert_path: str, key_path: str, client_ca_path: str = "") -> None:
        self._cert_path = cert_path
        self._key_path = key_path
        self._client_ca_path = client_ca_path
        self.context, self._certificate = self._load()

    def reload(self) -> None:
        """Read the files again; connections that exist keep what they have.

        Raises:
            ConfigurationError: as the constructor; then everything stays as it was.
        """
        self.context, self._certificate = self._load()

    def problem(self, now: datetime) -> str | None:
        """Return why clients will refuse this certificate at `now`, or None."""
        certificate = self._certificate
        if now > certificate.not_valid_after_utc:
            return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        if now < certificate.not_valid_before_utc:
            return f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
        return None

    def _load(self) -> tuple[ssl.SSLContext, x509.Certificate]:
        certificate = self._read_certificate()
        _read(_KEY, self._key_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # RFC 5746: a client that renegotiates makes the service work without a frame that counts against it.
        context.options |= ssl.OP_NO_RENEGOTIATION
        # OpenSSL makes two session tickets for each handshake (RFC 8446, section 4.6.1). A client has one connection.
        context.num_tickets = 1
        with _explained(_KEY, "no private key that belongs to server.tls_cert_path"):
            context.load_cert_chain(self._cert_path, self._key_path, password=_refuse_password)
        if self._client_ca_path:
            _read(_AUTHORITIES, self._client_ca_path)
            with _explained(_AUTHORITIES, "no certificate in PEM"):
                context.load_verify_locations(self._client_ca_path)
            context.verify_mode = ssl.CERT_REQUIRED
        return context, certificate

    def _read_certificate(self) -> x509.Certificate:
        data = _read(_CERTIFICATE, self._cert_path)
        try:
            return x509.load_pem_x509_certificate(data)
        except ValueError:
            raise ConfigurationError(f"{_CERTIFICATE}: no certificate in PEM") from None


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: cannot read {path}: {error.strerror}") from None


def _refuse_password() -> str:
    """Stand where OpenSSL would otherwise ask for the password on the terminal."""
    raise ConfigurationError(f"{_KEY}: the key is encrypted; the service needs it without a password")


@contextmanager
def _explained(setting: str, expected: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        reason = (error.reason or "unreadable").replace("_", " ").lower()
        raise ConfigurationError(f"{setting}: {expected} ({reason})") from None
