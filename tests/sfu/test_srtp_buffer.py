"""What is encrypted in pylibsrtp's buffer is what pylibsrtp encrypts, and without its names it still is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pylibsrtp
import pytest
from pylibsrtp import Policy, Session

from signal_manager.sfu import srtp_buffer
from signal_manager.sfu.srtp_buffer import in_place, why_not

PROFILES = [Policy.SRTP_PROFILE_AES128_CM_SHA1_80, Policy.SRTP_PROFILE_AEAD_AES_128_GCM]


@pytest.fixture(autouse=True)
def _probed_again() -> Iterator[None]:
    """Let a test change pylibsrtp."""
    why_not.cache_clear()
    yield
    why_not.cache_clear()


def session(profile: int = PROFILES[0], direction: int = Policy.SSRC_ANY_OUTBOUND) -> Session:
    policy = Policy(key=bytes(range(46)), ssrc_type=direction, srtp_profile=profile)
    policy.allow_repeat_tx = True
    return Session(policy)


def packet(sequence: int, size: int = 1000) -> bytes:
    return b"\x80\x60" + (sequence & 0xFFFF).to_bytes(2, "big") + bytes(4) + b"ssrc" + bytes(size)


def test_this_pylibsrtp_can_be_used_without_its_overhead() -> None:
    assert why_not() == "", (
        f"pylibsrtp {pylibsrtp.__version__} no longer has what signal_manager/sfu/srtp_buffer.py takes from inside it "
        f"({why_not()}). The SFU works, and each packet costs half a microsecond more. Look whether "
        "docs/upstream.md's proposal came true, and use that; or else adapt the module."
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_packets_are_encrypted_as_pylibsrtp_does(profile: int) -> None:
    protect, other = in_place(session(profile), "protect"), session(profile)
    unprotect = in_place(session(profile, Policy.SSRC_ANY_INBOUND), "unprotect")
    packets = [packet(number, size) for number, size in ((65534, 0), (65535, 1000), (65536, 7), (65535, 1000))]

    protected = [protect(each) for each in packets]

    assert protected == [other.protect(each) for each in packets]
    assert [unprotect(each) for each in protected[:3]] == packets[:3]


def test_what_cannot_be_encrypted_is_refused_as_pylibsrtp_does() -> None:
    protect = in_place(session(), "protect")
    protect(packet(40000))

    with pytest.raises(ValueError, match="too long"):
        protect(packet(40001, 1400))
    with pytest.raises(pylibsrtp.Error, match="too old"):
        protect(packet(39000))


def test_what_was_forged_or_is_too_long_is_not_decrypted() -> None:
    unprotect = in_place(session(direction=Policy.SSRC_ANY_INBOUND), "unprotect")
    protected = session().protect(packet(1))

    with pytest.raises(pylibsrtp.Error, match="authentication"):
        unprotect(protected[:-1] + bytes([protected[-1] ^ 1]))
    with pytest.raises(ValueError, match="too long"):
        unprotect(bytes(1501))
    assert unprotect(protected) == packet(1)


class _Renamed(Session):
    """A session of a pylibsrtp whose buffer has another name."""

    def __getattribute__(self, name: str) -> Any:
        if name == "_cdata" and not object.__getattribute__(self, "__dict__").get("is_inside"):
            raise AttributeError("_cdata")
        return super().__getattribute__(name)

    def protect(self, data: bytes) -> bytes:
        self.__dict__["is_inside"] = True
        try:
            return super().protect(data)
        finally:
            del self.__dict__["is_inside"]


def test_without_pylibsrtps_names_packets_are_encrypted_by_its_public_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtp_buffer, "Session", _Renamed)

    protect = in_place(session(), "protect")

    assert "_cdata" in why_not()
    assert protect(packet(1)) == session().protect(packet(1))


def test_names_that_mean_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed function fails at once; one that does something else must not send packets in clear."""

    class Lib:
        def __getattr__(self, name: str) -> Any:
            return (lambda *_: 0) if name in ("srtp_protect", "srtp_unprotect") else getattr(pylibsrtp, "lib")  # noqa: B009

    class Other:
        ffi = pylibsrtp.ffi  # type: ignore[attr-defined]
        lib = Lib()
        SRTP_MAX_TRAILER_LEN = 144

    monkeypatch.setattr(srtp_buffer, "_SRTP", Other)

    protect = in_place(session(), "protect")

    assert why_not() == "what it encrypts is not what Session.protect encrypts"
    assert protect(packet(1)) == session().protect(packet(1))
