"""A connection's WebSocket frames, as RFC 6455 requires: fragments, control frames, the closing handshake.

`gateway/connection.py` handles whole binary messages by itself, which are nearly all. Every other frame comes here.
"""

from __future__ import annotations

import asyncio
import time

from picows import WSFrame, WSMsgType, WSTransport

from signal_manager.gateway.inbound import Inbound
from signal_manager.gateway.limits import BEFORE_CONNECT, Allowance
from signal_manager.gateway.outgoing import Outgoing
from signal_manager.gateway.ports import FramedConnection, FramedConversation
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.websocket import may_be_sent

__all__ = ["Frames"]

# How long a client may take to answer our close frame before its socket is cut (RFC 6455, section 7.1.1).
CLOSE_TIMEOUT = 2.0

# A client that closes so has left: 1001 is what browsers send when their page goes (RFC 6455, section 7.4.1).
_LEFT = frozenset({1000, 1001})

_BINARY = WSMsgType.BINARY
_TEXT = WSMsgType.TEXT


class Frames:
    """The frames of one connection.

    Args:
        transport: the socket.
        connection: handles whole messages.
        conversation: ends when the client closes or breaks the protocol.
        inbound: counts fragments.
        outgoing: is flushed before the close frame.
        allowance: how many frames may come.
    """

    __slots__ = (
        "_allowance",
        "_connection",
        "_conversation",
        "_fragments",
        "_inbound",
        "_outcome",
        "_outgoing",
        "_reason",
        "_timer",
        "_transport",
        "longest",
    )

    def __init__(
        self,
        transport: WSTransport,
        connection: FramedConnection,
        *,
        conversation: FramedConversation,
        inbound: Inbound,
        outgoing: Outgoing,
        allowance: Allowance,
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._conversation = conversation
        self._inbound = inbound
        self._outgoing = outgoing
        self._allowance = allowance
        self.longest = BEFORE_CONNECT  # of a message, in bytes; a client that is authenticated may send more
        self._fragments: bytearray | None = None  # the frame type, then what has come of the message so far
        self._timer: asyncio.TimerHandle | None = None  # cuts the socket
        self._reason = ""
        self._outcome = "lost"

    def handle(self, frame: WSFrame) -> bool:
        """Handle a frame; return whether fragments of a message are still to come."""
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._conversation.broken(CloseCode.PROTOCOL, "reserved bits are set, and no extension was agreed on")
            return self._fragments is not None
        is_message = frame.fin and (frame.msg_type is _BINARY or frame.msg_type is _TEXT)
        if not is_message and self._allowance.has_too_many_frames(time.monotonic()):
            self._conversation.insistent()
            return self._fragments is not None
        match frame.msg_type:
            case WSMsgType.PING:
                payload = frame.get_payload_as_bytes()
                if self._outgoing.may_write(len(payload)):
                    self._transport.send_pong(payload)
            case WSMsgType.PONG:
                pass
            case WSMsgType.CLOSE:
                self._closed_by_client(frame)
            case message_type:
                self._assemble(message_type, frame)
        return self._fragments is not None

    def _assemble(self, frame_type: WSMsgType, frame: WSFrame) -> None:
        """Put the frames of one message together (section 5.4)."""
        fragments = self._fragments
        if (frame_type is WSMsgType.CONTINUATION) is (fragments is None):
            self._conversation.broken(CloseCode.PROTOCOL, "fragments out of order")
            return
        if fragments is None:
            if frame.fin:
                self._connection.message(frame.get_payload_as_bytes(), frame_type)
                return
            fragments = self._fragments = bytearray((frame_type.value,))
        fragments += frame.get_payload_as_bytes()
        if len(fragments) - 1 > self.longest:
            self._fragments = None
            self._inbound.fragmented(0)
            self._conversation.broken(CloseCode.TOO_LARGE, f"message larger than {self.longest} bytes")
        elif frame.fin:
            self._fragments = None
            self._inbound.fragmented(0)
            self._connection.message(bytes(fragments[1:]), WSMsgType(fragments[0]))
        else:
            self._inbound.fragmented(len(fragments))

    def ping(self) -> None:
        """Send a ping."""
        self._transport.send_ping()

    # -- closing -------------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether the close frame was sent."""
        return self._transport.is_close_frame_sent

    @property
    def outcome(self) -> str:
        """How the connection ended, as one word of a closed set."""
        return self._outcome

    @property
    def reason(self) -> str:
        """Why the connection ended: the client, the service or picows closed it, or the network failed."""
        if self._reason:
            return self._reason
        handshake = self._transport.close_handshake
        sent = handshake.sent if handshake is not None else None
        return f"{int(sent.code)} {sent.reason}" if sent is not None else "connection lost"  # type: ignore[call-overload]

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake; the socket is cut if the client does not take part in it."""
        if not self._transport.is_close_frame_sent:
            self._reason, self._outcome = f"{int(code)} {reason}", code.name.lower()
            self._say_good_bye(code, reason)
        self.cut_later()

    def _closed_by_client(self, frame: WSFrame) -> None:
        """Answer a close frame (section 5.5.1), and ignore what the client sends after it."""
        code = int.from_bytes(frame.get_payload_as_bytes()[:2]) if frame.payload_size else CloseCode.NORMAL
        if not may_be_sent(code):
            self._conversation.broken(CloseCode.PROTOCOL, "no such close code")
            return
        self._conversation.hung_up(may_return=code not in _LEFT)
        if not self._reason:
            self._reason, self._outcome = "closed by the client", "client"
        if not self._transport.is_close_frame_sent:
            self._say_good_bye(code, "")
        self.cut_later()
        self._transport.disconnect()

    def _say_good_bye(self, code: int, reason: str) -> None:
        """Send the close frame after the queued messages."""
        self._outgoing.flush()
        self._transport.send_close(code, reason)  # type: ignore[arg-type]  # the stub has no private codes

    def cut_later(self) -> None:
        """Cut the socket if the client does not close it in time."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.cut)

    def cut(self) -> None:
        """Close the socket without waiting for the client."""
        self._transport.disconnect(graceful=False)

    def closed(self) -> None:
        """Note that the socket is closed."""
        if self._timer is not None:
            self._timer.cancel()
