"""Certificates as tests need them: right, expired, of another authority, or with the wrong key."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Pair"]

DAY = timedelta(days=1)


class Pair(NamedTuple):
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, object]:
        """The service's settings that name them."""
        return {
            "server.tls_enabled": True,
            "server.tls_cert_path": str(self.certificate),
            "server.tls_key_path": str(self.key),
        }


class Authority:
    """A certificate authority that keeps everything in one directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(self._name, self._key.public_key(), starts=-DAY, ends=DAY, is_authority=True)
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self, name: str, *, starts: timedelta = -DAY, ends: timedelta = DAY, password: bytes | None = None
    ) -> Pair:
        """Issue a certificate for 127.0.0.1, valid from and until these times from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(subject, key.public_key(), starts=starts, ends=ends, is_authority=False)
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        encryption: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return pair

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        starts: timedelta,
        ends: timedelta,
        is_authority: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + starts)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(alternative, critical=False)
            .sign(self._key, hashes.SHA256())
        )
