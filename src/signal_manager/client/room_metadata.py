"""The metadata of a room and of this client in it, as the service tells them last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from signal_manager.client.room_events import RoomChanged, RoomHappening, SelfChanged

__all__ = ["RoomMetadata"]


class RoomMetadata:
    """Keep metadata, and tell the application when it changes.

    Args:
        own: the metadata that this client joins with.
        emit: called with an event for the application.
    """

    def __init__(self, own: dict[str, Any] | None, emit: Callable[[RoomHappening], None]) -> None:
        self.own = own
        self.room: Mapping[str, Any] | None = None
        self._emit = emit

    def take_room(self, metadata: dict[str, Any]) -> None:
        """Take in the room's metadata; the first is no event."""
        if metadata != self.room:
            is_first, self.room = self.room is None, metadata
            if not is_first:
                self._emit(RoomChanged(metadata))

    def take_own(self, metadata: dict[str, Any]) -> None:
        """Take in this client's metadata."""
        if metadata != (self.own or {}):
            self.own = metadata
            self._emit(SelfChanged(metadata))
