"""DTLS associations without sockets: ours with each other, with aiortc's and with OpenSSL, over links that lose."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from signal_manager.sfu import dtls
from signal_manager.sfu.dtls import Association, Certificate, State, is_client_hello
from signal_manager.sfu.srtp import PROFILES

ALICE, BOB = Certificate(), Certificate()
RTP = b"\x80\x60\x00\x01" + bytes(4) + b"ssrc" + b"a picture"
RTCP = b"\x80\xc9\x00\x01ssrc"

Fingerprints = Iterable[tuple[str, str]]


def of(certificate: Certificate) -> list[tuple[str, str]]:
    return [("sha-256", certificate.fingerprint)]


@dataclass
class Pair:
    """A client, a server and the link between them, over which `change` may put other datagrams."""

    client: Association = field(default_factory=lambda: Association(ALICE, of(BOB), is_client=True))
    server: Association = field(default_factory=lambda: Association(BOB, of(ALICE), is_client=False))
    change: Callable[[list[bytes]], list[bytes]] = list
    to_client: list[bytes] = field(default_factory=list)  # data
    to_server: list[bytes] = field(default_factory=list)

    def step(self) -> bool:
        """Carry what both have to send; return whether there was anything."""
        there, back = self.client.take(), self.server.take()
        for datagram in self.change(there):
            self.to_server += self.server.receive(datagram)
        for datagram in self.change(back):
            self.to_client += self.client.receive(datagram)
        return bool(there or back)

    def run(self) -> Pair:
        """Carry until both have nothing more to send."""
        while self.step():
            pass
        return self

    @property
    def states(self) -> tuple[State, State]:
        return self.client.state, self.server.state

    @property
    def is_connected(self) -> bool:
        return self.states == (State.CONNECTED, State.CONNECTED)


def talk(pair: Pair) -> None:
    """Assert that data and media get through in both directions."""
    assert pair.is_connected
    pair.client.send(b"from the client")
    pair.server.send(b"from the server")
    pair.run()
    assert (pair.to_server[-1], pair.to_client[-1]) == (b"from the client", b"from the server")
    assert pair.client.srtp is not None
    assert pair.server.srtp is not None
    assert pair.server.srtp.unprotect(pair.client.srtp.protect(RTP)) == RTP
    assert pair.client.srtp.unprotect_rtcp(pair.server.srtp.protect_rtcp(RTCP)) == RTCP


# -- ours with each other ----------------------------------------------------------------------------------------------


def test_two_shake_hands_and_talk() -> None:
    pair = Pair()
    assert pair.client.timeout is not None

    pair.run()

    assert pair.client.timeout is None
    assert pair.server.timeout is None
    talk(pair)


def test_nothing_can_be_sent_before_the_handshake() -> None:
    with pytest.raises(ConnectionError, match="is handshaking, expected connected"):
        Pair().client.send(b"early")


def test_the_preferred_profile_is_taken() -> None:
    pair = Pair().run()

    assert pair.client.srtp is not None
    assert pair.client.srtp.profile is PROFILES[0]


def test_a_certificate_is_its_own_and_lasts() -> None:
    assert ALICE.fingerprint != BOB.fingerprint
    assert len(ALICE.fingerprint) == 32 * 3 - 1
    assert ALICE.context is ALICE.context


@pytest.mark.parametrize("is_clients", [True, False])
def test_who_closes_tells_the_other(is_clients: bool) -> None:
    pair = Pair().run()

    (pair.client if is_clients else pair.server).close()
    pair.run()

    assert pair.states == (State.CLOSED, State.CLOSED)
    assert pair.client.receive(b"\x17") == []
    assert pair.client.timeout is None
    pair.client.handle_timeout()
    pair.client.close()
    assert pair.client.take() == []


def test_a_handshake_that_is_given_up_says_why() -> None:
    pair = Pair()
    pair.client.fail("the handshake took too long")

    assert pair.client.is_over
    assert pair.client.error == "the handshake took too long"


def test_all_records_of_a_datagram_are_read() -> None:
    pair = Pair(change=lambda datagrams: [b"".join(datagrams)]).run()
    for number in range(5):
        pair.client.send(bytes([number]) * 100)

    pair.run()

    assert pair.to_server == [bytes([number]) * 100 for number in range(5)]


def test_data_that_comes_before_the_last_flight_is_read_with_it() -> None:
    pair = Pair()
    while pair.client.timeout is not None and pair.server.srtp is None:
        for datagram in pair.client.take():
            pair.server.receive(datagram)
        if pair.server.srtp is None:
            for datagram in pair.server.take():
                pair.client.receive(datagram)
    messages = [bytes([number]) * 10 for number in range(5)]
    for message in messages:
        pair.server.send(message)

    [*flight, last] = pair.server.take()
    pieces = in_small_pieces([*flight, last])
    received = [pair.client.receive(piece) for piece in [*pieces[-len(messages) :], *pieces[: -len(messages)]]]

    assert pair.is_connected
    assert [message for each in received for message in each] == messages


def test_flights_fit_into_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def look(datagrams: list[bytes]) -> list[bytes]:
        sizes.extend(map(len, datagrams))
        return datagrams

    monkeypatch.setattr(dtls, "_MTU", 300)
    pair = Pair(change=look).run()

    assert max(sizes) <= 300
    assert len(sizes) > 4
    talk(pair)


# -- who the peer is ---------------------------------------------------------------------------------------------------


def digest(certificate: Certificate, algorithm: hashes.HashAlgorithm) -> str:
    return certificate._certificate.fingerprint(algorithm).hex(":")


def with_fingerprints(fingerprints: Fingerprints) -> Pair:
    return Pair(client=Association(ALICE, fingerprints, is_client=True)).run()


SHA512, SHA1 = ("SHA-512", digest(BOB, hashes.SHA512())), ("sha-1", digest(BOB, hashes.SHA1()))


@pytest.mark.parametrize(
    "fingerprints",
    [
        [("SHA-256", BOB.fingerprint.lower())],
        [SHA512],
        [SHA1, *of(BOB)],
        [*of(ALICE), *of(BOB)],  # of the certificates that the peer may use
        [*of(ALICE), SHA512],  # the preferred function counts
    ],
)
def test_a_peer_that_proves_who_it_is_is_accepted(fingerprints: list[tuple[str, str]]) -> None:
    talk(with_fingerprints(fingerprints))


@pytest.mark.parametrize(
    "fingerprints",
    [of(ALICE), [("sha-512", digest(ALICE, hashes.SHA512())), *of(BOB)], [SHA1], [("md5", "00")], []],
)
def test_a_peer_with_another_certificate_is_refused_and_learns_it(fingerprints: list[tuple[str, str]]) -> None:
    pair = with_fingerprints(fingerprints)

    assert pair.states == (State.FAILED, State.FAILED)
    assert "fingerprint" in str(pair.client.error)
    assert "alert" in str(pair.server.error)
    assert pair.client.srtp is None


def test_a_client_with_another_certificate_is_refused_and_learns_it() -> None:
    pair = Pair(server=Association(BOB, of(BOB), is_client=False)).run()

    assert pair.server.state is State.FAILED
    assert pair.client.is_over
    assert f"has the sha-256 fingerprint {ALICE.fingerprint}, expected {BOB.fingerprint}" in str(pair.server.error)


# -- OpenSSL as the peer -----------------------------------------------------------------------------------------------


def openssl(
    *, srtp: bytes | None, with_certificate: bool = True, is_expired: bool = False
) -> tuple[SSL.Connection, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    end = datetime.datetime(2020 if is_expired else 2099, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, end - datetime.timedelta(days=90), end)
    certificate = builder.sign(key, hashes.SHA256())
    context = SSL.Context(SSL.DTLS_METHOD)
    if with_certificate:
        context.use_certificate(certificate)
        context.use_privatekey(key)
    if srtp is not None:
        context.set_tlsext_use_srtp(srtp)
    return SSL.Connection(context), certificate.fingerprint(hashes.SHA256()).hex(":")


def shake_hands(peer: SSL.Connection, ours: Association) -> None:
    for _ in range(10):
        try:
            peer.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error:
            return
        while True:
            try:
                ours.receive(peer.bio_read(4096))
            except SSL.WantReadError:
                break
        for datagram in ours.take():
            peer.bio_write(datagram)


@pytest.mark.parametrize("is_client", [True, False])
@pytest.mark.parametrize("srtp", [None, b"SRTP_AES128_CM_SHA1_32"])
def test_a_peer_without_our_srtp_is_refused(is_client: bool, srtp: bytes | None) -> None:
    peer, fingerprint = openssl(srtp=srtp)
    ours = Association(ALICE, [("sha-256", fingerprint)], is_client=is_client)
    peer.set_accept_state() if is_client else peer.set_connect_state()

    shake_hands(peer, ours)

    assert ours.state is State.FAILED
    assert ours.error == "the peer offers none of our SRTP profiles"
    with pytest.raises(SSL.ZeroReturnError):
        peer.recv(100)


def test_a_peer_without_a_certificate_is_refused() -> None:
    peer, fingerprint = openssl(srtp=b"SRTP_AES128_CM_SHA1_80", with_certificate=False)
    ours = Association(ALICE, [("sha-256", fingerprint)], is_client=False)
    peer.set_connect_state()

    shake_hands(peer, ours)

    assert ours.state is State.FAILED
    assert ours.error == "peer did not return a certificate"


@pytest.mark.parametrize("profile", [profile.name for profile in PROFILES])
def test_the_profile_is_one_that_the_peer_has_and_dates_prove_nothing(profile: bytes) -> None:
    peer, fingerprint = openssl(srtp=profile, is_expired=True)
    ours = Association(ALICE, [("sha-256", fingerprint)], is_client=False)
    peer.set_connect_state()

    shake_hands(peer, ours)

    assert ours.srtp is not None
    assert ours.srtp.profile.name == profile


# -- aiortc as the peer ------------------------------------------------------------------------------------------------


class _Ice:
    """What an RTCDtlsTransport wants of an RTCIceTransport."""

    def __init__(self) -> None:
        self.role = "controlling"
        self.sent: list[bytes] = []
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    async def _send(self, data: bytes) -> None:
        self.sent.append(data)

    async def _recv(self) -> bytes:
        return await self.received.get()


class _Receiver:
    """Keeps what aiortc receives."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    async def _handle_data(self, data: bytes) -> None:
        self.data.append(data)


@pytest.mark.parametrize("is_client", [True, False])
async def test_aiortc_shakes_hands_and_talks(is_client: bool) -> None:
    certificate, ice, receiver = RTCCertificate.generateCertificate(), _Ice(), _Receiver()
    peer = RTCDtlsTransport(ice, [certificate])  # type: ignore[arg-type]
    peer._set_role("server" if is_client else "client")
    peer._register_data_receiver(receiver)
    fingerprints = [(each.algorithm, each.value) for each in certificate.getFingerprints()]
    ours = Association(ALICE, fingerprints, is_client=is_client)
    starting = asyncio.create_task(
        peer.start(RTCDtlsParameters(fingerprints=[RTCDtlsFingerprint("sha-256", ALICE.fingerprint)]))
    )
    received: list[bytes] = []

    async def until(is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_true():
                for datagram in ours.take():
                    ice.received.put_nowait(datagram)
                while ice.sent:
                    received.extend(ours.receive(ice.sent.pop(0)))
                await asyncio.sleep(0)

    await until(lambda: ours.state is State.CONNECTED and peer.state == "connected")
    await starting

    ours.send(b"to aiortc")
    await peer._send_data(b"from aiortc")
    await until(lambda: receiver.data == [b"to aiortc"] and received == [b"from aiortc"])
    media: Any = peer
    assert ours.srtp is not None
    assert media._rx_srtp.unprotect(ours.srtp.protect(RTP)) == RTP
    assert ours.srtp.unprotect_rtcp(media._tx_srtp.protect_rtcp(RTCP)) == RTCP

    ours.close()
    await until(lambda: peer.state == "closed")
    await peer.stop()


# -- links that lose, repeat and invent --------------------------------------------------------------------------------


class _Losing:
    """A link that loses the datagrams of some numbers."""

    def __init__(self, *lost: int) -> None:
        self._lost = lost
        self.count = -1

    def __call__(self, datagrams: list[bytes]) -> list[bytes]:
        kept = []
        for datagram in datagrams:
            self.count += 1
            if self.count not in self._lost:
                kept.append(datagram)
        return kept


class _Reversing:
    """A link that takes the records of the first datagrams apart, and turns their order around."""

    def __init__(self, until: int) -> None:
        self._left = until

    def __call__(self, datagrams: list[bytes]) -> list[bytes]:
        self._left -= len(datagrams)
        return datagrams if self._left < 0 else in_small_pieces(datagrams)[::-1]


def test_what_is_lost_or_comes_in_disorder_is_sent_again() -> None:
    """All troubles at the same time, since OpenSSL's clock is the real one and waits for a second."""
    assert Pair(change=_Losing()).run().is_connected
    whole = _Losing()
    Pair(change=whole).run()
    pairs = [Pair(change=_Losing(number)) for number in range(whole.count + 1)]
    pairs.append(Pair(change=_Reversing(whole.count + 1)))
    deadline = time.monotonic() + 30

    while not all(pair.is_connected for pair in pairs) and time.monotonic() < deadline:
        for pair in pairs:
            pair.run()
            pair.client.handle_timeout()
            pair.server.handle_timeout()
        time.sleep(0.02)

    for pair in pairs:
        talk(pair)


def reversed_(datagrams: list[bytes]) -> list[bytes]:
    return datagrams[::-1]


def twice(datagrams: list[bytes]) -> list[bytes]:
    return [each for datagram in datagrams for each in (datagram, datagram)]


def in_small_pieces(datagrams: list[bytes]) -> list[bytes]:
    pieces = []
    for datagram in datagrams:
        begin = 0
        for end in dtls._record_ends(datagram):
            pieces.append(datagram[begin:end])
            begin = end
    return pieces


def amid_garbage(datagrams: list[bytes]) -> list[bytes]:
    junk = [b"\x16", b"\x16\xfe\xfd" + bytes(60), b"\x17\xfe\xfd\xff\xff" + bytes(30), bytes([22]) * 300, b"\x3f" * 40]
    cut = [datagram[: len(datagram) // 2] for datagram in datagrams]
    return [each for datagram in datagrams for each in (*junk, *cut, datagram, datagram + b"\x16\xfe", *junk)]


@pytest.mark.parametrize("change", [reversed_, twice, in_small_pieces, amid_garbage])
def test_a_handshake_survives(change: Callable[[list[bytes]], list[bytes]]) -> None:
    pair = Pair(change=change).run()

    pair.change = list
    talk(pair)


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda body: b"\x16\xfe\xfd" + body), max_size=8))
def test_no_datagram_breaks_an_association_that_is_up(datagrams: list[bytes]) -> None:
    pair = Pair().run()

    for datagram in datagrams:
        assert pair.client.receive(datagram) == []
        assert pair.server.receive(datagram) == []

    talk(pair)


@given(st.binary(max_size=200), st.integers(0, 255))
def test_no_datagram_raises_in_a_handshake(garbage: bytes, place: int) -> None:
    pair = Pair()
    [hello] = pair.client.take()
    mangled = hello[:place] + garbage + hello[place + len(garbage) :]

    for datagram in (mangled, hello):
        pair.server.receive(datagram)

    assert pair.server.state in (State.HANDSHAKING, State.FAILED)
    assert all(len(each) <= 1200 for each in pair.server.take())


def test_a_client_hello_is_told_from_the_rest() -> None:
    pair = Pair()
    seen: list[bytes] = []

    def look(datagrams: list[bytes]) -> list[bytes]:
        seen.extend(datagrams)
        return datagrams

    pair.change = look
    pair.run()

    assert [is_client_hello(datagram) for datagram in seen] == [True] + [False] * (len(seen) - 1)
    assert not is_client_hello(b"\x16")
