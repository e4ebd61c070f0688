"""What nats-server sends, and what it is sent, as bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_manager.bus.nats import protocol
from signal_manager.bus.nats.protocol import (
    MAX_LINE,
    MAX_PAYLOAD,
    Arrival,
    Complaint,
    Control,
    Event,
    Info,
    NatsProtocolError,
    Parser,
    SignIn,
)

WORDS = st.text("abcXYZ019._~@+=-\x0bü€", min_size=1, max_size=40)
NUMBERS = st.integers(1, 2**40).map(lambda number: b"%d" % number)
PAYLOADS = st.one_of(st.binary(max_size=60), st.sampled_from([b"\r\n", b"MSG a 1 0\r\n\r\n", b"PING\r\n"]))
ARRIVALS = st.builds(Arrival, NUMBERS, WORDS, st.just("") | WORDS, PAYLOADS, st.booleans())
COMPLAINTS = st.builds(Complaint, st.text("abc XYZ", min_size=1).map(str.strip))
INFOS = st.builds(
    Info,
    max_payload=st.integers(0, 2**31),
    auth_required=st.booleans(),
    headers=st.booleans(),
    nonce=st.text(max_size=8),
    connect_urls=st.none() | st.lists(WORDS, max_size=3),
)
EVENTS = st.lists(ARRIVALS | COMPLAINTS | INFOS | st.sampled_from(Control), max_size=6)


def written(event: Event, *, with_head: bool = False) -> bytes:
    """Return what nats-server would send."""
    match event:
        case Control():
            return event.value + b"\r\n"
        case Complaint():
            return b"-ERR '%b'\r\n" % event.reason.encode()
        case Info():
            fields = {name: getattr(event, name) for name in event.__struct_fields__}
            return b"INFO %b \r\n" % json.dumps(fields).encode()
        case Arrival():
            names = [event.subject.encode(), event.number] + ([event.reply.encode()] if event.reply else [])
            head = b"NATS/1.0 503\r\n\r\n" if event.is_unheard else b"NATS/1.0\r\nA: b\r\n\r\n" if with_head else b""
            sizes = ([b"%d" % len(head)] if head else []) + [b"%d" % (len(head) + len(event.data))]
            first = b" ".join([b"HMSG" if head else b"MSG", *names, *sizes])
            return first + b"\r\n" + head + event.data + b"\r\n"


def fed(data: bytes, cuts: list[int]) -> list[Event]:
    """Return the events of what comes in pieces."""
    parser, events, start = Parser(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        events += parser.feed(data[start:cut])
        start = max(start, cut)
    return events


@given(EVENTS, st.booleans(), st.data())
def test_every_event_is_read_however_the_network_cuts_it(
    events: list[Event], with_head: bool, data: st.DataObject
) -> None:
    stream = b"".join(written(event, with_head=with_head) for event in events)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))

    assert fed(stream, cuts) == events
    assert fed(stream, list(range(len(stream)))) == events


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=5))
@example(b"MSG a 1 -10\r\n\r\n", [])
@example(b"INFO " + b"[" * 100_000 + b"\r\n", [])
def test_any_bytes_are_read_or_refused(data: bytes, cuts: list[int]) -> None:
    try:
        events = Parser().feed(data)
    except NatsProtocolError:
        return

    assert fed(data, [min(cut, len(data)) for cut in cuts]) == events


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"ping\r\n",
        b"MSG\r\n",
        b"MSG a 5\r\nhello\r\n",
        b"MSG a 1 r x 5\r\nhello\r\n",
        b"MSG a 1 x\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 %d\r\n" % (MAX_PAYLOAD + 1),
        b"MSG a 1 " + b"9" * 5000 + b"\r\n",
        b"MSG a 1 5\r\nhello!\r\n",
        b"MSG a 1 5\r\nhello\n\n",
        b"HMSG a 1 5\r\nhello\r\n",
        b"HMSG a 1 6 5\r\nhello\r\n",
        b"HMSG a 1 -1 5\r\nhello\r\n",
        b"HMSG a 1 " + b"9" * 5000 + b" 5\r\nhello\r\n",
        b"HMSG a 1 r s 2 5\r\nhello\r\n",
        b"INFO {\r\n",
        b"INFO \xff\r\n",
        b"INFO []\r\n",
        b'INFO {"max_payload": -1}\r\n',
        b'INFO {"connect_urls": [1]}\r\n',
        b"PING" + b" " * MAX_LINE + b"\r\n",
        b"x" * (MAX_LINE + 2),
    ],
)
def test_what_is_no_nats_is_refused(data: bytes) -> None:
    with pytest.raises(NatsProtocolError):
        Parser().feed(data)


def test_an_error_shows_what_came_and_no_more_than_its_beginning() -> None:
    with pytest.raises(NatsProtocolError, match=r"expected a line of NATS, got 'HTTP/1\.1 400 x{27}'$"):
        Parser().feed(b"HTTP/1.1 400 " + b"x" * 1000 + b"\r\n")


def test_a_line_without_end_is_not_kept() -> None:
    parser = Parser()
    assert parser.feed(b"x" * MAX_LINE) == []
    assert parser.feed(b"\r") == []

    with pytest.raises(NatsProtocolError, match="expected at most 65536"):
        parser.feed(b"x")


def test_the_longest_line_is_read() -> None:
    line = b"-ERR " + b"x" * (MAX_LINE - 5) + b"\r\n"

    for cuts in ([], [MAX_LINE], [MAX_LINE + 1]):
        assert fed(line, cuts) == [Complaint("x" * (MAX_LINE - 5))]


def test_a_message_in_many_pieces_is_put_together_once() -> None:
    """Else a message of a megabyte would be copied with each of them."""
    parser, payload = Parser(), bytes(2**20)
    parser.feed(b"MSG a 1 %d\r\n" % len(payload))

    for start in range(0, len(payload), 4096):
        assert parser.feed(payload[start : start + 4096]) == []
    assert len(parser._parts) == 1 + len(payload) // 4096

    assert parser.feed(b"\r\n") == [Arrival(b"1", "a", "", payload)]
    assert parser.feed(b"PING\r\n") == [Control.PING]


@pytest.mark.parametrize(
    ("reason", "is_about_permissions", "is_about_identity"),
    [
        ("Authorization Violation", False, True),
        ("User Authentication Expired", False, True),
        ("Authentication Timeout", False, False),
        ('Permissions Violation for Publish to "a"', True, False),
        ("maximum connections exceeded", False, False),
    ],
)
def test_complaints_say_what_they_mean_for_the_connection(
    reason: str, is_about_permissions: bool, is_about_identity: bool
) -> None:
    complaint = Complaint(reason)

    assert complaint.is_about_permissions is is_about_permissions
    assert complaint.is_about_identity is is_about_identity


def connected(sign_in: SignIn, info: Info) -> dict[str, Any]:
    line = protocol.connect(info, name="n", version="1", sign_in=sign_in)
    assert line.startswith(b"CONNECT ")
    assert line.find(b"\r\n") == len(line) - 2
    options: dict[str, Any] = json.loads(line.removeprefix(b"CONNECT "))
    return options


@given(st.text(), st.text(), st.text())
def test_whatever_a_secret_holds_it_is_one_line(user: str, password: str, token: str) -> None:
    try:
        (user + password + token).encode()
    except UnicodeEncodeError:
        return

    options = connected(SignIn(user=user, password=password, token=token), Info())

    assert (options.get("user", ""), options.get("pass", ""), options.get("auth_token", "")) == (user, password, token)


def test_a_node_sends_no_proof_that_it_does_not_have() -> None:
    assert not connected(SignIn(), Info()).keys() & {"user", "pass", "auth_token", "jwt", "nkey", "sig"}
    signed = connected(SignIn(jwt="j", nkey="U", signature="s"), Info())
    assert (signed["jwt"], signed["nkey"], signed["sig"]) == ("j", "U", "s")


@pytest.mark.parametrize("has_headers", [True, False])
def test_a_node_asks_for_headers_only_where_nats_server_has_them(has_headers: bool) -> None:
    options = connected(SignIn(), Info(headers=has_headers))

    assert options["headers"] is options["no_responders"] is has_headers
    assert options["echo"] is options["verbose"] is options["pedantic"] is False


def test_lines_to_nats_server() -> None:
    assert protocol.subscribe(b"a.*", b"7") == b"SUB a.* 7\r\n"
    assert protocol.unsubscribe(b"7") == b"UNSUB 7\r\n"
    assert protocol.PUBLISH % (b"a", b"r", 5) == b"PUB a r 5\r\n"
    assert protocol.PUBLISH % (b"a", b"", 5) == b"PUB a  5\r\n"


CREDENTIALS = (
    "-----BEGIN NATS USER JWT-----\nheader.claims.signature\n------END NATS USER JWT------\n\n"
    "************************* IMPORTANT *************************\n\n"
    "-----BEGIN USER NKEY SEED-----\nSUABCD\n------END USER NKEY SEED------\n"
)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_a_credentials_file_is_read(ending: str) -> None:
    content = CREDENTIALS.replace("\n", ending).encode()

    assert protocol.read_credentials(content) == protocol.Credentials("header.claims.signature", b"SUABCD")


def test_a_file_with_a_seed_alone_is_read() -> None:
    assert protocol.read_credentials(b"\nSUABCD\n") == protocol.Credentials("", b"SUABCD")


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"SU\nSU", b"-----BEGIN USER NKEY SEED-----\n", CREDENTIALS.replace("SU", "SA").encode()],
)
def test_a_file_without_a_users_seed_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected a credentials file") as caught:
        protocol.read_credentials(content)

    assert "nonsense" not in str(caught.value)
