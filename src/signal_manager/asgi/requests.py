"""PURE: HTTP/1.1 requests from bytes, with a bound on each part of a head, on httptools."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import unquote

import httptools

__all__ = ["BadRequestError", "Request", "RequestReader", "RequestSink"]

# The most bytes of a head, of a chunk's head and of trailers, each; and the most headers of a request.
_MAX_HEAD = 65_536
_MAX_HEADERS = 128


class BadRequestError(Exception):
    """The client's bytes are no request that this server takes; the text is for the client."""


class Request:
    """The head of a request."""

    __slots__ = (
        "expects_continue",
        "headers",
        "http_version",
        "keep_alive",
        "method",
        "path",
        "query_string",
        "raw_path",
    )

    def __init__(self, method: str, url: bytes, http_version: str, *, keep_alive: bool) -> None:
        parsed = httptools.parse_url(url)
        self.method = method
        self.raw_path: bytes = parsed.path
        path = self.raw_path.decode("ascii")
        self.path = unquote(path) if "%" in path else path
        self.query_string: bytes = parsed.query or b""
        self.http_version = http_version
        self.keep_alive = keep_alive  # whether the client expects further responses on this connection
        self.expects_continue = False
        self.headers: list[tuple[bytes, bytes]] = []

    def scope(self) -> dict[str, Any]:
        """Return the request's part of an ASGI scope."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.http_version,
            "scheme": "http",
            "root_path": "",
            "method": self.method,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query_string,
            "headers": self.headers,
        }


class RequestSink(Protocol):
    """What takes the requests, in the order in which they come."""

    def head_arrived(self, request: Request) -> None:
        """Take the head of a request; a BadRequestError ends the connection."""

    def body_arrived(self, data: bytes) -> None:
        """Take a piece of the body of the last request."""

    def request_arrived(self) -> None:
        """Take note that the last request is whole."""


class RequestReader:
    """Read the requests of one connection."""

    __slots__ = ("_headers", "_is_in_body", "_is_over", "_keep_alive", "_parser", "_sink", "_unread", "_url")

    def __init__(self, sink: RequestSink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_in_body = False
        self._keep_alive = True
        self._is_over = False  # no request can follow the last one
        self._unread = 0  # bytes since the last part that was whole

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            BadRequestError: the client sent no valid request, or one beyond the bounds.
        """
        if self._is_over:
            return
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_over = True  # what follows is for a protocol that this server does not speak
        except httptools.HttpParserError as error:
            if self._is_over:  # what follows a last request is no error of that one
                return
            cause = error.__context__
            text = str(cause) if isinstance(cause, BadRequestError) else "this is no valid HTTP request"
            raise BadRequestError(text) from error
        if self._unread > _MAX_HEAD:
            raise BadRequestError(f"the head of the request is too large, expected at most {_MAX_HEAD} bytes")

    # -- what httptools calls ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request; `feed` passes over what follows the last one."""
        if self._is_over:
            raise BadRequestError("the connection is over")
        self._url, self._headers, self._is_in_body = b"", [], False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers count, and the application does not see them."""
        if len(self._headers) >= _MAX_HEADERS:
            raise BadRequestError(f"too many headers, expected at most {_MAX_HEADERS}")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Pass the head on."""
        parser = self._parser
        version = parser.get_http_version()
        # An upgrade is not what this server does: it answers the request as any other, and no other follows it.
        self._keep_alive = version != "1.0" and parser.should_keep_alive() and not parser.should_upgrade()
        try:
            request = Request(parser.get_method().decode("ascii"), self._url, version, keep_alive=self._keep_alive)
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
            raise BadRequestError("the URL of the request is not valid") from error
        request.headers = self._headers[:]
        request.expects_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers
        )
        self._unread = 0
        self._sink.head_arrived(request)

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        self._unread = 0
        self._sink.body_arrived(body)

    def on_message_complete(self) -> None:
        """Pass the end of the request on."""
        self._unread = 0
        self._is_over = not self._keep_alive
        self._sink.request_arrived()
