"""What one connection has received and not handled: messages that are held back, and incomplete ones."""

from __future__ import annotations

from picows import WSMsgType, WSTransport

from signal_manager.gateway.limits import BEFORE_CONNECT
from signal_manager.gateway.occupancy import Occupancy
from signal_manager.gateway.ports import FramedConversation, ReceivingConnection
from signal_manager.protocol.close_codes import CloseCode

__all__ = ["Inbound"]

# Bytes that may be free in a stranger's read buffer: a message of 16 KiB, and what is read beside it.
_STRANGERS_BUFFER = 28_672
# Bytes of one connection that are not counted: what a message of 64 KiB takes.
_FREE_BUFFER = 131_072
_FREE_FRAGMENTS = 65_536


class Inbound:
    """What one connection has received and not handled, within bounds.

    While an exclusive request awaits its answer, later messages are held back and the socket is not read. An
    incomplete message takes read buffer and fragments, which count against a budget of the whole process.

    Args:
        connection: handles the messages.
        conversation: ends if too much is received.
        occupancy: keeps the budget.

    Attributes:
        held: the messages that are held back, each with its frame type; None while messages are handled at once.
        buffer_bytes: bytes of a large read buffer.
    """

    __slots__ = (
        "_connection",
        "_conversation",
        "_fragments",
        "_is_paused",
        "_occupancy",
        "_transport",
        "buffer_bytes",
        "held",
    )

    def __init__(self, connection: ReceivingConnection, conversation: FramedConversation, occupancy: Occupancy) -> None:
        self._connection = connection
        self._conversation = conversation
        self._occupancy = occupancy
        self._transport: WSTransport | None = None
        self._is_paused = False
        self._fragments = 0  # bytes, if they are many
        self.buffer_bytes = 0
        self.held: list[tuple[bytes, WSMsgType]] | None = None

    def open(self, transport: WSTransport) -> None:
        """Control the reading of this socket from now on."""
        self._transport = transport

    def closed(self) -> None:
        """Stop counting what the connection takes."""
        self._occupancy.count_incomplete(self, 0)

    # -- messages that are held back -----------------------------------------------------------------------------

    def hold(self) -> None:
        """Hold back the messages that arrive from now on."""
        self.held = []

    def accept(self, data: bytes, frame_type: WSMsgType) -> None:
        """Handle a message now, or after the request that must be answered first."""
        if self.held is None:
            self._connection.handle(data, frame_type)
        else:
            self.held.append((data, frame_type))
            self._pause()

    def release(self) -> None:
        """Handle the messages that were held back, up to the next exclusive request."""
        waiting, self.held = self.held or [], None
        for index, (data, frame_type) in enumerate(waiting):
            self._connection.handle(data, frame_type)
            if self.held is not None:
                self.held = waiting[index + 1 :]
                return
        transport = self._transport
        if self._is_paused and transport is not None and not transport.is_disconnected:
            self._is_paused = False
            transport.underlying_transport.resume_reading()

    def _pause(self) -> None:
        """Stop reading the socket, so that no more than one read's messages pile up.

        Messages are held back without a pause until the first one arrives: most clients send none before their answer,
        and are spared two system calls.
        """
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.underlying_transport.pause_reading()

    # -- incomplete messages -------------------------------------------------------------------------------------

    def buffered(self, size: int) -> None:
        """Bound the read buffer of a stranger, and count that of a client; it has grown and has `size` bytes free."""
        if self._conversation.is_established:
            if size > _FREE_BUFFER:
                self.buffer_bytes = size
                self._hold()
        # At exactly this size the buffer was filled, or it is a smaller one that holds nothing after a message.
        elif size > _STRANGERS_BUFFER or (size == _STRANGERS_BUFFER and not self._connection.received):
            if self.held is None:
                self._conversation.broken(
                    CloseCode.TOO_LARGE, f"message larger than {BEFORE_CONNECT} bytes before CONNECT"
                )
            self._pause()  # for good, or until the credentials are checked

    def fragmented(self, size: int) -> None:
        """Count `size` bytes of a message whose remaining fragments are still to come."""
        fragments = size if size > _FREE_FRAGMENTS else 0
        if fragments != self._fragments:
            self._fragments = fragments
            self._hold()

    def give_up(self) -> None:
        """Close, because incomplete messages of this connection take the most memory (`Holder.give_up`)."""
        self._conversation.broken(CloseCode.FULL, "too many messages that are not whole yet")
        self._pause()

    def _hold(self) -> None:
        self._occupancy.count_incomplete(self, self.buffer_bytes + self._fragments)
