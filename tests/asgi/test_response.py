"""What is written, as h11 reads it: an HTTP implementation that is not ours."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.asgi.response import ResponseError, ResponseWriter, plain

Headers = list[tuple[bytes, bytes]]


def written(
    status: int,
    headers: Headers,
    *pieces: bytes,
    is_head: bool = False,
    can_chunk: bool = True,
    keep_alive: bool = True,
) -> bytes:
    writer = ResponseWriter(is_head=is_head, can_chunk=can_chunk, keep_alive=keep_alive)
    parts = writer.start(status, headers, now=0)
    for index, piece in enumerate(pieces):
        parts += writer.body(piece, is_last=index == len(pieces) - 1)
    assert writer.is_complete
    return b"".join(parts)


def read(sent: bytes, *, method: bytes = b"GET", at_end: bool = False) -> tuple[h11.Response, bytes, bool]:
    """Return the response, its body, and whether the connection goes on; `at_end` closes it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(sent)
    if at_end:
        client.receive_data(b"")
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return response, body, client.their_state is h11.DONE


@pytest.mark.parametrize("has_length", [False, True])
@given(pieces=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_h11_reads_the_same_body(has_length: bool, pieces: list[bytes]) -> None:
    length = [(b"Content-Length", str(sum(map(len, pieces))).encode())] if has_length else []

    response, body, goes_on = read(written(200, [*length, (b"x-thing", b"1")], *pieces))

    assert (response.status_code, response.reason, body, goes_on) == (200, b"OK", b"".join(pieces), True)
    assert (b"x-thing", b"1") in response.headers
    assert dict(response.headers)[b"date"] == b"Thu, 01 Jan 1970 00:00:00 GMT"


def test_an_old_client_reads_to_the_end_of_the_connection() -> None:
    sent = written(200, [], b"some", b"thing", can_chunk=False)

    response, body, goes_on = read(sent, at_end=True)

    assert (body, goes_on) == (b"something", False)
    assert b"chunked" not in sent
    assert dict(response.headers)[b"connection"] == b"close"


@pytest.mark.parametrize(("is_head", "status"), [(True, 200), (False, 204), (False, 304)])
def test_a_response_without_a_body_has_none(is_head: bool, status: int) -> None:
    sent = written(status, [(b"content-length", b"5")] if is_head else [], b"", is_head=is_head)

    _, body, goes_on = read(sent, method=b"HEAD" if is_head else b"GET")

    assert (body, goes_on) == (b"", True)


def test_the_body_of_a_response_to_head_is_left_out() -> None:
    assert written(200, [(b"content-length", b"5")], b"hello", is_head=True).endswith(b"\r\n\r\n")


def test_the_application_may_end_the_connection() -> None:
    writer = ResponseWriter(is_head=False, can_chunk=True, keep_alive=True)
    sent = writer.start(200, [(b"content-length", b"0"), (b"connection", b"close")], now=0) + writer.body(
        b"", is_last=True
    )

    assert not writer.keep_alive
    assert b"".join(sent).count(b"connection") == 1


def test_a_head_of_known_length_is_written_with_its_body_and_another_one_at_once() -> None:
    whole = ResponseWriter(is_head=False, can_chunk=True, keep_alive=True)
    stream = ResponseWriter(is_head=False, can_chunk=True, keep_alive=True)

    assert whole.start(200, [(b"content-length", b"2")], now=0) == []
    assert len(whole.body(b"ok", is_last=True)) == 2
    assert stream.start(200, [], now=0)[0].startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nSet-Cookie: b"),
        (b"x", b"a\nb"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b"content-length", b"-1"),
        (b"content-length", b"1_0"),
    ],
)
def test_a_header_cannot_become_two(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ResponseError):
        written(200, [header], b"")


@pytest.mark.parametrize(
    ("status", "headers", "pieces"),
    [
        (200, [(b"content-length", b"3")], [b"four"]),
        (200, [(b"content-length", b"3")], [b"2", b"2"]),
        (204, [], [b"x"]),
        (100, [], [b""]),
        (200, [(b"content-length", b"1"), (b"content-length", b"1")], [b"1"]),
    ],
)
def test_an_application_that_breaks_the_rules_is_told(status: int, headers: Headers, pieces: list[bytes]) -> None:
    with pytest.raises(ResponseError):
        written(status, headers, *pieces)


def test_a_response_has_one_head_and_one_end() -> None:
    writer = ResponseWriter(is_head=False, can_chunk=True, keep_alive=True)
    with pytest.raises(ResponseError, match=r"expected http\.response\.start first"):
        writer.body(b"", is_last=True)
    writer.start(200, [], now=0)
    with pytest.raises(ResponseError, match="second"):
        writer.start(200, [], now=0)
    writer.body(b"", is_last=True)
    with pytest.raises(ResponseError, match="over"):
        writer.body(b"", is_last=True)


def test_the_date_changes_with_the_second() -> None:
    dates = [dict(read(plain(400, "no", now=now))[0].headers)[b"date"] for now in (1.0, 1.9, 2.0)]

    assert [one == other for one, other in pairwise(dates)] == [True, False]


def test_a_refusal_is_a_whole_response() -> None:
    response, body, goes_on = read(plain(400, "no", now=0))

    assert (response.status_code, body, goes_on) == (400, b"no", False)
