"""Rooms: who is in them, what they publish and pull, and who is told.

`service.py` answers requests and `roster.py` keeps the memberships; `membership.py` says how a room changes and
`events.py` tells the members; `member_media.py` and `ledger.py` keep one member's media in order, and what to close.
"""

from signal_manager.rooms.service import RoomService, RoomSettings

__all__ = ["RoomService", "RoomSettings"]
