"""Settings that all rooms of a service share."""

from __future__ import annotations

import msgspec

from signal_manager.media.negotiation import Limits
from signal_manager.rooms.ice_servers import TurnServers
from signal_manager.rooms.probes import ProbeSettings

__all__ = ["STOP_TIMEOUT", "RoomSettings"]

# How long (s) a stopping service waits, at most, for members to leave their rooms and for their media to be closed.
STOP_TIMEOUT = 5.0


class RoomSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What all rooms of a service have in common.

    Args:
        app_id, stun_url: members are told them.
        turn: the operator's own TURN servers.
        max_participants: the capacity of a room that names none, and the most that a room may name.
        limits: bounds of each media session's negotiations.
        stop_timeout: how long (s) a stopping service waits for members to leave and for their media to be closed.
        probing: how often the SFU is asked whether tracks send.
    """

    app_id: str = ""
    stun_url: str = ""
    turn: TurnServers = TurnServers()
    max_participants: int = 100
    limits: Limits = Limits()
    stop_timeout: float = STOP_TIMEOUT
    probing: ProbeSettings = ProbeSettings()
