"""PURE: the bytes of one HTTP/1.1 response, from the messages of an ASGI application."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

__all__ = ["ResponseError", "ResponseWriter", "plain"]

# What would end a name or a value early, so that the rest of it becomes a header or a response of its own.
_FORBIDDEN_IN_NAME = re.compile(rb'[\x00-\x20\x7f-\xff()<>@,;:\\"/\[\]?={}]')
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS = frozenset({204, 304})


class ResponseError(RuntimeError):
    """The application broke the rules of ASGI or of HTTP."""


class ResponseWriter:
    """Write one response.

    Args:
        is_head: whether the request was HEAD, whose response has no body.
        can_chunk: whether the client knows chunks (HTTP/1.1); for others the end of the connection ends the body.
        keep_alive: whether the client expects further responses on this connection.
    """

    __slots__ = (
        "_chunks",
        "_held",
        "_is_bodiless",
        "_left",
        "can_chunk",
        "is_complete",
        "is_head",
        "is_started",
        "keep_alive",
    )

    def __init__(self, *, is_head: bool, can_chunk: bool, keep_alive: bool) -> None:
        self.is_head = is_head
        self.can_chunk = can_chunk
        self.keep_alive = keep_alive  # and after `start`, whether the connection goes on
        self.is_started = False
        self.is_complete = False
        self._is_bodiless = is_head
        self._chunks = False
        self._left: int | None = None  # bytes of the body that are still to come, where that is known
        self._held: bytes | None = None  # the head, which waits for the body that follows at once

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, now: float) -> list[bytes]:
        """Return the head, or nothing if its length is known: then it is written with the body.

        Raises:
            ResponseError: a header is invalid, or there is a head already.
        """
        if self.is_started:
            raise ResponseError("expected http.response.body, got a second http.response.start")
        lines, names = [_status_line(status)], set()
        for name, value in headers:
            lowered = name.lower()
            if not name or _FORBIDDEN_IN_NAME.search(name) or _FORBIDDEN_IN_VALUE.search(value):
                raise ResponseError(f"header {name!r} has a character that HTTP does not allow")
            if lowered == b"transfer-encoding":
                continue  # the server decides
            if lowered == b"content-length":
                if self._left is not None or not value.isdigit():
                    raise ResponseError(f"expected one content-length of digits, got {value!r}")
                self._left = int(value)
            elif lowered == b"connection" and b"close" in value.lower():
                self.keep_alive = False
                continue
            names.add(lowered)
            lines.append(b"%b: %b\r\n" % (lowered, value))
        self._is_bodiless = self._is_bodiless or status in _BODILESS
        is_held = self._is_bodiless or self._left is not None
        if not is_held:
            self._chunks = self.can_chunk
            self.keep_alive = self.keep_alive and self.can_chunk
        if b"date" not in names:
            lines.append(_date_line(int(now)))
        if self._chunks:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self.is_started = True
        head = b"".join(lines)
        if not is_held:
            return [head]
        self._held = head
        return []

    def body(self, data: bytes, *, is_last: bool) -> list[bytes]:
        """Return what to write for a piece of the body.

        Raises:
            ResponseError: there is no head yet, or the body is over, or its length is not what the head says.
        """
        if not self.is_started or self.is_complete:
            raise ResponseError("the body is over" if self.is_complete else "expected http.response.start first")
        parts = [self._held] if self._held is not None else []
        if self._is_bodiless:
            if data and not self.is_head:
                raise ResponseError(f"this status has no body, got {len(data)} bytes")
        elif self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (is_last and self._left):
                more_or_less = "longer" if self._left < 0 else "shorter"
                raise ResponseError(f"the body is {abs(self._left)} bytes {more_or_less} than content-length")
            parts += [data] if data else []
        elif self._chunks:
            parts += [b"%x\r\n" % len(data), data, b"\r\n"] if data else []
            parts += [b"0\r\n\r\n"] if is_last else []
        elif data:
            parts.append(data)
        self._held = None
        self.is_complete = is_last
        return parts


def plain(status: int, text: str, *, now: float) -> bytes:
    """Return a whole response of the server's own, which ends the connection."""
    writer = ResponseWriter(is_head=False, can_chunk=True, keep_alive=False)
    body = text.encode("ascii")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    return b"".join(writer.start(status, headers, now=now) + writer.body(body, is_last=True))


_status_lines: dict[int, bytes] = {}
_date = (-1, b"")


def _status_line(status: int) -> bytes:
    if status not in _status_lines:
        if not 200 <= status <= 999:  # RFC 9110, section 15; 1xx is for the server
            raise ResponseError(f"expected a status from 200 to 999, got {status}")
        phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
        _status_lines[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")
    return _status_lines[status]


def _date_line(second: int) -> bytes:
    global _date  # noqa: PLW0603 - one text for all responses of a second
    if _date[0] != second:
        _date = second, b"date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
    return _date[1]
