"""The NATS client protocol as bytes: `Parser` reads what nats-server sends, the rest writes what a node sends.

Pure: no socket and no clock. `connection.py` moves the bytes. The protocol is described at
https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

__all__ = [
    "CRLF",
    "MAX_LINE",
    "MAX_PAYLOAD",
    "PING",
    "PONG",
    "PUBLISH",
    "Arrival",
    "Complaint",
    "Control",
    "Credentials",
    "Event",
    "Info",
    "NatsProtocolError",
    "Parser",
    "SignIn",
    "connect",
    "read_credentials",
    "subscribe",
    "unsubscribe",
]

# Bytes of a line, without what ends it. A MSG line has 4 KB unless nats-server's `max_control_line` says otherwise; an
# INFO line names every server of the cluster.
MAX_LINE = 64 * 1024
# Bytes of a message: nats-server's `max_payload` cannot be larger than its `max_pending`, which is 64 MB.
MAX_PAYLOAD = 64 * 1024 * 1024

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"
_CR, _LF = CRLF
# Takes subject, reply subject or nothing, and the payload's length. The payload and CRLF follow. A function would cost
# each message a call.
PUBLISH = b"PUB %b %b %d\r\n"

_NO_RESPONDERS = b"NATS/1.0 503"
# The most bytes of a wrong line that an error shows.
_SHOWN = 40


class NatsProtocolError(Exception):
    """The other side does not speak NATS, or exceeds a bound; the connection cannot be used any more."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message to the subscription with this number.

    `is_unheard` marks nats-server's own answer to a request that no subscription takes ("no responders").
    """

    number: bytes
    subject: str
    reply: str
    data: bytes
    is_unheard: bool = False


class Info(msgspec.Struct, frozen=True):
    """nats-server's description of itself, its first message; it comes again when the cluster changes."""

    max_payload: Annotated[int, msgspec.Meta(ge=0)] = 1024 * 1024
    auth_required: bool = False
    tls_required: bool = False
    tls_available: bool = False
    tls_verify: bool = False
    headers: bool = False
    nonce: str = ""
    connect_urls: list[str] | None = None


class Complaint(msgspec.Struct, frozen=True):
    """A complaint of nats-server: `-ERR`."""

    reason: str

    @property
    def is_about_permissions(self) -> bool:
        """Whether it concerns only one subject, so that nats-server keeps the connection."""
        return "permissions violation" in self.reason.lower()

    @property
    def is_about_identity(self) -> bool:
        """Whether nats-server refuses the credentials. A node that was only slow may try again."""
        reason = self.reason.lower()
        return ("authorization" in reason or "authentication" in reason) and "timeout" not in reason


class Control(Enum):
    """A line without content."""

    PING = b"PING"
    PONG = b"PONG"
    OK = b"+OK"


Event: TypeAlias = Arrival | Info | Complaint | Control

_CONTROLS = {control.value: control for control in Control}
_INFO = msgspec.json.Decoder(Info)


class Parser:
    """Turn bytes into events; one parser for one connection."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the beginning of an incomplete line or message
        self._size = 0  # bytes in `_parts`
        self._needed = 0  # no event can be complete before `_size` reaches this

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes, in their order.

        Raises:
            NatsProtocolError: what came is not NATS, or exceeds a bound. Events before it in `data` are lost.
        """
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        events: list[Event] = []
        start, end = 0, len(data)
        # This loop runs for each message of other nodes, so it calls as little as possible.
        while start < end:
            line_end = data.find(CRLF, start)
            if line_end < 0 or line_end - start > MAX_LINE:
                self._keep_line(data, start)
                break
            words = data[start:line_end].split(b" ")
            begin = line_end + 2
            kind = words[0]
            if kind != b"MSG" and kind != b"HMSG":  # noqa: PLR1714 - a tuple costs more
                events.append(_control(data[start:line_end]))
                start = begin
                continue
            try:
                size = int(words[-1])
            except ValueError:
                size = -1
            if not 0 <= size <= MAX_PAYLOAD:
                raise NatsProtocolError(f"a message has {_shown(words[-1])} bytes, expected 0 to {MAX_PAYLOAD}")
            after = begin + size
            if after + 2 > end:
                self._keep(data, start, after + 2)
                break
            if data[after] != _CR or data[after + 1] != _LF:
                raise NatsProtocolError(f"a message does not end after its {size} bytes")
            start = after + 2
            payload = data[begin:after]
            if kind == b"MSG" and len(words) == 5:  # most messages
                _, subject, number, reply, _ = words
                events.append(
                    Arrival(number, subject.decode("utf-8", "replace"), reply.decode("utf-8", "replace"), payload)
                )
            else:
                events.append(_message(words, payload))
        return events

    def _keep_line(self, data: bytes, start: int) -> None:
        """Keep a line that is not complete."""
        length = len(data) - start
        if length > MAX_LINE + 1:  # its CR may be there already
            raise NatsProtocolError(f"a line has {length} bytes or more, expected at most {MAX_LINE}")
        self._keep(data, start, len(data) + 1)

    def _keep(self, data: bytes, start: int, needed: int) -> None:
        """Keep what is not complete, until there are `needed` bytes of `data`."""
        rest = data[start:]
        self._parts.append(rest)
        self._size = len(rest)
        self._needed = needed - start


def _message(words: list[bytes], payload: bytes) -> Arrival:
    """Return the message of `MSG subject number [reply] size` or `HMSG subject number [reply] head_size size`."""
    kind, *rest = words[:-1]
    if kind == b"MSG" and len(rest) == 2:
        return Arrival(rest[1], _text(rest[0]), "", payload)
    if kind == b"HMSG" and len(rest) in {3, 4} and rest[-1].isdigit():
        # Nodes write no head. The status in nats-server's own is all that matters.
        head_size = int(rest[-1]) if len(rest[-1]) < 10 else MAX_PAYLOAD + 1
        if head_size <= len(payload):
            is_unheard = payload.startswith(_NO_RESPONDERS, 0, head_size)
            reply = _text(rest[2]) if len(rest) == 4 else ""
            return Arrival(rest[1], _text(rest[0]), reply, payload[head_size:], is_unheard)
    raise NatsProtocolError(f"expected a message, got {_shown(b' '.join(words))}")


def _control(line: bytes) -> Event:
    control = _CONTROLS.get(line)
    if control is not None:
        return control
    if line.startswith(b"-ERR"):
        return Complaint(_text(line[4:]).strip().strip("'"))
    if line.startswith(b"INFO "):
        try:
            return _INFO.decode(line[5:])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise NatsProtocolError(f"INFO is wrong: {error}") from None
    raise NatsProtocolError(f"expected a line of NATS, got {_shown(line)}")


def _text(subject: bytes) -> str:
    """Return a subject, which need not be UTF-8: every client of the same nats-server may choose one."""
    return subject.decode(errors="replace")


def _shown(line: bytes) -> str:
    """Return the beginning of a wrong line, for an error."""
    return ascii(_text(line[:_SHOWN]))


class SignIn(NamedTuple):
    """The credentials of a node; empty fields are not sent."""

    user: str = ""
    password: str = ""
    token: str = ""
    jwt: str = ""
    nkey: str = ""
    signature: str = ""


def connect(info: Info, *, name: str, version: str, sign_in: SignIn) -> bytes:
    """Return the first line to nats-server (CONNECT): the credentials and the options.

    Args:
        info: what nats-server has said.
        name: shown by nats-server to its operators.
        version: of this service.
        sign_in: the credentials of this node.
    """
    proofs = {
        "user": sign_in.user,
        "pass": sign_in.password,
        "auth_token": sign_in.token,
        "jwt": sign_in.jwt,
        "nkey": sign_in.nkey,
        "sig": sign_in.signature,
    }
    options = {
        "verbose": False,
        "pedantic": False,
        "lang": "python",
        "version": version,
        "protocol": 1,  # INFO may come again
        "echo": False,
        "headers": info.headers,
        "no_responders": info.headers,
        "name": name,
        **{key: value for key, value in proofs.items() if value},
    }
    return b"CONNECT %b\r\n" % msgspec.json.encode(options)


def subscribe(subject: bytes, number: bytes) -> bytes:
    """Return the line that begins a subscription; `number` is unique on this connection."""
    return b"SUB %b %b\r\n" % (subject, number)


def unsubscribe(number: bytes) -> bytes:
    """Return the line that ends a subscription."""
    return b"UNSUB %b\r\n" % number


class Credentials(NamedTuple):
    """What a credentials file holds: the user's token, empty where nats-server knows its key, and the key's seed."""

    jwt: str
    seed: bytes


def read_credentials(content: bytes) -> Credentials:
    """Read a credentials file (`nsc generate creds`), or a file with nothing but the seed of a user's key.

    Raises:
        ValueError: there is no seed in it.
    """
    lines = [line.strip() for line in content.splitlines()]
    lines = [line for line in lines if line]
    following = dict(pairwise(lines))
    jwt = next((value for line, value in following.items() if b"BEGIN NATS USER JWT" in line), b"")
    seed = next((value for line, value in following.items() if b"BEGIN USER NKEY SEED" in line), b"")
    if len(lines) == 1 and not seed:
        seed = lines[0]
    if not seed.startswith(b"SU"):
        raise ValueError("expected a credentials file with the seed of a user's key, which begins with SU")
    return Credentials(jwt.decode("ascii", errors="replace"), seed)
