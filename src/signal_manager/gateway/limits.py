"""How much of the service one client or one address may use: token buckets, counts and client addresses.

Pure: time comes in as `now`, a monotonic time in seconds, and every table is bounded. `listener`, `server` and
`connection` enforce what is counted here; docs/operations.md, "Limits", describes it for operators.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import msgspec

from signal_manager.errors import RateLimitedError
from signal_manager.gateway.rates import TokenBucket, Volume

__all__ = [
    "BEFORE_CONNECT",
    "HALF_OPEN",
    "PENDING_REQUESTS",
    "STRANGERS",
    "TURNED_AWAY",
    "AddressRate",
    "Allowance",
    "Buckets",
    "ClientAddress",
    "Holdings",
    "Limits",
    "Origins",
    "Sample",
    "Tally",
    "TrustedProxies",
    "Usage",
    "address_of",
    "is_forwarded",
    "is_from_this_machine",
    "names_this_machine",
    "near",
]

# Sockets that may be on their way to a WebSocket at one time, all addresses together: a restart brings every client
# back at once, and each of them takes a few round trips.
HALF_OPEN = 1024
# Connections without a right CONNECT that may be there at one time; where there are more, the oldest gives way. They
# are no part of max_connections, so that silent sockets keep no client out.
STRANGERS = 1024
# Lines of the log that all strangers together may cause in an interval (s): beyond that it tells only how many.
LOGGED_OF_STRANGERS = 100
LOG_INTERVAL = 10.0
# Connections beyond max_connections that may be there at one time to be told why; further ones get HTTP 503.
TURNED_AWAY = 64
# Requests of one connection that may wait for their answers at once: those about tracks can take many seconds.
PENDING_REQUESTS = 32
# The size of a message before CONNECT is accepted (bytes). A token is below 4 KiB, and a stranger needs no more.
BEFORE_CONNECT = 16_384
# Pings, pongs and fragments that a client may send per message of its rate. Each costs a fraction of a message, and
# a message of the largest size in fragments of a network packet's size must pass.
FRAMES_PER_MESSAGE = 64
# Of a minute's bytes, the part that may come at once. What one sender says in a burst must fit into what may wait for a
# receiver that is slow, or the receiver is closed for the sender's haste.
_BURST_PART = 16
# More messages per minute than anything can send.
UNLIMITED = 10**12

# How many addresses with failed authentications are remembered, and how many clients with their message rate.
_REMEMBERED = 20_000
# RFC 6177: a site is given a /64, all of which one machine can use, or a /56 or a /48 for networks of its own (bytes).
_SITES = (8, 7, 6)
# How much more than the one before each of these may have: many machines share it, or an attacker has all of it.
_GROWTH = 4
# What proxies add to requests, as the beginnings of headers' names.
_FORWARDING = (
    "forwarded",
    "via",
    "x-forwarded",
    "x-original-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-proxyuser-ip",
    "cf-connecting-ip",
    "client-ip",
    "true-client-ip",
)
# The number of proxies that are read from the end of the header. Entries before them are ignored.
_HOPS = 32
# How many addresses and names are remembered with what they are: many clients come from the same ones, and parsing one
# costs more than the rest of a handshake's checks. Longer texts are no address, and are not kept.
_PARSED = 4096
_LONGEST_ADDRESS = 64


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the service allows.

    `messages_per_minute` and `bytes_per_minute` of None are no limit; sizes are in bytes.
    """

    max_connections: int = 1000
    max_strangers: int = STRANGERS
    max_connections_per_address: int = 10
    messages_per_minute: int | None = 1000
    bytes_per_minute: int | None = 33_554_432
    largest_message: int = 1_048_576
    failed_auth_per_minute: int = 10
    connects_per_minute: int = 600
    outbound_queue_bytes: int = 1048576
    half_read_bytes: int = 268_435_456
    write_buffer_bytes: int = 8192


class Buckets:
    """A token bucket for each key; beyond 20,000 the one that was asked for longest ago is forgotten."""

    def __init__(self, per_minute: int, *, capacity: int = _REMEMBERED) -> None:
        self._per_minute = per_minute
        self._capacity = capacity
        self._buckets: OrderedDict[str | bytes, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: str | bytes, now: float) -> TokenBucket:
        """Return the bucket of `key`; one that was not asked for before is full."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._per_minute, now=now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def wait(self, key: str | bytes, now: float) -> float:
        """Return how many seconds it takes until `key` has a token."""
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else bucket.wait(now)


class ClientAddress(NamedTuple):
    """An address as it is logged, with the networks that it counts for, narrowest first.

    That is an IPv4 address by itself, and an IPv6 address with its /64, its /56 and its /48. `networks` is empty for
    loopback, which is not counted: behind a proxy on the same machine everyone comes from there.
    """

    text: str
    networks: tuple[bytes, ...]
    is_near: bool = False  # whether the client is certain to be on this machine


@lru_cache(_PARSED)
def address_of(text: str) -> ClientAddress:
    """Return what to call and how to count the address that a socket or a header has written as `text`."""
    address = _parse(text)
    if address is None:
        return ClientAddress("unknown", (b"",))
    if address.is_loopback:
        return ClientAddress(str(address), ())
    if address.version == 4:
        return ClientAddress(str(address), (address.packed,))
    return ClientAddress(str(address), tuple(address.packed[:size] for size in _SITES))


@lru_cache(_PARSED)
def near(address: ClientAddress) -> ClientAddress:
    """Return the address as that of a client that is certain to be on this machine; all its connections share it."""
    return address._replace(is_near=True)


HolderT = TypeVar("HolderT")


class Holdings(Generic[HolderT]):
    """The bytes of incomplete messages by holder; if all take too much, the largest holder gives way."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._held: dict[HolderT, int] = {}

    def hold(self, holder: HolderT, size: int) -> HolderT | None:
        """Set the bytes of a holder; return the largest holder if all take too much, and stop counting that one."""
        self.used += size - self._held.pop(holder, 0)
        if size:
            self._held[holder] = size
        if self.used <= self.limit:
            return None
        most = max(self._held, key=self._held.__getitem__)
        self.hold(most, 0)
        return most


class Tally:
    """How many connections each network has."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def has_room(self, address: ClientAddress, allowance: int) -> bool:
        """Return whether an address may have one more; its wider networks may have 4 and 16 times as many."""
        for network in address.networks:
            if self._counts.get(network, 0) >= allowance:
                return False
            allowance *= _GROWTH
        return True

    def enter(self, address: ClientAddress) -> None:
        """Count one more."""
        for network in address.networks:
            self._counts[network] = self._counts.get(network, 0) + 1

    def leave(self, address: ClientAddress) -> None:
        """Count one less."""
        for network in address.networks:
            if self._counts[network] > 1:
                self._counts[network] -= 1
            else:
                del self._counts[network]


class AddressRate:
    """How often each address may do something in a minute; its wider networks may do it 4 and 16 times as often."""

    def __init__(self, per_minute: int) -> None:
        self._levels = [Buckets(per_minute * _GROWTH**level) for level in range(len(_SITES))]

    def wait(self, address: ClientAddress, now: float) -> float:
        """Return how many seconds the address has to wait, normally 0.0."""
        longest = 0.0
        for buckets, network in zip(self._levels, address.networks, strict=False):
            longest = max(longest, buckets.wait(network, now))
        return longest

    def take(self, address: ClientAddress, now: float) -> None:
        """Count one."""
        for buckets, network in zip(self._levels, address.networks, strict=False):
            buckets.of(network, now).take(now)


def is_forwarded(headers: Iterable[str]) -> bool:
    """Return whether one of these header names shows that a proxy forwarded the request (RFC 7239, RFC 9110)."""
    return any(name.lower().startswith(_FORWARDING) for name in headers)


def names_this_machine(host: str) -> bool:
    """Return whether a Host header, or an Origin after its `://`, names the loopback interface."""
    return _names_loopback(host) if len(host) <= _LONGEST_ADDRESS else _names_loopback.__wrapped__(host)


@lru_cache(_PARSED)
def _names_loopback(host: str) -> bool:
    host = host.strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    address = _parse(name)
    return address is not None and address.is_loopback


def is_from_this_machine(headers: Sequence[tuple[str, str]], *, listens_beyond: bool) -> bool:
    """Return whether a request certainly comes from a program or a page of this machine.

    No proxy has forwarded it, and the page that it comes from, if any, belongs to this machine or to the service. Where
    only this machine can connect, the request must use a loopback name: otherwise a page whose name was made to point
    here (DNS rebinding) would pass for the service's own.
    """
    hosts = [value for name, value in headers if name.lower() == "host"]
    origins = [value for name, value in headers if name.lower() == "origin"]
    if is_forwarded(name for name, _ in headers) or len(hosts) != 1:
        return False
    if not listens_beyond and not names_this_machine(hosts[0]):
        return False
    pages = [origin.partition("://")[2] for origin in origins]
    return all(names_this_machine(page) or page.lower() == hosts[0].lower() for page in pages)


class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed.

    Args:
        networks: addresses and networks in CIDR notation.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def trusts(self, text: str) -> bool:
        """Return whether this address belongs to a trusted proxy."""
        address = _parse(text)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: Sequence[str]) -> ClientAddress:
        """Return the address of the client that sent a request.

        Each proxy appends the address that called it. The list is read from its end while the addresses are trusted
        proxies. Entries further left were written by the client and may be forged.

        Args:
            peer: the socket's other end.
            forwarded_for: the values of the X-Forwarded-For headers, in their order.
        """
        known = peer
        hops = ",".join(forwarded_for).rsplit(",", _HOPS)[-_HOPS:] if forwarded_for else []
        while hops and self.trusts(known):
            hop = _without_port(hops.pop().strip())
            if _parse(hop) is None:
                break
            known = hop
        return address_of(known)


class Usage:
    """What all connections of one process use together."""

    def __init__(self, limits: Limits) -> None:
        self.message_rate = limits.messages_per_minute or UNLIMITED
        self.byte_rate = limits.bytes_per_minute or UNLIMITED
        self._burst = max(self.byte_rate // _BURST_PART, limits.largest_message)
        # By client, so that a new connection is no new allowance.
        self.message_buckets = Buckets(self.message_rate)
        self._limits = limits
        self._seats = 0  # authenticated connections
        self._by_address = Tally()
        self._failures = AddressRate(limits.failed_auth_per_minute)
        self._connects = AddressRate(limits.connects_per_minute)

    def volume(self, now: float) -> Volume:
        """Return a new allowance of bytes."""
        return Volume(self.byte_rate, burst=self._burst, now=now)

    @property
    def is_full(self) -> bool:
        """Whether all seats are taken."""
        return self._seats >= self._limits.max_connections

    def enter(self, address: ClientAddress) -> str | None:
        """Count a new connection; return why there is no room for it, or None."""
        has_room = self._by_address.has_room(address, self._limits.max_connections_per_address)
        self._by_address.enter(address)
        if self.is_full:
            return "the service is full"
        return None if has_room else "too many connections from this address"

    def take_seat(self) -> bool:
        """Count an authenticated client; return whether there is a seat for it."""
        if self.is_full:
            return False
        self._seats += 1
        return True

    def leave(self, address: ClientAddress, *, has_seat: bool) -> None:
        """Count the end of a connection that has entered."""
        self._seats -= has_seat
        self._by_address.leave(address)

    def connect_wait(self, address: ClientAddress, now: float) -> float:
        """Return how many seconds an address has to wait after its many attempts, normally 0.0."""
        return self._connects.wait(address, now)

    def authentication_wait(self, address: ClientAddress, now: float) -> float:
        """Return how many seconds an address has to wait after its failed attempts, normally 0.0."""
        return self._failures.wait(address, now)

    def check_authentication(self, address: ClientAddress, now: float) -> None:
        """Count an attempt, and refuse an address with too many attempts or failures.

        Raises:
            RateLimitedError: the address has to wait.
        """
        wait = self.connect_wait(address, now)
        if wait:
            raise RateLimitedError("too many connections in a minute from this address", details=_retry_after(wait))
        self._connects.take(address, now)
        wait = self.authentication_wait(address, now)
        if wait:
            raise RateLimitedError("too many failed authentications", details=_retry_after(wait))

    def authentication_failed(self, address: ClientAddress, now: float) -> None:
        """Count a failed attempt."""
        self._failures.take(address, now)


class Sample:
    """Write a limited number of log lines about strangers in each interval, and count the others."""

    def __init__(self, *, lines: int = LOGGED_OF_STRANGERS, interval: float = LOG_INTERVAL) -> None:
        self._lines = lines
        self._interval = interval
        self._left = lines
        self._ends_at: float | None = None
        self._left_out: dict[str, int] = {}

    def takes(self, event: str, now: float) -> bool:
        """Return whether to write a line; a line that is not written is counted."""
        if self._ends_at is None:
            self._ends_at, self._left = now + self._interval, self._lines
        self._left -= 1
        if self._left >= 0:
            return True
        self._left_out[event] = self._left_out.get(event, 0) + 1
        return False

    def left_out(self, now: float) -> dict[str, int]:
        """Return how many of each line were left out, once the interval has ended; otherwise an empty table."""
        if self._ends_at is None or now < self._ends_at:
            return {}
        left_out, self._left_out, self._ends_at = self._left_out, {}, None
        return left_out


class Allowance:
    """What one connection may still send.

    The relay path counts `messages.left` and `volume.left` down by itself (`TokenBucket.left`, `Volume.left`).
    """

    __slots__ = ("_frames", "_patience", "_usage", "messages", "volume")

    def __init__(self, usage: Usage, *, now: float) -> None:
        self._usage = usage
        self.messages = TokenBucket(usage.message_rate, now=now)
        self.volume = usage.volume(now)
        # Both made when first needed: most connections send nothing but pongs, and never too much.
        self._frames: TokenBucket | None = None
        self._patience: TokenBucket | None = None

    def of_client(self, client_id: str, now: float) -> TokenBucket:
        """Use the client's bucket from now on, the same one on all its connections, and return it."""
        self.messages = bucket = self._usage.message_buckets.of(client_id, now)
        if bucket.volume is None:
            bucket.volume = self._usage.volume(now)
        self.volume = bucket.volume
        return bucket

    def refuse(self, now: float) -> RateLimitedError | None:
        """Return the refusal of a message that `messages.left` did not cover, or None if there is a token after all."""
        wait = self.messages.refill(now)
        if not wait:
            return None
        return RateLimitedError(
            f"more than {self._usage.message_rate} messages in a minute", details=_retry_after(wait)
        )

    def refuse_bytes(self, size: int, now: float) -> RateLimitedError | None:
        """Return the refusal of a message that `volume.left` did not cover, or None if there is room after all."""
        wait = self.volume.refill(size, now)
        if not wait:
            return None
        return RateLimitedError(f"more than {self._usage.byte_rate} bytes in a minute", details=_retry_after(wait))

    def is_insistent(self, now: float) -> bool:
        """Count a refused message; return whether there have been too many.

        As many may be refused as are allowed, so a client that sends twice its rate or more is cut off, sooner the
        more it sends.
        """
        if self._patience is None:
            self._patience = TokenBucket(self._usage.message_rate, now=now)
        return self._patience.take(now) > 0

    def has_too_many_frames(self, now: float) -> bool:
        """Count a frame that is no whole message; return whether there have been too many."""
        if self._frames is None:
            self._frames = TokenBucket(self._usage.message_rate * FRAMES_PER_MESSAGE, now=now)
        return self._frames.take(now) > 0


class Origins:
    """Which web pages may connect: those at an origin in the list, or any when "*" is in it."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(_normal_origin(origin) for origin in allowed)

    def allow(self, origins: Sequence[str]) -> bool:
        """Return whether a request with these Origin headers is allowed; only browsers send one (RFC 6454)."""
        return "*" in self._allowed or all(_normal_origin(origin) in self._allowed for origin in origins)


def _retry_after(wait: float) -> dict[str, float]:
    """Return ERROR's details: the wait in seconds, to the millisecond and never too short."""
    return {"retry_after": math.ceil(wait * 1000) / 1000}


def _normal_origin(origin: str) -> str:
    return origin.strip().rstrip("/").lower()


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    text = text.partition("%")[0]
    return _parsed(text) if len(text) <= _LONGEST_ADDRESS else None


@lru_cache(_PARSED)
def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket that listens on :: shows IPv4 clients this way.
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
