"""What is encrypted in place is what pylibsrtp would have encrypted."""

from __future__ import annotations

import pylibsrtp
import pytest
from pylibsrtp import Policy, Session

from signal_manager.sfu.dtls import _Protector

PROFILES = [Policy.SRTP_PROFILE_AES128_CM_SHA1_80, Policy.SRTP_PROFILE_AEAD_AES_128_GCM]


def session(profile: int, kind: int = Policy.SSRC_ANY_OUTBOUND) -> Session:
    policy = Policy(key=bytes(range(46)), ssrc_type=kind, srtp_profile=profile)
    policy.allow_repeat_tx = True
    return Session(policy)


def packet(sequence: int, size: int = 1000) -> bytes:
    return b"\x80\x60" + (sequence & 0xFFFF).to_bytes(2, "big") + bytes(4) + b"ssrc" + bytes(size)


@pytest.mark.parametrize("profile", PROFILES)
def test_packets_are_encrypted_as_pylibsrtp_does(profile: int) -> None:
    protect, other, receiver = _Protector(session(profile)), session(profile), session(profile, 2)
    packets = [packet(number, size) for number, size in ((65534, 0), (65535, 1000), (65536, 7), (65535, 1000))]

    protected = [protect(each) for each in packets]

    assert protected == [other.protect(each) for each in packets]
    assert [receiver.unprotect(each) for each in protected[:3]] == packets[:3]


def test_what_cannot_be_encrypted_is_refused_as_pylibsrtp_does() -> None:
    protect = _Protector(session(PROFILES[0]))
    protect(packet(40000))

    with pytest.raises(ValueError, match="too long"):
        protect(packet(40001, 1400))
    with pytest.raises(pylibsrtp.Error, match="too old"):
        protect(packet(39000))
