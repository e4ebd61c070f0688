"""Rooms: who is in them, what they publish and pull, and how members learn of changes.

`service.py` is the entrance. `entry_requests.py` and `member_requests.py` answer requests. `joining.py` and
`leaving.py` begin and end memberships. `announcements.py` tells nodes and members of every change.
"""

from signal_manager.rooms.ice_servers import TurnServers
from signal_manager.rooms.service import RoomService
from signal_manager.rooms.settings import RoomSettings

__all__ = ["RoomService", "RoomSettings", "TurnServers"]
