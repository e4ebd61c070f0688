"""Keys and packets of SRTP."""

from __future__ import annotations

import pylibsrtp
import pytest

from signal_manager.sfu.srtp import PROFILES, Profile, Srtp, is_rtcp

RTP = b"\x80\x60\x00\x01" + bytes(4) + b"ssrc" + b"a picture"
RTCP = b"\x80\xc9\x00\x01ssrc"


def test_both_sides_take_their_keys_from_the_places_of_rfc_5764() -> None:
    profile = Profile(b"x", 1, key_length=2, salt_length=1)

    assert profile.material_length == 6
    assert profile.key(b"CcSsxy", of_client=True) == b"Ccx"
    assert profile.key(b"CcSsxy", of_client=False) == b"Ssy"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name.decode())
def test_each_side_reads_what_the_other_encrypts(profile: Profile) -> None:
    material = bytes(range(profile.material_length))
    client, server = Srtp(profile, material, is_client=True), Srtp(profile, material, is_client=False)

    for sender, receiver in ((client, server), (server, client)):
        assert receiver.unprotect(sender.protect(RTP)) == RTP
        assert receiver.unprotect_rtcp(sender.protect_rtcp(RTCP)) == RTCP
        with pytest.raises(pylibsrtp.Error):
            sender.unprotect(sender.protect(RTP))  # its own direction has another key
        assert sender.protect(RTP) == sender.protect(RTP)  # sent again, it is the same


def test_packets_that_are_forged_or_come_twice_are_refused() -> None:
    profile = PROFILES[-1]
    material = bytes(range(profile.material_length))
    client, server = Srtp(profile, material, is_client=True), Srtp(profile, material, is_client=False)
    protected, report = client.protect(RTP), client.protect_rtcp(RTCP)

    with pytest.raises(pylibsrtp.Error, match="authentication"):
        server.unprotect(protected[:-1] + bytes([protected[-1] ^ 1]))
    server.unprotect(protected)
    server.unprotect_rtcp(report)

    with pytest.raises(pylibsrtp.Error, match="replay"):
        server.unprotect(protected)
    with pytest.raises(pylibsrtp.Error, match="replay"):
        server.unprotect_rtcp(report)


def test_the_profiles_that_browsers_offer_are_known() -> None:
    assert {profile.name for profile in PROFILES} >= {b"SRTP_AEAD_AES_128_GCM", b"SRTP_AES128_CM_SHA1_80"}


@pytest.mark.parametrize(
    ("second", "expected"),
    [(96, False), (96 | 128, False), (63 | 128, False), (64 | 128, True), (200, True), (95 | 128, True)],
)
def test_rtcp_is_told_by_its_packet_type(second: int, expected: bool) -> None:
    assert is_rtcp(bytes([0x80, second])) is expected
