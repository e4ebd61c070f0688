"""Finds the first packet of a key frame in each codec's RTP payload.

Neighbours: `forwarding` asks only while a subscriber waits for a switch to another stream, because a decoder can only
start with a key frame. The first bytes of the payload show it in every codec, so nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["starts_key_frame"]


def starts_key_frame(codec: str, payload: bytes) -> bool:
    """Return whether a decoder can start with this payload; for audio and unknown codecs it always can.

    Args:
        codec: the encoding name of the rtpmap, in lower case.
        payload: the RTP payload, without header and extensions.
    """
    look = _BY_CODEC.get(codec)
    if look is None:
        return True
    try:
        return look(payload)
    except IndexError:  # too short to tell
        return False


def _vp8(payload: bytes) -> bool:
    """Skip the descriptor of RFC 7741, 4.2, and read the P bit of the first partition (4.3)."""
    first, pos = payload[0], 1
    if not first & 0x10 or first & 0x07:
        return False
    if first & 0x80:
        extensions, pos = payload[1], 2
        if extensions & 0x80:
            pos += 2 if payload[pos] & 0x80 else 1
        pos += bool(extensions & 0x40) + bool(extensions & 0x30)
    return not payload[pos] & 0x01


def _vp9(payload: bytes) -> bool:
    """Read B (a frame begins) and P (it refers to others) of RFC 9628, 4.2; of several layers, the lowest."""
    first, pos = payload[0], 1
    if first & 0x40 or not first & 0x08:
        return False
    if first & 0x80:
        pos += 2 if payload[pos] & 0x80 else 1
    spatial_layer = (payload[pos] >> 1) & 0x07 if first & 0x20 else 0
    return spatial_layer == 0


def _h264(payload: bytes) -> bool:
    """Look for an IDR slice or a sequence parameter set (RFC 6184, 5.2)."""
    kind = payload[0] & 0x1F
    if kind == 24:  # STAP-A: the first unit's type follows its length
        kind = payload[3] & 0x1F
    elif kind == 28:  # FU-A: only the first fragment begins a unit
        kind = payload[1] & 0x1F if payload[1] & 0x80 else 0
    return kind in (5, 7)


def _h265(payload: bytes) -> bool:
    """Look for an intra random access point or a parameter set (RFC 7798, 4.4)."""
    kind = (payload[0] >> 1) & 0x3F
    if kind == 48:
        kind = (payload[4] >> 1) & 0x3F
    elif kind == 49:
        kind = payload[2] & 0x3F if payload[2] & 0x80 else 0
    return 16 <= kind <= 21 or 32 <= kind <= 34


def _av1(payload: bytes) -> bool:
    """Read N, the start of a coded video sequence, of the aggregation header (AV1 RTP, 4.4)."""
    return bool(payload[0] & 0x08)


_BY_CODEC: dict[str, Callable[[bytes], bool]] = {"vp8": _vp8, "vp9": _vp9, "h264": _h264, "h265": _h265, "av1": _av1}
