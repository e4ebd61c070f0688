"""Session descriptions: reads what clients post, with care for garbage, and writes the SFU's own.

Neighbours: `negotiation` decides what the sections say; nothing here knows sessions. Written descriptions have the
form that Cloudflare's have: ICE-lite, one BUNDLE group, rtcp-mux, host candidates in the first live section only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "EXTENSIONS",
    "Codec",
    "Description",
    "Direction",
    "Outgoing",
    "RemoteSection",
    "SdpError",
    "Section",
    "TransportLines",
    "parse",
    "render",
]

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]

EXTENSIONS = {
    "urn:ietf:params:rtp-hdrext:sdes:mid": "mid",
    "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id": "rid",
    "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id": "rrid",
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01": "transport number",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time": "send time",
}
_EXTENSION_URIS = {name: uri for uri, name in EXTENSIONS.items()}
_CODECS = {"vp8", "vp9", "h264", "h265", "av1", "opus", "pcma", "pcmu"}
_FEEDBACK = ("nack", "nack pli", "ccm fir", "goog-remb", "transport-cc")
_STATIC_CODECS = {0: "PCMU/8000", 8: "PCMA/8000"}
_DIRECTIONS: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
_RTP_PROTOCOLS = {"UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "RTP/SAVPF"}
_SCTP_PROTOCOLS = {"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"}
_SCTP_PORT = 5000
# aiortc gives up an association whose message is larger.
_MAX_MESSAGE_SIZE = 262144
# What a description may hold: several times what browsers write, and little enough to be read in some milliseconds.
_MAX_SECTIONS = 1024
_MAX_LINES = 16_384
_MAX_LINE = 4096  # characters
_MAX_FORMATS = 128  # as many as there are payload types
_MAX_RIDS = 16
_MEDIA_LINE = re.compile(r"(audio|video|application) (\d{1,5})(?:/\d+)? (\S+) (\S+(?: \S+)*)", re.ASCII)
_TOKEN = re.compile(r"[!#-'*-.0-9A-Z^-~:/]{1,64}", re.ASCII)
_FINGERPRINT = re.compile(r"(sha-\d{1,3}) ([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+)", re.ASCII)
_ICE_CHARS = re.compile(r"[A-Za-z0-9+/]{4,256}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]")


class SdpError(ValueError):
    """A session description that cannot be used; the message says what was expected and quotes none of it."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One codec under one payload type, with the payload type of its retransmissions where it has them."""

    payload_type: int
    name: str
    rtpmap: str
    fmtp: str = ""
    feedback: tuple[str, ...] = ()
    rtx_payload_type: int | None = None

    @property
    def clock_rate(self) -> int:
        """Return the RTP clock in Hz."""
        return int(self.rtpmap.split("/")[1])

    @property
    def key(self) -> tuple[str, str]:
        """Return the key by which two codecs are equal; it ignores payload types."""
        return self.rtpmap.lower(), self._profile()

    def _profile(self) -> str:
        parameters = dict(p.strip().partition("=")[::2] for p in self.fmtp.lower().split(";"))
        match self.name:
            case "h264":
                # The level is a bound that may differ; profile and constraints may not (RFC 6184, 8.2.2).
                return parameters.get("profile-level-id", "42000a")[:4] + parameters.get("packetization-mode", "0")
            case "vp9" | "h265":
                return parameters.get("profile-id", "0")
            case "av1":
                return parameters.get("profile", "0")
            case _:
                return ""


@dataclass(frozen=True, slots=True)
class RemoteSection:
    """One m-section as the client describes it."""

    kind: str
    mid: str
    protocol: str
    formats: tuple[str, ...]
    direction: Direction
    is_rejected: bool
    codecs: tuple[Codec, ...] = ()
    extensions: dict[int, str] = field(default_factory=dict)  # id -> its name in EXTENSIONS
    extension_ids: frozenset[int] = frozenset()  # every id that has a meaning to the client
    rids: tuple[str, ...] = ()  # what the client sends, in the order of its simulcast line
    ssrc: int | None = None
    rtx_ssrc: int | None = None
    sctp_port: int = _SCTP_PORT
    max_message_size: int = 65536

    @property
    def sends(self) -> bool:
        """Return whether the client wants to send on this section."""
        return not self.is_rejected and self.direction in ("sendrecv", "sendonly")

    @property
    def receives(self) -> bool:
        """Return whether the client wants to receive on this section."""
        return not self.is_rejected and self.direction in ("sendrecv", "recvonly")


@dataclass(frozen=True, slots=True)
class Description:
    """A client's whole offer or answer."""

    sections: tuple[RemoteSection, ...]
    ufrag: str
    pwd: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What the SFU sends on a section: its SSRCs and what the client's track will be called."""

    ssrc: int
    rtx_ssrc: int
    stream_id: str
    track_id: str


@dataclass(slots=True)
class Section:
    """One m-section as the SFU describes it; its place in the description never changes."""

    mid: str
    kind: str
    protocol: str = "UDP/TLS/RTP/SAVPF"
    formats: tuple[str, ...] = ("0",)  # for sections without a codec of ours
    codecs: tuple[Codec, ...] = ()
    extensions: dict[int, str] = field(default_factory=dict)  # of what the client sends
    send_time_id: int | None = None  # the extension that tells the client when the SFU sent a packet
    rids: tuple[str, ...] = ()
    receives: bool = False
    outgoing: Outgoing | None = None
    sends: bool = False  # the client takes what `outgoing` describes
    is_rejected: bool = False
    is_settled: bool = False  # both sides agreed on the present direction

    @property
    def direction(self) -> Direction:
        """Return the direction as the SFU sees it."""
        if self.outgoing is not None and self.sends:
            return "sendrecv" if self.receives else "sendonly"
        return "recvonly" if self.receives else "inactive"

    def take_extensions(self, remote: RemoteSection) -> None:
        """Use the header extensions that the client's description allows in each direction."""
        if self.receives:
            self.extensions = {number: name for number, name in remote.extensions.items() if name != "send time"}
        self.send_time_id = next(
            (number for number, name in remote.extensions.items() if name == "send time" and 0 < number < 15), None
        )

    def idle(self) -> None:
        """Carry nothing from the next description on."""
        self.receives = self.sends = self.is_settled = False
        self.outgoing = None

    @property
    def is_data(self) -> bool:
        """Return whether this is the section of the data channels."""
        return self.kind == "application"


@dataclass(frozen=True, slots=True)
class TransportLines:
    """What a description says of the transport that all its sections share."""

    ufrag: str
    pwd: str
    fingerprint: str
    setup: str
    candidates: tuple[tuple[str, int], ...]


# -- reading -----------------------------------------------------------------------------------------------------------


def parse(text: str, *, max_size: int) -> Description:
    """Return what a client's description says.

    Raises:
        SdpError: it is no SDP, too large, contradicts itself, or lacks what a WebRTC transport needs.
    """
    if len(text) > max_size:
        raise SdpError(f"the SDP is {len(text)} characters long, expected at most {max_size}")
    if not text.startswith("v=0"):
        raise SdpError("the SDP does not begin with v=0")
    if not text.endswith("\n"):
        raise SdpError("the SDP's last line does not end with CRLF")
    if _CONTROL.search(text):
        raise SdpError("the SDP holds control characters")
    head, *groups = _split(text)
    if len(groups) > _MAX_SECTIONS:
        raise SdpError(f"the SDP has {len(groups)} m-sections, expected at most {_MAX_SECTIONS}")
    if not groups:
        raise SdpError("the SDP has no m-section")
    attributes = [_attributes(group) for group in groups]
    sections = tuple(_section(group[0], attrs) for group, attrs in zip(groups, attributes, strict=True))
    mids = [section.mid for section in sections]
    if len(set(mids)) != len(mids):
        raise SdpError("two m-sections have the same mid")
    live = [attrs for section, attrs in zip(sections, attributes, strict=True) if not section.is_rejected]
    return _transport(sections, [*live, _attributes(head)])


def _split(text: str) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n", _MAX_LINES + 1)
    if len(lines) > _MAX_LINES + 1:
        raise SdpError(f"the SDP has more than {_MAX_LINES} lines")
    for line in lines:
        if not line:
            continue
        if len(line) > _MAX_LINE:
            raise SdpError(f"the SDP has a line of {len(line)} characters, expected at most {_MAX_LINE}")
        if len(line) < 2 or line[1] != "=":
            raise SdpError("the SDP has a line that is not of the form x=value")
        if line.startswith("m="):
            groups.append([])
        groups[-1].append(line)
    return groups


class _Attributes:
    """The a= lines of one section, by name."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for line in lines:
            if line.startswith("a="):
                name, _, value = line[2:].partition(":")
                self._values.setdefault(name, []).append(value.strip())

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def first(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def has(self, name: str) -> bool:
        return name in self._values


def _attributes(lines: Iterable[str]) -> _Attributes:
    return _Attributes(lines)


def _section(media_line: str, attrs: _Attributes) -> RemoteSection:
    match = _MEDIA_LINE.fullmatch(media_line[2:].strip())
    if match is None:
        raise SdpError("an m-line is not of the form: audio|video|application port protocol formats")
    kind, port, protocol = match[1], int(match[2]), match[3]
    if protocol not in (_SCTP_PROTOCOLS if kind == "application" else _RTP_PROTOCOLS):
        raise SdpError(f"an m-section of kind {kind} has a protocol that is not DTLS-SRTP or SCTP over DTLS")
    mid = attrs.first("mid")
    if mid is None or not _TOKEN.fullmatch(mid):
        raise SdpError("an m-section has no usable mid")
    formats = tuple(match[4].split())
    if len(formats) > _MAX_FORMATS:
        raise SdpError(f"an m-section has {len(formats)} formats, expected at most {_MAX_FORMATS}")
    section = RemoteSection(
        kind=kind,
        mid=mid,
        protocol=protocol,
        formats=formats,
        direction=next((d for d in _DIRECTIONS if attrs.has(d)), "sendrecv"),
        # A bundle-only section has port 0 and is very much alive (RFC 9143, 6).
        is_rejected=port == 0 and not attrs.has("bundle-only"),
        sctp_port=_number(attrs.first("sctp-port") or str(_SCTP_PORT), 65535),
        max_message_size=_number(attrs.first("max-message-size") or "65536", (1 << 63) - 1),
    )
    return section if kind == "application" else _with_media(section, attrs)


def _with_media(section: RemoteSection, attrs: _Attributes) -> RemoteSection:
    ssrc, rtx_ssrc = _ssrcs(attrs)
    rids = _rids(attrs)
    return RemoteSection(
        kind=section.kind,
        mid=section.mid,
        protocol=section.protocol,
        formats=section.formats,
        direction=section.direction,
        is_rejected=section.is_rejected,
        codecs=_codecs(section.formats, attrs),
        extensions=_extensions(attrs),
        # An id may have a direction behind it: 3/sendonly (RFC 8285, 5).
        extension_ids=frozenset(_by_payload_type(value.replace("/", " ", 1) for value in attrs.all("extmap"))),
        rids=rids,
        ssrc=None if rids else ssrc,
        rtx_ssrc=None if rids else rtx_ssrc,
    )


def _number(text: str, most: int) -> int:
    # isascii: isdigit alone is also true of digits that int() refuses.
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > most:
        raise SdpError(f"the SDP has text where a number of at most {most} belongs")
    return int(text)


def _by_payload_type(values: Iterable[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for value in values:
        key, _, rest = value.partition(" ")
        if key.isascii() and key.isdigit() and len(key) <= 3:
            found[int(key)] = rest.strip()
    return found


def _codecs(formats: Sequence[str], attrs: _Attributes) -> tuple[Codec, ...]:
    """Return the codecs that can be forwarded, in the client's order of preference."""
    rtpmaps = _STATIC_CODECS | _by_payload_type(attrs.all("rtpmap"))
    fmtps = _by_payload_type(attrs.all("fmtp"))
    payload_types = [_number(text, 127) for text in formats]
    rtx: dict[int, int] = {}
    for payload_type in payload_types:
        apt = re.match(r"apt=(\d{1,3})(?:$|;)", fmtps.get(payload_type, ""), re.ASCII)
        if apt is not None and rtpmaps.get(payload_type, "").lower().startswith("rtx/"):
            rtx.setdefault(int(apt[1]), payload_type)
    wanted = _feedback(attrs)
    codecs = []
    for payload_type in payload_types:
        rtpmap = rtpmaps.get(payload_type, "")
        name = rtpmap.partition("/")[0].lower()
        if name not in _CODECS or not re.fullmatch(r"[A-Za-z0-9]+/[1-9]\d{3,5}(/\d)?", rtpmap, re.ASCII):
            continue
        feedback = wanted.get(str(payload_type), set()) | wanted.get("*", set())
        codecs.append(
            Codec(
                payload_type=payload_type,
                name=name,
                rtpmap=rtpmap,
                fmtp=fmtps.get(payload_type, ""),
                feedback=tuple(f for f in _FEEDBACK if f in feedback),
                rtx_payload_type=rtx.get(payload_type),
            )
        )
    return tuple(codecs)


def _feedback(attrs: _Attributes) -> dict[str, set[str]]:
    """Return what feedback the client understands, by payload type; "*" stands for all."""
    wanted: dict[str, set[str]] = {}
    for value in attrs.all("rtcp-fb"):
        payload_type, _, feedback = value.partition(" ")
        wanted.setdefault(payload_type, set()).add(feedback.strip())
    return wanted


def _extensions(attrs: _Attributes) -> dict[int, str]:
    extensions = {}
    for value in attrs.all("extmap"):
        parts = value.split()
        if len(parts) >= 2 and parts[1] in EXTENSIONS:
            extensions[_number(parts[0].partition("/")[0], 255)] = EXTENSIONS[parts[1]]
    return extensions


def _rids(attrs: _Attributes) -> tuple[str, ...]:
    declared = dict.fromkeys(
        parts[0] for value in attrs.all("rid") if len(parts := value.split()) >= 2 and parts[1] == "send"
    )
    simulcast = (attrs.first("simulcast") or "").split()
    order: list[str] = []
    if "send" in simulcast[:-1]:
        streams = simulcast[simulcast.index("send") + 1].split(";")
        order = [stream.partition(",")[0].lstrip("~") for stream in streams]
    rids = tuple(dict.fromkeys(rid for rid in order if rid in declared)) or tuple(declared)
    if len(rids) > _MAX_RIDS:
        raise SdpError(f"an m-section has {len(rids)} rids, expected at most {_MAX_RIDS}")
    if any(not _TOKEN.fullmatch(rid) for rid in rids):
        raise SdpError("a rid is not a token")
    return rids


def _ssrcs(attrs: _Attributes) -> tuple[int | None, int | None]:
    ssrcs = list(dict.fromkeys(_number(value.partition(" ")[0], 0xFFFFFFFF) for value in attrs.all("ssrc")))
    for group in attrs.all("ssrc-group"):
        parts = group.split()
        if len(parts) == 3 and parts[0] == "FID":
            return _number(parts[1], 0xFFFFFFFF), _number(parts[2], 0xFFFFFFFF)
    return (ssrcs[0] if ssrcs else None), None


def _transport(sections: tuple[RemoteSection, ...], levels: Sequence[_Attributes]) -> Description:
    """Return the description with its transport, from the first live section or else the session level."""

    def first(name: str) -> str:
        return next((value for level in levels if (value := level.first(name))), "")

    prints = next((values for level in levels if (values := level.all("fingerprint"))), [])
    matches = [_FINGERPRINT.fullmatch(value) for value in prints]
    if any(match is None for match in matches):
        raise SdpError("a fingerprint is not of the form: algorithm XX:XX:...")
    ufrag, pwd, setup = first("ice-ufrag"), first("ice-pwd"), first("setup") or "actpass"
    if any(not section.is_rejected for section in sections):
        if not matches:
            raise SdpError("the SDP has no DTLS fingerprint")
        if not _ICE_CHARS.fullmatch(ufrag) or not _ICE_CHARS.fullmatch(pwd):
            raise SdpError("the SDP has no usable ice-ufrag and ice-pwd")
        if setup not in ("actpass", "active", "passive"):
            raise SdpError("a=setup is not actpass, active or passive")
    fingerprints = tuple((match[1].lower(), match[2].upper()) for match in matches if match is not None)
    return Description(sections=sections, ufrag=ufrag, pwd=pwd, fingerprints=fingerprints, setup=setup)


# -- writing -----------------------------------------------------------------------------------------------------------


def render(sections: Sequence[Section], transport: TransportLines, *, origin: int, version: int) -> str:
    """Return a description of all sections over one transport."""
    live = [section.mid for section in sections if not section.is_rejected]
    lines = ["v=0", f"o=- {origin} {version} IN IP4 0.0.0.0", "s=-", "t=0 0", "a=msid-semantic:WMS *"]
    lines += [f"a=fingerprint:sha-256 {transport.fingerprint}", "a=ice-lite"]
    if live:
        lines.append("a=group:BUNDLE " + " ".join(live))
    for section in sections:
        lines += _render_data(section) if section.is_data else _render_media(section)
        if section.is_rejected:
            continue
        lines += [f"a=setup:{transport.setup}", f"a=ice-ufrag:{transport.ufrag}", f"a=ice-pwd:{transport.pwd}"]
        if section.mid == live[0]:
            lines += _render_candidates(transport.candidates)
    return "\r\n".join(lines) + "\r\n"


def _render_candidates(candidates: Iterable[tuple[str, int]]) -> list[str]:
    lines = [
        f"a=candidate:{number} {component} udp {2130706431 - 256 * number - component} {address} {port} typ host"
        for number, (address, port) in enumerate(candidates, start=1)
        for component in (1, 2)
    ]
    return [*lines, "a=end-of-candidates"]


def _render_data(section: Section) -> list[str]:
    port = 0 if section.is_rejected else 9
    return [
        f"m=application {port} {section.protocol} webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{section.mid}",
        f"a=sctp-port:{_SCTP_PORT}",
        f"a=max-message-size:{_MAX_MESSAGE_SIZE}",
    ]


def _render_media(section: Section) -> list[str]:
    formats: list[str] = []
    codec_lines: list[str] = []
    for codec in section.codecs:
        formats.append(str(codec.payload_type))
        codec_lines += _render_codec(codec, receives=section.receives)
        if codec.rtx_payload_type is not None:
            formats.append(str(codec.rtx_payload_type))
    port = 0 if section.is_rejected else 9
    lines = [
        f"m={section.kind} {port} {section.protocol} {' '.join(formats or section.formats)}",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{section.mid}",
        *codec_lines,
    ]
    if section.is_rejected:
        return [*lines, "a=inactive"]
    lines += [f"a={section.direction}", "a=rtcp-mux", "a=rtcp-rsize"]
    if section.receives:
        lines += [f"a=extmap:{number} {_EXTENSION_URIS[name]}" for number, name in section.extensions.items()]
        if section.rids:
            lines += [f"a=rid:{rid} recv" for rid in section.rids]
            lines.append("a=simulcast:recv " + ";".join(section.rids))
    if section.outgoing is not None and section.sends:
        if section.kind == "video" and section.send_time_id is not None:
            lines.append(f"a=extmap:{section.send_time_id} {_EXTENSION_URIS['send time']}")
        lines += _render_outgoing(section.outgoing, has_rtx=any(c.rtx_payload_type is not None for c in section.codecs))
    return lines


def _render_codec(codec: Codec, *, receives: bool) -> list[str]:
    payload_type, rtx = codec.payload_type, codec.rtx_payload_type
    lines = [f"a=rtpmap:{payload_type} {codec.rtpmap}"]
    # Packets of the SFU's own carry no transport-wide number: its receivers send estimates (REMB).
    feedback = [name for name in codec.feedback if receives or name != "transport-cc"]
    lines += [f"a=rtcp-fb:{payload_type} {name}" for name in feedback]
    if codec.fmtp:
        lines.append(f"a=fmtp:{payload_type} {codec.fmtp}")
    if rtx is not None:
        lines += [f"a=rtpmap:{rtx} rtx/{codec.clock_rate}", f"a=fmtp:{rtx} apt={payload_type}"]
    return lines


def _render_outgoing(outgoing: Outgoing, *, has_rtx: bool) -> list[str]:
    ssrcs = [outgoing.ssrc, outgoing.rtx_ssrc] if has_rtx else [outgoing.ssrc]
    lines = [f"a=msid:{outgoing.stream_id} {outgoing.track_id}"]
    if has_rtx:
        lines.append(f"a=ssrc-group:FID {outgoing.ssrc} {outgoing.rtx_ssrc}")
    return lines + [f"a=ssrc:{ssrc} cname:{outgoing.stream_id}" for ssrc in ssrcs]
