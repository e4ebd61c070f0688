"""The ICE servers for clients: the operator's own TURN servers, and those of the media backend.

The service makes credentials for its own servers without a call. It asks the backend at most once per client and
credential lifetime. While the backend gives none, clients get the other servers at once, and a time to ask again.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.media.base import IceServer, IceServers, MediaBackend
from signal_manager.model import ClientId
from signal_manager.observe.metrics import Metrics

__all__ = ["IceServerBook", "TurnServers", "rest_credential"]

log = structlog.get_logger(__name__)

# Seconds that a client waits for TURN servers, from the question to the backend on.
PATIENCE = 1.0
# Seconds from a failure to the next question to the backend, which one client asks for all.
PAUSE = 5.0
# Seconds after which clients without TURN servers ask again.
ASK_AGAIN = 30.0
# Seconds between two warnings in the log.
WARN_EVERY = 60.0
# A credential is given again while this part of its lifetime is left. SDKs ask later than that (at a tenth), so that
# they get a new one.
FRESH = 0.25
# Clients whose servers are remembered: about 1 KB each.
CAPACITY = 10_000


class TurnServers(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's own TURN servers. With `secret` each client gets its own credentials, otherwise static ones.

    `ttl` is the lifetime (s) of a credential made with the secret.
    """

    urls: tuple[str, ...] = ()
    secret: str = ""
    username: str = ""
    password: str = ""
    ttl: float = 3600.0

    def __repr__(self) -> str:
        return f"TurnServers(urls={self.urls!r})"  # secrets stay out of logs and tracebacks

    def servers_for(self, client_id: ClientId, now: float) -> IceServers:
        """Return the servers with this client's credentials; `now` is in seconds since the epoch."""
        if not self.urls:
            return IceServers(servers=())
        if not self.secret:
            static = IceServer(urls=self.urls, username=self.username, credential=self.password)
            return IceServers(servers=(static,))
        expires_at = int(now + self.ttl)
        username, password = rest_credential(self.secret, client_id, expires_at)
        server = IceServer(urls=self.urls, username=username, credential=password)
        return IceServers(servers=(server,), expires_at=expires_at)


def rest_credential(secret: str, client_id: str, expires_at: int) -> tuple[str, str]:
    """Return username and password for coturn's `use-auth-secret` (draft-uberti-behave-turn-rest-00, section 2.2)."""
    username = f"{expires_at}:{client_id}"
    digest = hmac.digest(secret.encode(), username.encode(), "sha1")
    return username, base64.b64encode(digest).decode()


class _Known(msgspec.Struct, frozen=True):
    servers: IceServers
    renew_at: float  # in seconds since the epoch


class IceServerBook:
    """Answer which ICE servers a client may use, within `PATIENCE`, and without an error.

    Args:
        backend: asked for more servers; None when there is no media backend.
        own: the operator's TURN servers.
        stun_url: clients get it when the backend names no server; "" for none.
        start: does background work under a name.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        backend: MediaBackend | None,
        *,
        own: TurnServers,
        stun_url: str,
        metrics: Metrics,
        start: Callable[[Callable[[], Awaitable[None]], str], asyncio.Task[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._own = own
        self._stun = (IceServer(urls=(stun_url,)),) if stun_url else ()
        self._metrics = metrics
        self._start = start
        self._clock = clock
        self._known: OrderedDict[ClientId, _Known] = OrderedDict()  # the least recently used first
        self._asking: dict[ClientId, tuple[asyncio.Task[None], float]] = {}  # each with its start in loop time
        self._is_failing = False
        self._ask_after = 0.0  # loop time, while it is failing
        self._warned_at = float("-inf")  # loop time
        self._unlogged = 0  # failures since then

    async def servers_for(self, client_id: ClientId) -> IceServers:
        """Return this client's servers, and the time by which it should ask again, if there is one."""
        own = self._own.servers_for(client_id, self._clock())
        others = await self._of_backend(client_id)
        ends = [end for end in (own.expires_at, others.expires_at) if end is not None]
        return IceServers(servers=(*others.servers, *own.servers), expires_at=min(ends, default=None))

    async def _of_backend(self, client_id: ClientId) -> IceServers:
        if self._backend is None:
            return IceServers(servers=self._stun)
        if (known := self._fresh(client_id)) is not None:
            return self._count("cached", known)
        if client_id in self._asking or self._may_ask():
            await self._ask(client_id, self._backend)
        if (known := self._fresh(client_id)) is not None:
            return self._count("asked", known)
        return self._count("fallback", IceServers(servers=self._stun, expires_at=self._clock() + ASK_AGAIN))

    def _count(self, outcome: str, servers: IceServers) -> IceServers:
        self._metrics.ice_servers.labelled(outcome).add()
        return servers

    def _fresh(self, client_id: ClientId) -> IceServers | None:
        known = self._known.get(client_id)
        if known is None or known.renew_at <= self._clock():
            return None
        self._known.move_to_end(client_id)
        return known.servers

    def _may_ask(self) -> bool:
        """Allow one question per pause while the backend fails."""
        now = asyncio.get_running_loop().time()
        if not self._is_failing:
            return True
        if now < self._ask_after:
            return False
        self._ask_after = now + PAUSE
        return True

    async def _ask(self, client_id: ClientId, backend: MediaBackend) -> None:
        """Ask the backend, or join this client's open question; wait for the rest of PATIENCE.

        An unanswered question goes on, so that the client's next request finds its answer.
        """
        loop = asyncio.get_running_loop()
        if client_id not in self._asking:
            task = self._start(lambda: self._fetch(client_id, backend), f"ICE servers of {client_id}")
            self._asking[client_id] = task, loop.time()
            task.add_done_callback(lambda _: self._asking.pop(client_id, None))
        task, began = self._asking[client_id]
        await asyncio.wait((task,), timeout=max(0.0, began + PATIENCE - loop.time()))
        if not task.done():
            self._note_failure(f"no answer within {PATIENCE:g} s")
        elif self._fresh(client_id) is None and not self._is_failing:
            self._note_failure("no usable answer")  # a fault of the adapter, which the log has already

    async def _fetch(self, client_id: ClientId, backend: MediaBackend) -> None:
        asked_at = self._clock()
        try:
            found = await backend.ice_servers()
        except SignalManagerError as error:
            self._note_failure(error.message)
            return
        self._is_failing = False
        end = found.expires_at
        renew_at = float("inf") if end is None else end - FRESH * (end - asked_at)
        servers = IceServers(servers=found.servers or self._stun, expires_at=end)
        self._known[client_id] = _Known(servers, renew_at)
        self._known.move_to_end(client_id)
        while len(self._known) > CAPACITY:
            self._known.popitem(last=False)

    def _note_failure(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        self._is_failing = True
        self._ask_after = max(self._ask_after, now + PAUSE)
        self._unlogged += 1
        if now >= self._warned_at + WARN_EVERY:
            log.warning("no TURN servers from the media backend", reason=reason, failures=self._unlogged)
            self._warned_at = now
            self._unlogged = 0
