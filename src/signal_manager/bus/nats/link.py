"""The connection to NATS: kept up, watched, and used without waiting.

nats-py connects, authenticates and does TLS. Once that is done, reading and writing is done here: nats-py has a queue
and a task for each subscription (5 KB and 35 µs), and wakes two tasks for each message. nats-py is pinned for the names
that are used to that end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import ssl
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import msgspec
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from signal_manager.errors import ConfigurationError, SignalManagerError, UnavailableError

__all__ = ["Arrival", "NatsLink", "NatsSecurity"]

log = structlog.get_logger(__name__)

# How long a connection may take with each server (s); one that hangs must not use up the time of those that answer.
CONNECT_TIMEOUT = 3.0
# How long nats-server may take to confirm what it was sent (s).
_FLUSH_TIMEOUT = 5.0
# Between two attempts to connect again (s): nodes come back together when nats-server does.
_RETRY = 0.25
_LONGEST_RETRY = 2.0
# A connection over which nothing comes back for so long is given up (s): twice the one, after which the other is sent.
_PING_INTERVAL = 2
_PINGS_OUTSTANDING = 2
# How long closing a connection may take (s).
_FAREWELL = 1.0
# For how long (s) messages are taken to a subject that is not subscribed to any more.
_AFTERLIFE = 5.0
# Between two looks at whether it is still there (s).
_LOOK = 0.5
# Bytes that may wait for the socket before publishing fails: what nats-server takes in its own queue for us is 64 MB.
_MAX_PENDING = 16 * 1024 * 1024


class NatsSecurity(NamedTuple):
    """How this node proves who it is, and whom it believes; user, password or token may also be in the address."""

    ca_path: str = ""
    cert_path: str = ""
    key_path: str = ""
    credentials_path: str = ""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message from NATS; `is_unheard` is for what nats-server says where nobody listens ("no responders")."""

    subject: str
    reply: str
    data: bytes
    is_unheard: bool = False


Handler = Callable[[Arrival], None]


class _Reader(asyncio.Protocol):
    """Read what nats-server sends, in the place of nats-py's own protocol, which goes on hearing of everything else.

    Args:
        former: nats-py's protocol, and what it has read already.
        handlers: by subscription number.
        on_line: called with every line that is no message: PING, PONG, INFO, -ERR.
        on_lost: called when the connection is gone.
    """

    def __init__(
        self,
        former: asyncio.Protocol,
        handlers: dict[bytes, Handler],
        *,
        on_line: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._former = former
        self._handlers = handlers
        self._on_line = on_line
        self._on_lost = on_lost
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Handle every message that is complete."""
        data = self._rest + data if self._rest else data
        start, end = 0, len(data)
        while start < end:
            line_end = data.find(b"\r\n", start)
            if line_end < 0:
                break
            line = data[start:line_end]
            if not line.startswith((b"MSG ", b"HMSG ")):
                start = line_end + 2
                self._on_line(line)
                continue
            words = line.split()
            begin = line_end + 2
            after = begin + int(words[-1])
            if after + 2 > end:
                break
            start = after + 2
            handler = self._handlers.get(words[2])
            if handler is None:
                continue
            if words[0] == b"MSG":
                reply = _text(words[3]) if len(words) > 4 else ""
                arrival = Arrival(_text(words[1]), reply, data[begin:after])
            else:
                arrival = _with_head(words, data[begin:after])
            try:
                handler(arrival)
            except Exception:  # an exception would end the connection
                log.exception("message from another node failed", subject=arrival.subject)
        self._rest = data[start:]

    def connection_lost(self, error: Exception | None) -> None:
        """Let nats-py know."""
        self._former.connection_lost(error)
        self._on_lost()

    def pause_writing(self) -> None:
        """Let nats-py know."""
        self._former.pause_writing()

    def resume_writing(self) -> None:
        """Let nats-py know."""
        self._former.resume_writing()


def _with_head(words: list[bytes], payload: bytes) -> Arrival:
    """Return a message that has a head, of which only the status matters."""
    reply = _text(words[3]) if len(words) > 5 else ""
    head_size = int(words[-2])
    is_unheard = payload[:head_size].startswith(b"NATS/1.0 503")
    return Arrival(_text(words[1]), reply, payload[head_size:], is_unheard)


def _text(subject: bytes) -> str:
    """Return a subject, which need not be UTF-8: anybody at the same nats-server may choose one."""
    return subject.decode(errors="replace")


class NatsLink:
    """Keep one connection to NATS; an async context manager.

    Args:
        url: where a nats-server is, or several of a cluster, between commas; the rest is learned from them.
        name: shown by nats-server to its operators.
        on_up: called when the connection is there again, with all subscriptions.
        on_down: called when it is lost.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        security: NatsSecurity | None = None,
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[], None] | None = None,
    ) -> None:
        self._servers = [each.strip() for each in url.split(",")]
        self._url = self._failed = self._servers[0]  # the one that says how to sign in, and the one that failed last
        self._name = name
        self._security = security or NatsSecurity()
        self.on_up = on_up
        self.on_down = on_down
        self.is_up = False
        self.max_payload = 0
        self._client = Client()
        self._socket: asyncio.WriteTransport | None = None  # nats-py's, once it has signed in
        self._last_error = ""
        self._handlers: dict[str, Handler] = {}  # by subject
        self._numbers: dict[str, bytes] = {}  # of subscriptions on this connection, by subject
        self._by_number: dict[bytes, Handler] = {}
        self._next_number = 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: list[bytes] = []
        self._is_write_due = False
        self._keeper: asyncio.Task[None] | None = None
        self._is_lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        tls = self._tls()
        try:
            await self._connect(tls)
        except (NatsError, OSError, TimeoutError) as error:
            raise self._explained(error) from None
        self._keeper = asyncio.create_task(self._keep(tls), name="nats")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()  # more than once: nats-py swallows cancellations here and there
            await asyncio.wait({self._keeper}, timeout=_FAREWELL)
        if self.is_up:
            self.is_up = False
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                await self._flush(_FAREWELL)
        await self._close()

    def subscribe(self, subject: str, handler: Handler) -> None:
        """Hand every message to this subject to `handler`, also after the connection was lost and made again.

        A subject that is subscribed to already keeps its handler.
        """
        if subject not in self._handlers:
            self._handlers[subject] = handler
            if self.is_up:
                self._subscribe(subject)

    def unsubscribe(self, subject: str) -> None:
        """End a subscription; one that is not there is no error."""
        self._handlers.pop(subject, None)
        number = self._numbers.pop(subject, None)
        if number is not None and self.is_up:
            self._write(b"UNSUB %b\r\n" % number)
            # What has been sent here already is still to be answered, if only by saying that it is too late.
            asyncio.get_running_loop().call_later(_AFTERLIFE, self._by_number.pop, number, None)

    def publish(self, subject: str, payload: bytes, reply: str = "") -> bool:
        """Send a message with the others of this turn of the loop; False when it cannot be sent."""
        if not self.put(subject.encode(), reply.encode(), payload):
            return False
        self._write_soon()
        return True

    def put(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        """Let a message wait for `write_out`; False when it cannot be sent.

        nats-server ends the connection of whoever sends it more than it takes, or to no subject.
        """
        if not self.is_up or self._socket is None or self._socket.get_write_buffer_size() > _MAX_PENDING:
            return False
        if not subject or len(payload) > self.max_payload:
            log.error(
                "message to another node not sent",
                subject=_text(subject),
                reason=f"it is {len(payload)} bytes, expected a subject and at most {self.max_payload} bytes",
            )
            return False
        self._out += (b"PUB %b %b %d\r\n" % (subject, reply, len(payload)), payload, b"\r\n")
        return True

    async def drain(self, *, but: str) -> None:
        """End all subscriptions but one, and wait until everything has come that was sent to them before."""
        for subject in [subject for subject in self._handlers if subject != but]:
            self.unsubscribe(subject)
        await self.flush()

    async def flush(self) -> None:
        """Wait until nats-server has taken everything that was sent so far, or the connection is lost."""
        if self.is_up:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                await self._flush(_FLUSH_TIMEOUT)

    # -- the connection ------------------------------------------------------------------------------------------

    async def _keep(self, tls: ssl.SSLContext | None) -> None:
        while True:
            await self._lost()
            self.is_up = False
            log.error("other nodes are out of reach", reason=self._last_error or "connection to nats-server lost")
            if self.on_down is not None:
                self.on_down()
            await self._close()
            pause = _RETRY
            while True:
                try:
                    await self._connect(tls)
                    break
                except (NatsError, OSError, TimeoutError):
                    pass  # it is in the log
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_RETRY)
            log.info("other nodes can be reached again")
            if self.on_up is not None:
                self.on_up()

    async def _lost(self) -> None:
        """Wait until the connection is lost; nats-py may hang in its farewell to one that is cut, and tell nobody."""
        while self._client.is_connected:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_lost.wait(), _LOOK)
            if self._is_lost.is_set():
                return

    async def _connect(self, tls: ssl.SSLContext | None) -> None:
        """Connect to one of the servers, each of which has its own time, in any order: nodes spread over them."""
        failure: Exception = OSError("no server is known")
        for server in random.sample(self._servers, len(self._servers)):
            try:
                await self._connect_to(server, tls)
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("nats-server does not answer", reason=str(error) or type(error).__name__)
                failure = error
                self._failed = server
                is_refused = self._is_refusal(error)
                await self._close()
                if is_refused:  # so would the others
                    break
            else:
                return
        raise failure

    async def _connect_to(self, server: str, tls: ssl.SSLContext | None) -> None:
        self._client = Client()
        self._socket = None
        self._out.clear()
        self._is_lost.clear()
        self._last_error = ""
        options: dict[str, Any] = {"tls": tls} if tls is not None else {}
        if self._security.credentials_path:
            options["user_credentials"] = self._security.credentials_path
        options |= self._sign_in()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await self._client.connect(
                [server],
                name=self._name,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,  # `_keep` does it, so that nothing old is sent or received afterwards
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=math.ceil(CONNECT_TIMEOUT),
                ping_interval=_PING_INTERVAL,
                max_outstanding_pings=_PINGS_OUTSTANDING,
                no_echo=True,
                pending_size=0,
                flusher_queue_size=2**20,
                **options,
            )
            self.max_payload = self._client.max_payload
            self._read_here()
            for subject in self._handlers:
                self._subscribe(subject)
            await self._flush(_FLUSH_TIMEOUT)
        known = {urlsplit(server).netloc.rpartition("@")[2] for server in self._servers}
        self._servers += [
            uri.geturl() for uri in self._client.discovered_servers if uri.netloc.rpartition("@")[2] not in known
        ]
        self.is_up = True

    async def _flush(self, timeout: float) -> None:
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._client._pongs.append(taken)
        self._write(b"PING\r\n")
        async with asyncio.timeout(timeout):
            await taken

    async def _close(self) -> None:
        transport = self._client._transport
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._client.close()
        # nats-py leaves it open when it was not let in, or when its own farewell hangs.
        writer: asyncio.StreamWriter | None = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
            await asyncio.sleep(0)  # the socket is closed in the loop's next turn

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        if self.is_up and self._client.is_connected:  # such as a subject that this user may not use
            log.error("nats-server complains", reason=self._last_error)

    async def _on_closed(self) -> None:
        self._is_lost.set()

    def _subscribe(self, subject: str) -> None:
        number = b"%d" % self._next_number
        self._next_number += 1
        self._numbers[subject] = number
        self._by_number[number] = self._handlers[subject]
        self._write(b"SUB %b  %b\r\n" % (subject.encode(), number))

    def _read_here(self) -> None:
        """Take reading over from nats-py, with whatever it has read and not looked at."""
        client = self._client
        writer: asyncio.StreamWriter = client._transport._io_writer  # type: ignore[union-attr]  # it is TCP
        stream: asyncio.StreamReader = client._transport._io_reader  # type: ignore[union-attr]  # as above
        if client._reading_task is not None:
            client._reading_task.cancel()
        self._numbers.clear()
        self._by_number = {}
        transport = self._socket = writer.transport
        former: Any = transport.get_protocol()
        reader = _Reader(former, self._by_number, on_line=self._on_line, on_lost=self._on_lost)
        transport.set_protocol(reader)
        left = bytes(stream._buffer)  # type: ignore[attr-defined]  # there is no other way to see it
        if left:
            reader.data_received(left)

    def _on_lost(self) -> None:
        self.is_up = False
        self._socket = None
        self._is_lost.set()

    def _on_line(self, line: bytes) -> None:
        client = self._client
        if line == b"PING":
            self._write(b"PONG\r\n")
        elif line == b"PONG":
            client._pings_outstanding = 0
            if client._pongs:
                waiting = client._pongs.pop(0)
                if not waiting.done():
                    waiting.set_result(True)
        elif line.startswith(b"-ERR"):
            self._start(client._process_err(line[4:].strip().decode(errors="replace").lower()))
        elif line.startswith(b"INFO"):
            with contextlib.suppress(ValueError):
                self._start(client._process_info(json.loads(line[4:])))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def write_out(self) -> None:
        """Write what has been published in this turn of the loop, rather than at its end."""
        self._is_write_due = False
        out = self._out
        if out:
            self._out = []
            if self._socket is not None:
                self._socket.write(b"".join(out))

    def _write(self, data: bytes) -> None:
        # nats-py's own way, a queue and a task in between, costs more than the rest of it.
        self._out.append(data)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._is_write_due:
            self._is_write_due = True
            asyncio.get_running_loop().call_soon(self.write_out)

    # -- security ------------------------------------------------------------------------------------------------

    def _tls(self) -> ssl.SSLContext | None:
        security = self._security
        is_asked_for = urlsplit(self._url).scheme == "tls"
        if not (is_asked_for or security.ca_path or security.cert_path):
            return None
        try:
            context = ssl.create_default_context(cafile=security.ca_path or None)
            if security.cert_path:
                context.load_cert_chain(security.cert_path, security.key_path or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"bus.nats_ca_path, bus.nats_cert_path and bus.nats_key_path: {error.strerror or error}"
            ) from None
        return context

    def _sign_in(self) -> dict[str, str]:
        """Return user and password, or a token, from the address: servers learned later have none in theirs."""
        parts = urlsplit(self._url)
        if not parts.username:
            return {}
        if parts.password is None:
            return {"token": unquote(parts.username)}
        return {"user": unquote(parts.username), "password": unquote(parts.password)}

    def _is_refusal(self, error: Exception) -> bool:
        """Tell whether a server was there and did not let this node in, which another attempt does not change."""
        reason = self._reason(error)
        # It says why and closes in one go, which may arrive as a reset without the reason.
        is_stranger = bool(self._client._server_info.get("auth_required")) and not isinstance(error, TimeoutError)
        return _is_tls(error, reason) or "uthorization" in reason or is_stranger

    def _reason(self, error: Exception) -> str:
        return self._last_error or str(error) or type(error).__name__

    def _explained(self, error: Exception) -> SignalManagerError:
        """Say what to do about a nats-server that cannot be used: a mistake in the settings, or one that is away."""
        parts = urlsplit(self._failed)
        host, port = parts.hostname or "", parts.port or 4222
        reason = self._reason(error)
        if _is_tls(error, reason):
            return ConfigurationError(
                f"no TLS with nats-server at {host}:{port} ({reason}): see bus.nats_ca_path and bus.nats_url"
            )
        if self._is_refusal(error):
            return ConfigurationError(
                f"nats-server at {host}:{port} refuses this node: see bus.nats_url and bus.nats_credentials_path"
            )
        others = f", nor do the other {len(self._servers) - 1}" if len(self._servers) > 1 else ""
        return UnavailableError(
            f"no nats-server answers at {host}:{port} ({reason}){others}; start one with "
            f"`nats-server --addr {host} --port {port}`, or set bus.nats_url"
        )


def _is_tls(error: Exception, reason: str) -> bool:
    return isinstance(error, ssl.SSLError) or "SSL" in reason or "ertificate" in reason
