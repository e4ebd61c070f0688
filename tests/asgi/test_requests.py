"""Requests from bytes, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.asgi.requests import BadRequestError, Request, RequestReader

HEAD = b"GET /a%20b?c=%64 HTTP/1.1\r\nHost: x\r\nX-Thing: 1\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Arrived:
    """Notes what arrives."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.whole = 0

    def head_arrived(self, request: Request) -> None:
        self.requests.append(request)
        self.bodies.append(b"")

    def body_arrived(self, data: bytes) -> None:
        self.bodies[-1] += data

    def request_arrived(self) -> None:
        self.whole += 1


def read(*pieces: bytes) -> Arrived:
    arrived = Arrived()
    reader = RequestReader(arrived)
    for piece in pieces:
        reader.feed(piece)
    return arrived


def refusal(*pieces: bytes) -> str:
    with pytest.raises(BadRequestError) as raised:
        read(*pieces)
    return str(raised.value)


def test_a_head_becomes_a_scope() -> None:
    (request,) = read(HEAD).requests

    assert request.scope() == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "method": "GET",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=%64",
        "headers": [(b"host", b"x"), (b"x-thing", b"1")],
    }


@given(st.lists(st.integers(1, 200), max_size=8))
def test_it_does_not_matter_how_bytes_are_cut(cuts: list[int]) -> None:
    sent = HEAD + CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n" + HEAD
    places = sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})

    arrived = read(*(sent[begin:end] for begin, end in pairwise([*places, len(sent)])))

    assert arrived.bodies == [b"", b"abcde", b""]
    assert arrived.whole == 3
    assert [name for name, _ in arrived.requests[1].headers] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("line", "headers", "keeps"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", False),
    ],
)
def test_the_last_request_of_a_connection_is_known_and_what_follows_is_left_out(
    line: bytes, headers: bytes, keeps: bool
) -> None:
    arrived = read(line + b"\r\nHost: x\r\n" + headers + b"\r\n" + HEAD, HEAD)

    assert arrived.requests[0].keep_alive is keeps
    assert len(arrived.requests) == (3 if keeps else 1)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n bad : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \x00\r\n\r\n",
        CHUNKED + b"zz\r\n",
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused(sent: bytes) -> None:
    assert refusal(sent) == "this is no valid HTTP request"


@pytest.mark.parametrize("url", [b"http://", b"x:1", b"http://[/"])
def test_a_strange_url_is_refused(url: bytes) -> None:
    assert "valid" in refusal(b"GET " + url + b" HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    "begin",
    [b"GET /", b"GET / HTTP/1.1\r\nX: ", CHUNKED + b"1;", CHUNKED + b"0\r\nTrailer: "],
    ids=["url", "header", "chunk extension", "trailer"],
)
def test_no_part_of_a_head_is_without_bound(begin: bytes) -> None:
    assert "too large" in refusal(begin, *[b"a" * 8192] * 9)


def test_a_body_may_be_larger_than_a_head() -> None:
    arrived = read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n", *[b"b" * 40_000] * 10)

    assert len(arrived.bodies[0]) == 400_000
    assert arrived.whole == 1


def test_headers_and_trailers_are_counted_together() -> None:
    assert "too many headers" in refusal(CHUNKED + b"0\r\n" + b"X: y\r\n" * 200)
