"""DTLS (RFC 6347) for SRTP (RFC 5764) without I/O: datagrams and time-outs go in, datagrams come out.

Neighbours: `secure_transport` gives an association its socket and its clock, `srtp` uses the keys. OpenSSL does the
handshake in memory, by pyOpenSSL; this module frames its datagrams and checks who the peer is.
"""

from __future__ import annotations

import datetime
import enum
import math
import secrets
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from signal_manager.sfu.srtp import PROFILES, Srtp

__all__ = ["Association", "Certificate", "State", "is_client_hello"]

# What OpenSSL may put into one datagram. ICE promises no more than IPv6's least MTU of 1,280 bytes.
_MTU = 1200
# Longer than all that OpenSSL has to send at a time, which is a flight or a record.
_MOST_OUTPUT = 1 << 15
# Longer than every datagram that the media port takes: a record is read in one piece.
_LONGEST = 2048

# RFC 6347, 4.1: type, version, epoch and number, then the length of what follows.
_HEADER, _LENGTH = 13, 11
_HANDSHAKE, _CLIENT_HELLO, _DATA = 22, 1, 23
_DTLS_1_2 = 0xFEFD

# With a P-256 key on either side, as browsers and aiortc make them.
_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
_EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"

# RFC 8122, 5: the hash functions that a fingerprint may be of, the preferred one first.
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha-512": hashes.SHA512(),
    "sha-384": hashes.SHA384(),
    "sha-256": hashes.SHA256(),
}


class State(enum.Enum):
    """How far an association is."""

    HANDSHAKING = enum.auto()
    CONNECTED = enum.auto()
    CLOSED = enum.auto()
    FAILED = enum.auto()


def is_client_hello(datagram: bytes) -> bool:
    """Return whether a peer begins a handshake with this datagram."""
    return (
        len(datagram) > _HEADER
        and datagram[0] == _HANDSHAKE
        and datagram[3:5] == b"\0\0"  # an epoch without encryption
        and datagram[_HEADER] == _CLIENT_HELLO
    )


def _digest(certificate: x509.Certificate, algorithm: str) -> str:
    return certificate.fingerprint(_HASHES[algorithm]).hex(":").upper()


class Certificate:
    """A self-signed certificate with its key, and what OpenSSL derives from both once for all associations."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, secrets.token_hex(16))])
        now = datetime.datetime.now(tz=datetime.UTC)
        builder = x509.CertificateBuilder(
            subject_name=name,
            issuer_name=name,
            public_key=self._key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=30),
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 fingerprint that descriptions announce."""
        return _digest(self._certificate, "sha-256")

    @cached_property
    def context(self) -> SSL.Context:
        """Return the settings of OpenSSL that associations of both roles share."""
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(_DTLS_1_2)
        context.set_max_proto_version(_DTLS_1_2)  # the record headers of DTLS 1.3 are others
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION)
        # A session that is taken up again shows no certificate.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.use_certificate(self._certificate)
        context.use_privatekey(self._key)
        context.set_cipher_list(_CIPHERS)
        context.set_tlsext_use_srtp(b":".join(profile.name for profile in PROFILES))
        return context


class _PeerCheck:
    """Compares the peer's certificate with its description's fingerprints, during the handshake.

    OpenSSL tells the peer what is wrong when the comparison fails. Of several hash functions the most preferred one
    counts; several fingerprints of one function stand for several certificates (RFC 8122, 5).
    """

    def __init__(self, fingerprints: Iterable[tuple[str, str]]) -> None:
        given = [(algorithm.lower(), value.upper()) for algorithm, value in fingerprints]
        self._algorithm = next((each for each in _HASHES if any(each == algorithm for algorithm, _ in given)), None)
        self._expected = {value for algorithm, value in given if algorithm == self._algorithm}
        self.has_passed = False
        self.objection = ""

    def __call__(self, _: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_valid: int) -> bool:
        if depth > 0:  # authorities prove nothing here
            return True
        if self._algorithm is None:
            self.objection = f"the peer's description has no fingerprint of {', '.join(_HASHES)}"
            return False
        actual = _digest(certificate.to_cryptography(), self._algorithm)
        self.has_passed = actual in self._expected
        if not self.has_passed:
            expected = ", ".join(sorted(self._expected))
            self.objection = (
                f"the peer's certificate has the {self._algorithm} fingerprint {actual}, expected {expected}"
            )
        return self.has_passed


class Association:
    """One DTLS association: a handshake, the keys that came of it, and the data of its peer.

    After every call, send the datagrams of `take`; while the state is HANDSHAKING, call `handle_timeout` once
    `timeout` seconds have passed.

    Args:
        certificate: ours.
        fingerprints: pairs of a hash function and a value, of which the peer's certificate must match one.
        is_client: whether this side sends the ClientHello.
    """

    def __init__(self, certificate: Certificate, fingerprints: Iterable[tuple[str, str]], *, is_client: bool) -> None:
        self.state = State.HANDSHAKING
        self.srtp: Srtp | None = None
        self.error: str | None = None
        self._is_client = is_client
        self._has_output = False
        self._peer = _PeerCheck(fingerprints)
        self._ssl = SSL.Connection(certificate.context)
        self._ssl.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._peer)
        self._ssl.set_ciphertext_mtu(_MTU)
        if is_client:
            self._ssl.set_connect_state()
            self._shake_hands()
        else:
            self._ssl.set_accept_state()

    @property
    def is_over(self) -> bool:
        """Return whether nothing more comes of this association."""
        return self.state in (State.CLOSED, State.FAILED)

    @property
    def timeout(self) -> float | None:
        """Return the seconds after which `handle_timeout` is due; None while nothing waits for an answer."""
        return None if self.is_over else self._ssl.DTLSv1_get_timeout()

    def handle_timeout(self) -> None:
        """Send again what the peer has not answered."""
        if self.is_over:
            return
        self._has_output = True
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._break(error)

    def receive(self, datagram: bytes) -> list[bytes]:
        """Take one datagram of the peer, and return the data in it."""
        ends = _record_ends(datagram)
        if self.is_over or not ends:
            return []
        # OpenSSL's memory knows no datagrams: what is no whole record would stay before the next one.
        self._ssl.bio_write(datagram if ends[-1] == len(datagram) else datagram[: ends[-1]])
        self._has_output |= len(ends) > 1 or datagram[0] != _DATA
        most: float = len(ends)
        if self.state is State.HANDSHAKING:
            self._shake_hands()
            most = math.inf  # data may have come before the handshake's last flight
        return self._read(most) if self.state is State.CONNECTED else []

    def send(self, data: bytes) -> None:
        """Encrypt data for the peer.

        Raises:
            ConnectionError: the association is not up.
        """
        if self.state is not State.CONNECTED:
            raise ConnectionError(f"the DTLS association is {self.state.name.lower()}, expected connected")
        self._has_output = True
        try:
            self._ssl.send(data)
        except SSL.Error as error:
            self._break(error)

    def take(self) -> list[bytes]:
        """Return the datagrams that are to be sent now."""
        if not self._has_output:  # asking OpenSSL costs as much as reading a packet
            return []
        self._has_output = False
        try:
            output = self._ssl.bio_read(_MOST_OUTPUT)
        except SSL.WantReadError:
            return []
        datagrams, start, begin = [], 0, 0
        for end in _record_ends(output):
            if end - start > _MTU and begin > start:
                datagrams.append(output[start:begin])
                start = begin
            begin = end
        datagrams.append(output[start:])
        return datagrams

    def fail(self, reason: str) -> None:
        """End a handshake that is not to go on, for a reason that `error` keeps."""
        self.error = reason
        self.state = State.FAILED
        self._notify()

    def close(self) -> None:
        """End the association, and tell the peer."""
        if not self.is_over:
            self.state = State.CLOSED
            self._notify()

    def _shake_hands(self) -> None:
        self._has_output = True
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            self._break(error)
            return
        profile = next((each for each in PROFILES if each.name == self._ssl.get_selected_srtp_profile()), None)
        if not self._peer.has_passed:
            self.fail("the peer's certificate was not checked")
        elif profile is None:
            self.fail("the peer offers none of our SRTP profiles")
        else:
            material = self._ssl.export_keying_material(_EXPORTER_LABEL, profile.material_length)
            self.srtp = Srtp(profile, material, is_client=self._is_client)
            self.state = State.CONNECTED

    def _read(self, most: float) -> list[bytes]:
        """Return the data in so many records, or in fewer where there are no more."""
        received: list[bytes] = []
        try:
            while len(received) < most:  # to ask once more costs as much as reading a packet
                received.append(self._ssl.recv(_LONGEST))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.close()
        except SSL.Error as error:
            self._break(error)
        return received

    def _break(self, error: SSL.Error) -> None:
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
        self.error = self._peer.objection or "; ".join(str(reason[-1]) for reason in reasons) or type(error).__name__
        # A handshake fails; an association that was up has merely ended.
        self.state = State.FAILED if self.state is State.HANDSHAKING else State.CLOSED

    def _notify(self) -> None:
        self._has_output = True
        with suppress(SSL.Error):  # in the middle of a handshake there is no such message
            self._ssl.shutdown()


def _record_ends(data: bytes) -> list[int]:
    """Return where the DTLS records in a datagram end; the last is its end where all are whole."""
    ends, end, size = [], 0, len(data)
    while end + _HEADER <= size:
        end += _HEADER + (data[end + _LENGTH] << 8 | data[end + _LENGTH + 1])
        if end > size:
            break
        ends.append(end)
    return ends
