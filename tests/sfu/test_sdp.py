"""Reading clients' descriptions and writing the SFU's."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.sfu.sdp import Codec, Outgoing, SdpError, Section, TransportLines, parse, render
from tests.sfu.sdps import FINGERPRINT, VP8, sdp, section

TRANSPORT = TransportLines(
    ufrag="aabbccdd", pwd="p" * 22, fingerprint=FINGERPRINT, setup="passive", candidates=(("127.0.0.1", 1473),)
)
CODEC = Codec(96, "vp8", "VP8/90000", feedback=("nack",), rtx_payload_type=97)


def read(text: str) -> list[object]:
    return list(parse(text, max_size=100_000).sections)


def test_an_offer_is_read_with_its_codec_and_retransmissions() -> None:
    more = (
        "a=ssrc-group:FID 11 12",
        "a=ssrc:11 cname:x",
        "a=ssrc:12 cname:x",
        "a=extmap:9 urn:ietf:params:rtp-hdrext:sdes:mid",
    )
    (video,) = parse(sdp(section("0", more=more)), max_size=100_000).sections

    assert video.codecs == (Codec(96, "vp8", "VP8/90000", "", ("nack", "nack pli", "transport-cc"), 97),)
    assert (video.ssrc, video.rtx_ssrc, video.extensions) == (11, 12, {9: "mid"})
    assert video.sends
    assert not video.receives


def test_layers_come_in_the_order_of_the_simulcast_line_without_their_ssrcs() -> None:
    more = ("a=rid:q send", "a=rid:f send", "a=simulcast:send f;~q", "a=ssrc:5 cname:x")
    (video,) = parse(sdp(section("0", more=more)), max_size=100_000).sections

    assert (video.rids, video.ssrc) == (("f", "q"), None)


def test_layers_without_a_simulcast_line_come_as_declared() -> None:
    (video,) = parse(sdp(section("0", more=("a=rid:b send", "a=rid:a send"))), max_size=100_000).sections

    assert video.rids == ("b", "a")


def test_port_zero_means_rejected_except_when_bundle_only() -> None:
    offer = parse(sdp(section("0", port=0), section("1", port=0, more=("a=bundle-only",))), max_size=100_000)

    assert [remote.is_rejected for remote in offer.sections] == [True, False]


def test_transport_attributes_may_stand_in_the_section() -> None:
    text = sdp(section("0", more=("a=ice-ufrag:mine", f"a=fingerprint:sha-256 {'CD:' * 31}CD")))

    description = parse(text, max_size=100_000)

    assert description.ufrag == "mine"
    assert description.fingerprints == (("sha-256", "CD:" * 31 + "CD"),)


def test_a_static_payload_type_needs_no_rtpmap() -> None:
    text = sdp(["m=audio 9 UDP/TLS/RTP/SAVPF 0 13", "a=mid:0"])

    assert [codec.name for codec in parse(text, max_size=100_000).sections[0].codecs] == ["pcmu"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "v=0"),
        ("hello\r\n", "v=0"),
        (sdp(section("0")).rstrip(), "CRLF"),
        (sdp(section("0")) + "\x00\r\n", "control"),
        (sdp(section("0")) + "nonsense\r\n", "x=value"),
        (sdp(), "no m-section"),
        (sdp(section("0"), section("0", "audio")), "same mid"),
        (sdp(["m=video 9 UDP/TLS/RTP/SAVPF 96"]), "mid"),
        (sdp(["m=text 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0"]), "m-line"),
        (sdp(["m=video nine UDP/TLS/RTP/SAVPF 96", "a=mid:0"]), "m-line"),
        (sdp(["m=video 9 RTP/AVP 96", "a=mid:0"]), "protocol"),
        (sdp(["m=video 9 UDP/TLS/RTP/SAVPF x", "a=mid:0"]), "number"),
        (sdp(["m=video 9 UDP/TLS/RTP/SAVPF 300", "a=mid:0"]), "number"),
        (sdp(section("0", more=("a=ssrc:4294967296 cname:x",))), "number"),
        (sdp(section("0", more=("a=rid:<b> send",))), "rid"),
        (sdp(section("0"), fingerprint="zz"), "fingerprint"),
        (sdp(section("0")).replace("a=fingerprint", "a=nothing"), "no DTLS fingerprint"),
        (sdp(section("0"), ufrag="?"), "ice-ufrag"),
        (sdp(section("0"), setup="holdconn"), "setup"),
        (sdp(*(section(str(mid)) for mid in range(1025))), "m-sections"),
    ],
)
def test_what_is_no_usable_description_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(SdpError, match=complaint):
        parse(text, max_size=1_000_000)


def test_a_description_that_is_too_long_is_not_even_looked_at() -> None:
    with pytest.raises(SdpError, match="1000001 characters"):
        parse("x" * 1_000_001, max_size=1_000_000)


LINES = st.sampled_from(
    [*sdp(section("0"), section("1", "audio"), section("2", "application")).split("\r\n"), "a=rid", "a=", "m="]
)


@given(st.lists(st.one_of(LINES, st.text(max_size=40)), max_size=40))
def test_garbage_is_read_or_refused_and_nothing_else(lines: list[str]) -> None:
    with contextlib.suppress(SdpError):
        parse("v=0\r\n" + "\r\n".join(lines) + "\r\n", max_size=100_000)


def test_a_publishers_section_is_written_with_layers_and_extensions() -> None:
    video = Section("0", "video", codecs=(CODEC,), extensions={9: "mid", 10: "rid"}, rids=("f", "q"), receives=True)

    lines = render([video], TRANSPORT, origin=7, version=1).split("\r\n")

    assert "a=recvonly" in lines
    assert "a=simulcast:recv f;q" in lines
    assert "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id" in lines
    assert "m=video 9 UDP/TLS/RTP/SAVPF 96 97" in lines
    assert "a=rtcp-fb:96 nack" in lines


def test_candidates_stand_in_the_first_live_section_only_for_both_components() -> None:
    rejected, video = Section("0", "audio", is_rejected=True), Section("1", "video", codecs=(CODEC,))
    data = Section("2", "application", "UDP/DTLS/SCTP")

    text = render([rejected, video, data], TRANSPORT, origin=7, version=1)
    head, first, second, third = text.split("\r\nm=")

    assert "a=group:BUNDLE 1 2" in head
    assert "a=ice-lite" in head
    assert first.startswith("audio 0 ")
    assert second.count("a=candidate:") == 2
    assert "a=end-of-candidates" in second
    assert "candidate" not in first + third


def test_what_the_sfu_sends_is_signalled_with_its_ssrcs() -> None:
    outgoing = Outgoing(ssrc=1, rtx_ssrc=2, stream_id="s", track_id="t")
    video = Section("0", "video", codecs=(CODEC,), outgoing=outgoing, sends=True)

    lines = render([video], TRANSPORT, origin=7, version=1).split("\r\n")

    assert "a=sendonly" in lines
    assert "a=ssrc-group:FID 1 2" in lines
    assert "a=msid:s t" in lines
    assert parse("\r\n".join(lines), max_size=100_000).sections[0].ssrc == 1


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("profile-level-id=42e01f;packetization-mode=1", "packetization-mode=1;profile-level-id=42e034", True),
        ("profile-level-id=42e01f;packetization-mode=1", "profile-level-id=42e01f", False),
        ("profile-level-id=42e01f", "profile-level-id=4d001f", False),
    ],
)
def test_h264_is_the_same_codec_whatever_its_level(one: str, other: str, is_same: bool) -> None:
    def codec(fmtp: str) -> Codec:
        return Codec(102, "h264", "H264/90000", fmtp)

    assert (codec(one).key == codec(other).key) is is_same


def test_vp9_profiles_are_different_codecs() -> None:
    assert Codec(98, "vp9", "VP9/90000", "profile-id=2").key != Codec(98, "vp9", "VP9/90000").key
    assert Codec(45, "av1", "AV1/90000", "profile=1").key != Codec(45, "av1", "AV1/90000").key


def test_feedback_for_all_payload_types_counts() -> None:
    text = sdp(section("0")).replace("a=rtcp-fb:96 nack pli", "a=rtcp-fb:* ccm fir")

    assert parse(text, max_size=100_000).sections[0].codecs[0].feedback == ("nack", "ccm fir", "transport-cc")
    assert len(VP8) == 6


def steps(text: str) -> int:
    """Return how many calls reading a description takes: a measure of its cost that machine load does not change."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(step)
    try:
        parse(text, max_size=1_000_000)
    finally:
        sys.setprofile(None)
    return count


FORMATS = [*range(0, 128)]
EVERY_FORMAT = " ".join(map(str, FORMATS))


@pytest.mark.parametrize(
    "line",
    [
        "a=rtcp-fb:* nack",
        "a=rtcp-fb:{n} nack {n}",
        "a=rtpmap:{n} VP8/90000",
        "a=fmtp:{n} apt=96",
        "a=ssrc:{n} cname:x",
        "a=extmap:{n} urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=candidate:1 1 udp {n} 192.0.2.1 9 typ host",
        "a=ssrc-group:SIM {n}",
        "a=x",
    ],
)
def test_reading_a_description_takes_as_long_as_it_is(line: str) -> None:
    """Twice the lines, twice the work: nothing in them is compared with everything else in them."""

    def description(lines: int) -> str:
        more = [f"a=rtpmap:{n} VP8/90000" for n in FORMATS] + [line.format(n=n % 128) for n in range(lines)]
        text = sdp(section("0", more=more))
        return text.replace(" 96 97\r\n", f" {EVERY_FORMAT}\r\n", 1)

    once, twice = steps(description(4_000)), steps(description(8_000))

    assert twice < 2.1 * once


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["a=x"] * 16_400, "more than 16384 lines"),
        (["a=" + "x" * 5_000], "a line of 5002 characters, expected at most 4096"),
        ([f"a=rid:{n} send" for n in range(17)], "17 rids, expected at most 16"),
        (["m=audio 9 UDP/TLS/RTP/SAVPF" + " 0" * 129, "a=mid:1"], "129 formats, expected at most 128"),
        (["m=audio 9 UDP/TLS/RTP/SAVPF 0"] * 1024, "1025 m-sections, expected at most 1024"),
    ],
)
def test_a_description_that_is_out_of_bounds_is_refused(more: list[str], complaint: str) -> None:
    with pytest.raises(SdpError, match=complaint):
        parse(sdp(section("0", more=more)), max_size=1_000_000)
