"""Room events in order: every change of a room has a number, and none may be missing.

`members.py` applies events in order. When one is missing, this module asks for the whole state of the room.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from signal_manager.client.members import Members
from signal_manager.client.negotiations import Entry
from signal_manager.client.ports import Requester
from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.protocol.messages import RoomAck, RoomEvent, RoomState, RoomStateAck

__all__ = ["RoomNews"]

# The reason of an event that asks for a new media session (docs/protocol.md, "Rooms").
_SESSION_LOST = "media session lost"


class RoomNews:
    """Apply the events of one room in order.

    Args:
        on_change: called when the members, or what they publish, may have changed.
        on_end: called with a membership that the service has ended, and the reason.
        on_lost: called with a membership that has lost its media session, and the error.
        on_metadata: called with the room's metadata.
        on_own_metadata: called with this client's metadata.
        start: runs work in the background, under a name.
    """

    def __init__(
        self,
        client: Requester,
        room_id: str,
        members: Members,
        *,
        on_change: Callable[[], None],
        on_end: Callable[[Entry, str], None],
        on_lost: Callable[[Entry, Exception], None],
        on_metadata: Callable[[dict[str, Any]], None],
        on_own_metadata: Callable[[dict[str, Any]], None],
        start: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._client = client
        self._room_id = room_id
        self._members = members
        self._on_change = on_change
        self._on_end = on_end
        self._on_lost = on_lost
        self._on_metadata = on_metadata
        self._on_own_metadata = on_own_metadata
        self._start = start
        self._is_resyncing = False
        self._sequence = 0  # of the last change that the members show
        self._newest = 0  # the highest sequence heard of

    def begin(self) -> None:
        """Forget earlier events, because a new membership begins."""
        self._newest = 0

    def begin_with(self, ack: RoomAck, entry: Entry) -> None:
        """Take the room's state from the ACK, and ask for it again if a newer event has come."""
        self._show_state(ack)
        self.catch_up(entry)

    def shows(self, sequence: int) -> bool:
        """Return whether the members show the change of this number and all before it."""
        return sequence <= self._sequence

    def catch_up(self, entry: Entry) -> None:
        """Ask for the room's state if a newer event has come than the members show."""
        if self._newest > self._sequence:
            self._start(self._resync(entry), "state")

    def hear(self, event: RoomEvent, entry: Entry | None) -> None:
        """Apply an event of the room in its order, in the present membership, if there is one."""
        self._newest = max(self._newest, event.sequence)
        # While joining or reading the state, that state is newer; `_newest` tells whether it is new enough.
        if entry is None or self._is_resyncing or event.sequence <= self._sequence:
            return
        if event.sequence > self._sequence + 1:
            self._start(self._resync(entry), "state")
            return
        self._sequence = event.sequence
        if event.event == "room_closed":
            self._on_end(entry, event.reason or "the room was closed")
        elif event.participant is not None and event.participant.client_id == self._client.client_id:
            self._hear_of_myself(entry, event)
        elif event.event == "metadata_changed" and event.participant is None:
            self._on_metadata(event.metadata or {})
        else:
            self._members.apply(event)
        self._on_change()

    def _hear_of_myself(self, entry: Entry, event: RoomEvent) -> None:
        if event.event == "participant_left":
            self._on_end(entry, event.reason or "removed from the room")
        elif event.event == "tracks_unpublished" and event.reason == _SESSION_LOST:
            self._on_lost(entry, UnavailableError("the SFU has lost the media session"))
        elif event.event == "metadata_changed" and event.participant is not None:
            self._on_own_metadata(event.participant.metadata or {})

    async def _resync(self, entry: Entry) -> None:
        """Ask for the room's state, since an event is missing."""
        self._is_resyncing = True
        try:
            while entry.is_present and self._newest > self._sequence:
                state = await self._client.request(RoomState(room_id=self._room_id), RoomStateAck)
                if entry.is_present:
                    self._show_state(state)
        except SignalManagerError as error:
            self._on_lost(entry, error)
        finally:
            self._is_resyncing = False
        self._on_change()

    def _show_state(self, state: RoomAck | RoomStateAck) -> None:
        self._sequence = state.sequence
        metadata = state.connection_info.metadata if isinstance(state, RoomAck) else state.metadata
        self._on_metadata(metadata)
        for member in state.participants:
            if member.client_id == self._client.client_id:
                self._on_own_metadata(member.metadata or {})
        self._members.show_state(state.participants)
