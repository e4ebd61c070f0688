"""SRTP and SRTCP (RFC 3711, RFC 7714) under the keys of a DTLS handshake (RFC 5764).

Neighbours: `dtls` negotiates the profile and exports the keys, `secure_transport` encrypts and decrypts packets with
them. libsrtp does the work, by pylibsrtp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pylibsrtp
from pylibsrtp import Policy, Session

from signal_manager.sfu.srtp_buffer import in_place

__all__ = ["PROFILES", "Profile", "Srtp", "is_rtcp"]

# Packets that arrive this late are still taken; senders may send one again, which comes as the same packet.
_WINDOW = 1024


@dataclass(frozen=True)
class Profile:
    """One protection profile, as DTLS and libsrtp call it, with the lengths of its keys in bytes."""

    name: bytes
    number: int
    key_length: int
    salt_length: int

    @property
    def material_length(self) -> int:
        """Return how much of the handshake's keying material it takes."""
        return 2 * (self.key_length + self.salt_length)

    def key(self, material: bytes, *, of_client: bool) -> bytes:
        """Return the key and the salt that one side encrypts with (RFC 5764, 4.2)."""
        side = 0 if of_client else 1
        key, salt = side * self.key_length, 2 * self.key_length + side * self.salt_length
        return material[key : key + self.key_length] + material[salt : salt + self.salt_length]


def _is_built_in(profile: Profile) -> bool:
    try:
        Policy(srtp_profile=profile.number)
    except pylibsrtp.Error:  # libsrtp may have been built without AES-GCM
        return False
    return True


# The preferred one first.
PROFILES = tuple(
    filter(
        _is_built_in,
        (
            Profile(b"SRTP_AEAD_AES_256_GCM", Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12),
            Profile(b"SRTP_AEAD_AES_128_GCM", Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12),
            Profile(b"SRTP_AES128_CM_SHA1_80", Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14),
        ),
    )
)


def is_rtcp(packet: bytes) -> bool:
    """Tell RTCP from RTP (RFC 5761): payload types 64 to 95 with a marker would be RTCP."""
    return 191 < packet[1] < 224


class Srtp:
    """Both directions of one association.

    The four functions take and return one packet. They raise pylibsrtp.Error for a packet that libsrtp refuses
    (forged, repeated or too old), and ValueError for one that is too long.
    """

    def __init__(self, profile: Profile, material: bytes, *, is_client: bool) -> None:
        sending = _session(profile, profile.key(material, of_client=is_client), Policy.SSRC_ANY_OUTBOUND)
        receiving = _session(profile, profile.key(material, of_client=not is_client), Policy.SSRC_ANY_INBOUND)
        self.profile = profile
        self.protect: Callable[[bytes], bytes] = in_place(sending, "protect")
        self.protect_rtcp: Callable[[bytes], bytes] = sending.protect_rtcp
        self.unprotect: Callable[[bytes], bytes] = in_place(receiving, "unprotect")
        self.unprotect_rtcp: Callable[[bytes], bytes] = receiving.unprotect_rtcp


def _session(profile: Profile, key: bytes, direction: int) -> Session:
    policy = Policy(key=key, ssrc_type=direction, srtp_profile=profile.number)
    policy.allow_repeat_tx = True
    policy.window_size = _WINDOW
    return Session(policy)
