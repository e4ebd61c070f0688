"""What is written to one client, and what happens if it reads too slowly."""

from __future__ import annotations

from typing import Protocol

from picows.picows import WSMsgType, WSTransport

from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.observe.counts import Counter
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import Journal
from signal_manager.protocol.websocket import MEDIUM_HEAD, frame_head

__all__ = ["Outgoing", "SlowClient"]

# A batch queues at most this for one client (bytes). Beyond it joining saves nothing, and only a write shows whether
# the client keeps up.
_JOINED_BYTES = 65536


class SlowClient(Protocol):
    """The conversation with a client, as the messages to that client see it."""

    def fell_behind(self) -> None:
        """End the session, because the client reads too slowly."""


class Outgoing:
    """The messages to one client: written at once, or queued for the end of a batch.

    The transport reports when a client falls behind. Only then does a write look at how much waits; beyond the limit
    the session ends.

    Args:
        client: ends when it reads too slowly.
        framing: decides whether messages are text or binary.
        limit: bytes that may wait for a client that is behind.
        bytes_sent: counts the bytes of all messages.

    Attributes:
        is_behind: whether the client reads more slowly than others write to it.
        journal: keeps messages that count until the client confirms them; None if the session ends with its connection.
        sent: messages written so far.
    """

    __slots__ = (
        "_bytes_sent",
        "_client",
        "_first_byte",
        "_frame_type",
        "_limit",
        "_queue",
        "_queued",
        "_transport",
        "is_behind",
        "journal",
        "sent",
    )

    def __init__(self, client: SlowClient, framing: Framing, *, limit: int, bytes_sent: Counter) -> None:
        self._client = client
        # A final, unmasked frame of text or of bytes (RFC 6455, section 5.2).
        self._first_byte, self._frame_type = (
            (0x81, WSMsgType.TEXT) if framing is Framing.JSON else (0x82, WSMsgType.BINARY)
        )
        self._limit = limit
        self._bytes_sent = bytes_sent
        self._transport: WSTransport | None = None
        self._queue: list[bytes] | None = None  # heads and messages, in turn
        self._queued = 0  # bytes of these messages
        self.is_behind = False
        self.journal: Journal | None = None
        self.sent = 0

    def open(self, transport: WSTransport, *, write_buffer: int) -> None:
        """Write to this socket from now on; the client is behind while more than `write_buffer` bytes wait."""
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=write_buffer)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.underlying_transport.get_write_buffer_size() if self._transport is not None else 0

    def write(self, data: bytes, batch: WriteBatch | None = None, *, counts: bool = True) -> None:
        """Send one encoded message: with the others of `batch`, or at once (`ConversationConnection.write`)."""
        if batch is not None and counts:
            self.queue(data, batch)
        else:
            self.send(data, counts)

    def queue(self, data: bytes, batch: WriteBatch) -> None:
        """Send one encoded message with the others of `batch`."""
        size = len(data)
        queue = self._queue
        if queue is None:
            queue = self._queue = []
            batch.queues.append(self)
        # Most heads are of this size; a call less than `frame_head`.
        first = self._first_byte
        queue.append(MEDIUM_HEAD.pack(first, 126, size) if 126 <= size < 65536 else frame_head(first, size))
        queue.append(data)
        self._queued = queued = self._queued + size
        if queued > _JOINED_BYTES:
            self.flush()

    def send(self, data: bytes, counts: bool = True) -> None:
        """Send one encoded message at once; keep it in the session's journal if it `counts`."""
        size = len(data)
        if self._queued:
            self.flush()  # the journal keeps a run of messages as one, so none between them may be left out
        if counts and self.journal is not None:
            self.journal.keep(data)
        self.sent += 1
        self._bytes_sent.value += size
        if self._transport is not None and (not self.is_behind or self._has_room(size)):
            self._transport.send(self._frame_type, data)

    def flush(self) -> None:
        """Write the queued messages in one system call."""
        queue = self._queue
        if queue is None:
            return
        self._queue = None
        count, data = len(queue) // 2, b"".join(queue)
        self.sent += count
        self._bytes_sent.value += self._queued
        self._queued = 0
        if self.journal is not None:
            self.journal.keep(data, count)
        transport = self._transport
        if transport is None or transport.is_close_frame_sent or transport.is_disconnected:
            return
        if not self.is_behind or self._has_room(len(data)):
            transport.underlying_transport.write(data)

    def may_write(self, size: int) -> bool:
        """Return whether the client may be sent `size` bytes more; if not, its session ends."""
        return not self.is_behind or self._has_room(size)

    def _has_room(self, size: int) -> bool:
        if self.waiting_bytes + size <= self._limit:
            return True
        self._client.fell_behind()
        return False
