"""Session descriptions for tests that need no PeerConnection."""

from __future__ import annotations

from collections.abc import Sequence

FINGERPRINT = ":".join(["AB"] * 32)
VP8 = (
    "a=rtpmap:96 VP8/90000",
    "a=rtcp-fb:96 nack",
    "a=rtcp-fb:96 nack pli",
    "a=rtcp-fb:96 transport-cc",
    "a=rtpmap:97 rtx/90000",
    "a=fmtp:97 apt=96",
)
OPUS = ("a=rtpmap:111 opus/48000/2", "a=fmtp:111 minptime=10;useinbandfec=1")


def section(
    mid: str, kind: str = "video", *, direction: str = "sendonly", more: Sequence[str] = (), port: int = 9
) -> list[str]:
    """One m-section as a browser writes it."""
    if kind == "application":
        return [f"m=application {port} UDP/DTLS/SCTP webrtc-datachannel", f"a=mid:{mid}", "a=sctp-port:5000", *more]
    formats, codecs = ("96 97", VP8) if kind == "video" else ("111", OPUS)
    return [
        f"m={kind} {port} UDP/TLS/RTP/SAVPF {formats}",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{mid}",
        f"a={direction}",
        "a=rtcp-mux",
        *codecs,
        *more,
    ]


def sdp(*sections: Sequence[str], setup: str = "actpass", ufrag: str = "abcd", fingerprint: str = FINGERPRINT) -> str:
    """A whole description."""
    lines = [
        "v=0",
        "o=- 1 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        f"a=ice-ufrag:{ufrag}",
        "a=ice-pwd:0123456789abcdefghijkl",
        f"a=fingerprint:sha-256 {fingerprint}",
        f"a=setup:{setup}",
    ]
    for lines_of_section in sections:
        lines += lines_of_section
    return "\r\n".join(lines) + "\r\n"


def offer(*sections: Sequence[str], **more: str) -> dict[str, str]:
    """An offer as JSON."""
    return {"type": "offer", "sdp": sdp(*sections, **more)}


def answer_to(sdp_of_offer: str, *, direction: str = "recvonly", codecs: Sequence[str] | None = None) -> dict[str, str]:
    """The answer of a client that takes everything, made of the SFU's own m-sections."""
    sections: list[list[str]] = []
    for line in sdp_of_offer.split("\r\n"):
        if line.startswith("m="):
            sections.append([line])
        elif sections and line.startswith(("a=mid", "a=rtpmap", "a=fmtp", "a=sctp-port", "a=rtcp-fb")):
            sections[-1].append(line)
    for lines in sections:
        if not lines[0].startswith("m=application"):
            lines.append(f"a={direction}")
    return {"type": "answer", "sdp": sdp(*sections, setup="active")}
