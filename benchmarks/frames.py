"""The v1 frames that the load consists of, built once and sent many times (docs/protocol.md, first section).

Kept apart from `signal_manager.protocol`, so that a fault there cannot make both ends of a measurement agree.
"""

from __future__ import annotations

import json
import struct
from typing import Any

__all__ = [
    "CONNECT_ACK",
    "ERROR",
    "HEADER",
    "HEARTBEAT",
    "HEARTBEAT_ACK",
    "METADATA_UPDATE_ACK",
    "OFFER_SDP",
    "REGISTER_ACK",
    "ROOM_EVENT",
    "ROOM_JOIN_ACK",
    "SENT_AT",
    "SENT_AT_OFFSET",
    "SIGNAL_MESSAGE",
    "SIGNAL_OFFER",
    "connect",
    "heartbeat",
    "message",
    "metadata_update",
    "offer",
    "register",
    "room_join",
    "room_leave",
]

START = 0xAA
CONNECT = 0x01
CONNECT_ACK = 0x02
HEARTBEAT = 0x04
HEARTBEAT_ACK = 0x05
SIGNAL_OFFER = 0x10
SIGNAL_MESSAGE = 0x13
REGISTER = 0x20
REGISTER_ACK = 0x21
ROOM_JOIN = 0x32
ROOM_JOIN_ACK = 0x33
ROOM_LEAVE = 0x34
ROOM_EVENT = 0x36
METADATA_UPDATE = 0x3A
METADATA_UPDATE_ACK = 0x3B
ERROR = 0xFF
JSON_PAYLOAD = 0x02

HEADER = struct.Struct(">BB16sBH")

# A relay keeps the UUID, so the time of sending (s, a double) rides in it and no JSON is read per message.
SENT_AT = struct.Struct(">d")
SENT_AT_OFFSET = 2

# A browser's audio offer, as long as makes a frame of 1.2 KB.
OFFER_SDP = "\r\n".join(
    (
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "a=extmap-allow-mixed",
        "a=msid-semantic: WMS 5f0e3c6a-8d1b-4f7e-9a52-1c7d2b9e4f60",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126",
        "c=IN IP4 0.0.0.0",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=ice-ufrag:4ZcD",
        "a=ice-pwd:2/1muCWoOi3uLifh0NuRHlgR",
        "a=ice-options:trickle",
        "a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:"
        "DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08",
        "a=setup:actpass",
        "a=mid:0",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        "a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=sendrecv",
        "a=msid:5f0e3c6a-8d1b-4f7e-9a52-1c7d2b9e4f60 0d8f7a31",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "a=rtcp-fb:111 transport-cc",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=rtpmap:63 red/48000/2",
        "a=fmtp:63 111/111",
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:13 CN/8000",
        "a=rtpmap:110 telephone-event/48000",
        "a=rtpmap:126 telephone-event/8000",
        "a=ssrc:1953262153 cname:Uk3pKf2hT7Qz",
        "",
    )
)


def connect(client_id: str, token: str, *, resumable: bool = False, **fields: Any) -> bytes:
    """Return a CONNECT with a plain JSON payload."""
    wish = {"resumable": True} if resumable else {}
    return _frame(CONNECT, {"client_id": client_id, "auth_token": token} | wish | fields)


def heartbeat(timestamp: int = 0, **confirmed: int) -> bytes:
    """Return a HEARTBEAT, which is answered without asking anybody; `received` confirms so many messages."""
    return _frame(HEARTBEAT, {"timestamp": timestamp, **confirmed})


def offer(target_client_id: str, data: str = OFFER_SDP, **fields: Any) -> bytes:
    """Return a SIGNAL_OFFER for `target_client_id`, normally of about 1.2 KB."""
    return _frame(SIGNAL_OFFER, {"target_client_id": target_client_id, "signal_data": data} | fields)


def register(number: int) -> bytes:
    """Return a REGISTER with something that changes in it."""
    return _frame(REGISTER, {"version": "1.0.0", "capabilities": ["chat"], "metadata": {"number": number}})


def room_join(room_id: str, **fields: Any) -> bytes:
    """Return a WEBRTC_ROOM_JOIN, normally of a receiver."""
    return _frame(ROOM_JOIN, {"role": "receiver", "room_id": room_id} | fields)


def room_leave(room_id: str) -> bytes:
    """Return a WEBRTC_ROOM_LEAVE."""
    return _frame(ROOM_LEAVE, {"room_id": room_id})


def metadata_update(room_id: str, number: int) -> bytes:
    """Return a METADATA_UPDATE with something that changes in it."""
    return _frame(METADATA_UPDATE, {"room_id": room_id, "metadata": {"name": "Someone", "number": number}})


def message(room_id: str) -> bytes:
    """Return a SIGNAL_MESSAGE of 1.2 KB to all other members of a room."""
    return _frame(SIGNAL_MESSAGE, {"room_id": room_id, "signal_data": OFFER_SDP})


def _frame(message_type: int, payload: dict[str, Any]) -> bytes:
    body = json.dumps(payload, separators=(",", ":")).encode()
    return HEADER.pack(START, message_type, bytes(16), JSON_PAYLOAD, len(body)) + body
