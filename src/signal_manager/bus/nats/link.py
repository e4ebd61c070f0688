"""The connection to NATS: kept up, and used without waiting.

`connection.py` is one connection to one server. The link chooses the server, connects again, keeps the subscriptions,
and writes all that a turn of the event loop publishes at once. There is no queue in between: a queue and a task for
each subscription would cost 5 KB and 35 µs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from signal_manager.bus.nats.connection import NatsConnection, RefusedError, TlsError
from signal_manager.bus.nats.protocol import CRLF, PUBLISH, Arrival, Complaint, Info, subscribe, unsubscribe
from signal_manager.bus.nats.servers import Cluster, NatsSecurity, Server
from signal_manager.bus.nats.subscriptions import Handler, Subscriptions
from signal_manager.errors import ConfigurationError, SignalManagerError, UnavailableError

__all__ = ["Arrival", "NatsLink", "NatsSecurity"]

log = structlog.get_logger(__name__)

# The limit for connecting to one server (s), so that a server that hangs leaves time for the others.
CONNECT_TIMEOUT = 3.0
# The limit for a confirmation of nats-server that it has received everything (s).
_FLUSH_TIMEOUT = 5.0
# Between two attempts to connect again (s): nodes come back together when nats-server does.
_RETRY = 0.25
_LONGEST_RETRY = 2.0
# How long closing a connection may take (s).
_FAREWELL = 1.0
# How long (s) messages to a subject are still handled after the end of its subscription.
_AFTERLIFE = 5.0
# Bytes that may wait for the socket before publishing fails. nats-server's own queue for a client holds 64 MB.
_MAX_PENDING = 16 * 1024 * 1024

# Why an attempt fails: no server answers, or the one that answers does not agree with the settings.
_FAILURES = (OSError, RefusedError, TlsError, ConfigurationError)


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
        self._security = security or NatsSecurity()
        self._cluster = Cluster(url, self._security)
        self._name = name
        self.on_up = on_up
        self.on_down = on_down
        self.is_up = False
        self.max_payload = 0
        self._connection: NatsConnection | None = None
        self._socket: asyncio.WriteTransport | None = None  # the connection's, while it may be written to
        self._last_error = ""
        self._subscriptions = Subscriptions()
        self._out: list[bytes] = []
        self._is_write_due = False
        self._keeper: asyncio.Task[None] | None = None
        self._is_lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        tls = self._security.tls_context() if self._cluster.wants_tls else None
        try:
            await self._connect(tls)
        except _FAILURES as error:
            raise self._explained(error) from None
        self._keeper = asyncio.create_task(self._keep(tls), name="nats")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self.is_up:
            self.is_up = False
            with contextlib.suppress(OSError):
                await self._flush(_FAREWELL)
        self._socket = None
        if self._connection is not None:
            await self._connection.close(timeout=_FAREWELL)

    def subscribe(self, subject: str, handler: Handler) -> None:
        """Pass every message to this subject to `handler`, also over later connections.

        A subject that is subscribed to already keeps its handler.
        """
        if self._subscriptions.add(subject, handler) and self.is_up:
            self._subscribe(subject)

    def unsubscribe(self, subject: str) -> None:
        """End a subscription, if there is one."""
        number = self._subscriptions.remove(subject)
        if number is not None and self.is_up:
            self._write(unsubscribe(number))
            # Messages on their way to this node still get an answer, even if that is "too late".
            asyncio.get_running_loop().call_later(_AFTERLIFE, self._subscriptions.by_number.pop, number, None)

    def publish(self, subject: str, payload: bytes, reply: str = "") -> bool:
        """Send a message with the others of this turn of the loop; False when it cannot be sent."""
        if not self.put(subject.encode(), reply.encode(), payload):
            return False
        self._write_soon()
        return True

    def put(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        """Queue a message for `write_out`; return False when it cannot be sent.

        nats-server ends a connection that sends a message that is too large or has no subject.
        """
        if not self.is_up or self._socket is None or self._socket.get_write_buffer_size() > _MAX_PENDING:
            return False
        if not subject or len(payload) > self.max_payload:
            log.error(
                "message to another node not sent",
                subject=subject.decode(),
                reason=f"it is {len(payload)} bytes, expected a subject and at most {self.max_payload} bytes",
            )
            return False
        self._out += (PUBLISH % (subject, reply, len(payload)), payload, CRLF)
        return True

    async def drain(self, *, but: str) -> None:
        """End all subscriptions but one, and wait for the messages that were sent to them before."""
        for subject in [subject for subject in self._subscriptions if subject != but]:
            self.unsubscribe(subject)
        await self.flush()

    async def flush(self) -> None:
        """Wait until nats-server has taken everything that was sent so far, or the connection is lost."""
        if self.is_up:
            with contextlib.suppress(OSError):
                await self._flush(_FLUSH_TIMEOUT)

    # -- the connection ------------------------------------------------------------------------------------------

    async def _keep(self, tls: ssl.SSLContext | None) -> None:
        while True:
            await self._is_lost.wait()
            self.is_up = False
            log.error("other nodes are out of reach", reason=self._last_error or "connection to nats-server lost")
            if self.on_down is not None:
                self.on_down()
            pause = _RETRY
            while True:
                try:
                    await self._connect(tls)
                    break
                except _FAILURES:
                    pass  # it is in the log
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_RETRY)
            log.info("other nodes can be reached again")
            if self.on_up is not None:
                self.on_up()

    async def _connect(self, tls: ssl.SSLContext | None) -> None:
        """Connect to one of the servers, each of which has its own time."""
        failure: Exception = OSError("no server is known")
        for server in self._cluster.attempts():
            try:
                await self._connect_to(server, tls)
            except _FAILURES as error:
                log.debug("nats-server does not answer", reason=str(error) or type(error).__name__)
                failure = error
                if not isinstance(error, OSError):  # the others would refuse this node too
                    break
            else:
                return
        raise failure

    async def _connect_to(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._out.clear()
        self._subscriptions.begin()
        self._is_lost.clear()
        self._last_error = ""
        self._connection = connection = NatsConnection(
            self._subscriptions.by_number, on_event=self._on_event, on_lost=self._on_lost
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                info = await connection.open(
                    server,
                    name=self._name,
                    tls=tls,
                    sign_in=lambda info: self._security.sign_in(info, server.sign_in),
                )
                self._socket = connection.transport
                self._on_event(info)
                for subject in self._subscriptions:
                    self._subscribe(subject)
                await self._flush(_FLUSH_TIMEOUT)
        except BaseException:
            self._socket = None
            await connection.abort()
            raise
        self.is_up = True

    async def _flush(self, timeout: float) -> None:
        self.write_out()
        if self._connection is not None:
            async with asyncio.timeout(timeout):
                await self._connection.ping()

    def _subscribe(self, subject: str) -> None:
        self._write(subscribe(subject.encode(), self._subscriptions.number(subject)))

    def _on_event(self, event: Info | Complaint) -> None:
        if isinstance(event, Complaint):  # such as a subject that this user may not use
            log.error("nats-server complains", reason=event.reason)
            return
        self.max_payload = event.max_payload
        self._cluster.learn(event.connect_urls or ())

    def _on_lost(self, reason: str) -> None:
        self.is_up = False
        self._socket = None
        self._last_error = reason
        self._is_lost.set()

    def write_out(self) -> None:
        """Write what has been published in this turn of the loop, rather than at its end."""
        self._is_write_due = False
        out = self._out
        if out:
            self._out = []
            if self._socket is not None:
                self._socket.write(b"".join(out))

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._is_write_due:
            self._is_write_due = True
            asyncio.get_running_loop().call_soon(self.write_out)

    def _explained(self, error: Exception) -> SignalManagerError:
        """Return the error to raise for a failed connection; its message names the setting to change."""
        if isinstance(error, SignalManagerError):
            return error
        host, port = self._cluster.latest.host, self._cluster.latest.port
        reason = str(error) or type(error).__name__
        if isinstance(error, TlsError):
            return ConfigurationError(
                f"no TLS with nats-server at {host}:{port} ({reason}): see bus.nats_ca_path and bus.nats_url"
            )
        if isinstance(error, RefusedError):
            return ConfigurationError(
                f"nats-server at {host}:{port} refuses this node ({reason}): see bus.nats_url and "
                "bus.nats_credentials_path"
            )
        others = f", nor do the other {len(self._cluster) - 1}" if len(self._cluster) > 1 else ""
        return UnavailableError(
            f"no nats-server answers at {host}:{port} ({reason}){others}; start one with "
            f"`nats-server --addr {host} --port {port}`, or set bus.nats_url"
        )
