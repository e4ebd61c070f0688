"""Which path ICE chose: the one module that uses names private to aiortc and aioice.

`media.py` asks whether media go through a TURN server. aiortc's statistics have no candidate pairs, and
RTCIceTransport has no `getSelectedCandidatePair`. docs/upstream.md says what would make this module unnecessary.
"""

from __future__ import annotations

from typing import Any

from aiortc import RTCPeerConnection

__all__ = ["chosen_types", "is_relayed"]


def is_relayed(peer: RTCPeerConnection) -> bool:
    """Tell whether a connection that is up goes through a TURN server.

    Where aiortc does not tell, a connection that could go through one counts as if it did.
    """
    types = chosen_types(peer)
    return " typ relay" in peer.localDescription.sdp if types is None else "relay" in types


def chosen_types(peer: RTCPeerConnection) -> set[str] | None:
    """Return the types of the local candidates in use; None where this aiortc does not tell."""
    ice: Any = [each.sender.transport.transport for each in peer.getTransceivers()]
    try:
        return {pair.local_candidate.type for each in ice for pair in each._connection._nominated.values()}
    except AttributeError:
        return None
