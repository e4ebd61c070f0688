"""Rooms: who is in them, what they publish and pull, and who is told.

`service.py` answers requests and `memberships.py` keeps the memberships; `changes.py` says how a room changes and
`events.py` tells the members; `member_media.py` and `ledger.py` keep one member's media in order, and what to close;
`ice_servers.py` knows the ICE servers that clients are told.
"""

from signal_manager.rooms.ice_servers import TurnServers
from signal_manager.rooms.service import RoomService, RoomSettings

__all__ = ["RoomService", "RoomSettings", "TurnServers"]
