"""RFC 6455, rule by rule: the cases of the Autobahn test suite's sections 1 to 7, 9 and 10, with its numbers.

Where that suite wants an echo, Mallory sends a message to herself. Sections 8 (a client's, not a server's), 11 and 12
to 13 (compression, which the service never agrees to; see `test_abuse.py`) have no case that applies.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from tests.integration.attack import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RudeClient,
    close_frame,
    to_self,
    wire,
)
from tests.integration.conftest import ServiceWith

V2, JSON = "signal-manager.v2", "signal-manager.json"
ALIVE = 0  # in place of a close code
REFUSED = "ERROR 400"  # in place of what a text connection hears itself say


def text_to_self(data: str | bytes) -> bytes:
    """Return Mallory's message to herself on a text connection."""
    said = data.encode() if isinstance(data, str) else data
    return b'{"type":"SIGNAL_MESSAGE","payload":{"target_client_id":"mallory","signal_data":"%b"}}' % said


def sized(size: int) -> bytes:
    """Return a message to herself of exactly this size."""
    return to_self(b"*" * (size - len(to_self(b""))))


class Case(NamedTuple):
    """Frames as they are sent, what comes back, and how it ends: ALIVE or a close code.

    `answers` that are a str are what a text connection hears itself say. `piece` cuts what is sent.
    """

    number: str
    sent: list[bytes]
    answers: list[Frame | str]
    end: int
    subprotocol: str = V2
    piece: int = 0


def echoed(message: bytes) -> Frame:
    return Frame(BINARY, message)


HELLO = to_self(b"hello")
FIRST, SECOND = HELLO[:20], HELLO[20:]
LARGEST = 1048576


def in_frames(message: bytes, size: int, opcode: int = BINARY) -> list[bytes]:
    starts = range(0, len(message), size)
    return [
        wire(CONTINUATION if start else opcode, message[start : start + size], final=start == starts[-1])
        for start in starts
    ]


FRAMING = [
    *(
        Case(f"1.1.{number}", [wire(TEXT, text_to_self("*" * size))], ["*" * size], ALIVE, JSON)
        for number, size in enumerate((0, 125, 126, 127, 128, 65_400, 66_000), start=1)
    ),
    Case("1.1.8", [wire(TEXT, text_to_self("*" * 66_000))], ["*" * 66_000], ALIVE, JSON, piece=997),
    *(
        Case(f"1.2.{number}", [wire(BINARY, sized(size))], [echoed(sized(size))], ALIVE)
        for number, size in enumerate((len(to_self(b"")), 125, 126, 127, 128, 65_535, 65_536), start=1)
    ),
    Case("1.2.8", [wire(BINARY, sized(65_536))], [echoed(sized(65_536))], ALIVE, piece=997),
]

PINGS = [
    Case("2.1", [wire(PING)], [Frame(PONG, b"")], ALIVE),
    Case("2.2", [wire(PING, b"Hello, world!")], [Frame(PONG, b"Hello, world!")], ALIVE),
    Case("2.3", [wire(PING, b"\x00\xff\xfe\xfd")], [Frame(PONG, b"\x00\xff\xfe\xfd")], ALIVE),
    Case("2.4", [wire(PING, b"*" * 125)], [Frame(PONG, b"*" * 125)], ALIVE),
    Case("2.5", [wire(PING, b"*" * 126)], [], 1002),
    Case("2.6", [wire(PING, b"*" * 125)], [Frame(PONG, b"*" * 125)], ALIVE, piece=1),
    Case("2.7", [wire(PONG)], [], ALIVE),
    Case("2.8", [wire(PONG, b"nobody asked")], [], ALIVE),
    Case("2.9", [wire(PONG, b"nobody asked"), wire(PING, b"x")], [Frame(PONG, b"x")], ALIVE),
    Case("2.10", [wire(PING, b"%d" % n) for n in range(10)], [Frame(PONG, b"%d" % n) for n in range(10)], ALIVE),
    Case("2.11", [wire(PING, b"%d" % n) for n in range(10)], [Frame(PONG, b"%d" % n) for n in range(10)], ALIVE, V2, 1),
]

RESERVED_BITS = [
    Case("3.1", [wire(TEXT, text_to_self("x"), reserved=1)], [], 1002, JSON),
    Case("3.2", [wire(BINARY, HELLO), wire(BINARY, HELLO, reserved=2), wire(PING)], [echoed(HELLO)], 1002),
    Case("3.3", [wire(BINARY, HELLO), wire(BINARY, HELLO, reserved=3), wire(PING)], [echoed(HELLO)], 1002, piece=23),
    Case("3.4", [wire(BINARY, HELLO), wire(BINARY, HELLO, reserved=4), wire(PING)], [echoed(HELLO)], 1002, piece=1),
    Case("3.5", [wire(BINARY, HELLO, reserved=5)], [], 1002),
    Case("3.6", [wire(PING, b"x", reserved=6)], [], 1002),
    Case("3.7", [wire(CLOSE, reserved=7)], [], 1002),
    Case("3.8", [wire(BINARY, FIRST, final=False), wire(CONTINUATION, SECOND, reserved=4)], [], 1002),
]

OPCODES = [
    Case(
        f"4.{section}.{number}.{'with' if payload else 'without'} payload",
        [wire(opcode, payload), wire(PING)],
        [],
        1002,
    )
    for section, opcodes in ((1, range(0x3, 0x8)), (2, range(0xB, 0x10)))
    for number, opcode in enumerate(opcodes, start=1)
    for payload in (b"", b"reserved opcode")
]

FIVE = in_frames(HELLO, len(HELLO) // 5 + 1)
PART, REST = wire(BINARY, FIRST, final=False), wire(CONTINUATION, SECOND)
FRAGMENTS = [
    Case("5.1", [wire(PING, b"frag", final=False), wire(CONTINUATION, b"ment")], [], 1002),
    Case("5.2", [wire(PONG, b"frag", final=False), wire(CONTINUATION, b"ment")], [], 1002),
    Case("5.3", [PART, REST], [echoed(HELLO)], ALIVE),
    Case("5.4", [PART, REST], [echoed(HELLO)], ALIVE, piece=11),
    Case("5.5", [PART, REST], [echoed(HELLO)], ALIVE, piece=1),
    Case("5.6", [PART, wire(PING, b"between"), REST], [Frame(PONG, b"between"), echoed(HELLO)], ALIVE),
    Case("5.7", [PART, wire(PING, b"between"), REST], [Frame(PONG, b"between"), echoed(HELLO)], ALIVE, piece=11),
    Case("5.8", [PART, wire(PING, b"between"), REST], [Frame(PONG, b"between"), echoed(HELLO)], ALIVE, piece=1),
    Case("5.9", [wire(CONTINUATION, b"of nothing"), wire(BINARY, HELLO)], [], 1002),
    Case("5.10", [wire(CONTINUATION, b"of nothing"), wire(BINARY, HELLO)], [], 1002, piece=11),
    Case("5.11", [wire(CONTINUATION, b"of nothing"), wire(BINARY, HELLO)], [], 1002, piece=1),
    Case("5.12", [wire(CONTINUATION, b"of nothing", final=False), wire(BINARY, HELLO)], [], 1002),
    Case("5.13", [wire(CONTINUATION, b"of nothing", final=False), wire(BINARY, HELLO)], [], 1002, piece=11),
    Case("5.14", [wire(CONTINUATION, b"of nothing", final=False), wire(BINARY, HELLO)], [], 1002, piece=1),
    Case("5.15", [PART, REST, wire(CONTINUATION, b"x", final=False), wire(BINARY, HELLO)], [echoed(HELLO)], 1002),
    Case("5.16", [wire(CONTINUATION, b"x", final=False), PART, REST] * 2, [], 1002),
    Case("5.17", [wire(CONTINUATION, b"x"), PART, REST] * 2, [], 1002),
    Case("5.18", [PART, wire(BINARY, SECOND)], [], 1002),
    Case(
        "5.19",
        [*FIVE[:2], wire(PING, b"one"), *FIVE[2:4], wire(PING, b"two"), FIVE[4]],
        [Frame(PONG, b"one"), Frame(PONG, b"two"), echoed(HELLO)],
        ALIVE,
    ),
    Case("5.20", in_frames(HELLO, 1), [echoed(HELLO)], ALIVE),
]

VALID_TEXT = ["κόσμε", "\u0080", "\u0800", "\U00010000", "\u007f", "\u07ff", "\uffff", "\U0010ffff", "\ud7ff", "\ue000",
              "\ufffd", "\ufffe", "\U0001fffe", "\U0010fffe", "Hello-µ@ßöäüàá-UTF-8!!"]  # fmt: skip
INVALID_TEXT = [
    "cebae1bdb9cf83cebcceb5eda080656469746564", "cebae1bdb9cf83cebcceb5f4908080656469746564", "f888808080",
    "fc8480808080", "f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf", "f4908080", "80", "bf", "80bf", "80bf80bf80bf",
    "c020c120", "e020e120", "f020f120", "f820f920", "fc20fd20", "c0", "e080", "f08080", "f8808080", "df", "efbf",
    "f7bfbf", "fe", "ff", "fefeffff", "c0af", "e080af", "f08080af", "f8808080af", "fc80808080af", "c1bf", "e09fbf",
    "f08fbfbf", "f887bfbfbf", "c080", "e08080", "f0808080", "eda080", "edadbf", "edae80", "edafbf", "edb080",
    "edbe80", "edbfbf", "eda080edb080", "edadbfedbfbf", "edafbfedbfbf",
]  # fmt: skip
GREEK = text_to_self("κόσμε")
UTF8 = [
    Case("6.1.1", [wire(TEXT)], [REFUSED], ALIVE, JSON),
    Case(
        "6.1.2", [wire(TEXT, final=False), wire(CONTINUATION, final=False), wire(CONTINUATION)], [REFUSED], ALIVE, JSON
    ),
    Case(
        "6.1.3",
        [wire(TEXT, b"", final=False), wire(CONTINUATION, GREEK, final=False), wire(CONTINUATION)],
        ["κόσμε"],
        ALIVE,
        JSON,
    ),
    Case("6.2.1", [wire(TEXT, GREEK)], ["κόσμε"], ALIVE, JSON),
    Case("6.2.2", in_frames(GREEK, len(GREEK) // 2, TEXT), ["κόσμε"], ALIVE, JSON),
    Case("6.2.3", in_frames(GREEK, 1, TEXT), ["κόσμε"], ALIVE, JSON),
    *(Case(f"6.valid.{said!a}", [wire(TEXT, text_to_self(said))], [said], ALIVE, JSON) for said in VALID_TEXT),
    *(
        Case(f"6.invalid.{said}", [wire(TEXT, text_to_self(bytes.fromhex(said)))], [], 1007, JSON)
        for said in INVALID_TEXT
    ),
    Case("6.3.2", in_frames(text_to_self(b"\xed\xa0\x80"), 1, TEXT), [], 1007, JSON),
    Case("6.4.1", [wire(TEXT, text_to_self(b"\xf4\x90\x80\x80"), final=False), wire(CONTINUATION)], [], 1007, JSON),
    Case("6.4.2", [wire(TEXT, b"not UTF-8, not JSON \xff")], [], 1007, JSON),
    Case("6.binary", [wire(TEXT, b"text where none is expected \xff")], [], 1007, V2),
]

CLOSING = [
    Case("7.1.1", [wire(BINARY, HELLO), close_frame(1000)], [echoed(HELLO)], 1000),
    # picows reads a frame ahead, and so refuses the second, forbidden frame before it passes on the first.
    Case("7.1.2", [close_frame(1000), close_frame(1000)], [], 1002),
    Case("7.1.3", [close_frame(1000), wire(PING, b"too late")], [], 1000),
    Case("7.1.4", [close_frame(1000), wire(BINARY, HELLO)], [], 1000),
    Case("7.1.5", [PART, close_frame(1000), REST], [], 1000),
    Case(
        "7.1.6",
        [wire(BINARY, sized(262_144)), wire(BINARY, HELLO), close_frame(1000), wire(PING)],
        [echoed(sized(262_144)), echoed(HELLO)],
        1000,
    ),
    Case("7.3.1", [wire(CLOSE)], [], 1000),
    Case("7.3.2", [wire(CLOSE, b"a")], [], 1002),
    Case("7.3.3", [close_frame(1000)], [], 1000),
    Case("7.3.4", [close_frame(1000, b"Hello World!")], [], 1000),
    Case("7.3.5", [close_frame(1000, b"*" * 123)], [], 1000),
    Case("7.3.6", [close_frame(1000, b"*" * 124)], [], 1002),
    Case("7.5.1", [close_frame(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80")], [], 1007),
    *(
        Case(f"7.7.{number}", [close_frame(code)], [], code)
        for number, code in enumerate((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999), 1)
    ),
    *(
        Case(f"7.9.{number}", [close_frame(code)], [], 1002)
        for number, code in enumerate((0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999), 1)
    ),
    Case("7.13.1", [close_frame(5000)], [], 1002),
    Case("7.13.2", [close_frame(65535)], [], 1002),
]

SIZES = [
    *(
        Case(f"9.1.{number}", [wire(TEXT, text_to_self("*" * size))], ["*" * size], ALIVE, JSON)
        for number, size in enumerate((65_536, 262_144, LARGEST - 200), start=1)
    ),
    *(
        Case(f"9.2.{number}", [wire(BINARY, sized(size))], [echoed(sized(size))], ALIVE)
        for number, size in enumerate((65_536, 262_144, LARGEST), start=1)
    ),
    Case("9.2.4", [wire(BINARY, sized(LARGEST + 1))], [], 1009),
    *(
        Case(f"9.4.{number}", in_frames(sized(262_144), size), [echoed(sized(262_144))], ALIVE)
        for number, size in enumerate((64, 256, 1_024, 4_096, 16_384, 65_536, 262_144), start=1)
    ),
    Case("9.4.8", in_frames(sized(LARGEST), 65_536), [echoed(sized(LARGEST))], ALIVE),
    Case("9.4.9", in_frames(sized(LARGEST + 1), 65_536), [], 1009),
    *(
        Case(f"9.6.{number}", [wire(BINARY, sized(262_144))], [echoed(sized(262_144))], ALIVE, piece=size)
        for number, size in enumerate((64, 512, 2_048), start=1)
    ),
    *(
        Case(f"9.8.{number}", [wire(BINARY, sized(size))] * 200, [echoed(sized(size))] * 200, ALIVE)
        for number, size in enumerate((40, 64, 256, 1_024, 4_096, 16_384), start=1)
    ),
    Case("10.1.1", in_frames(sized(65_536), 1_300), [echoed(sized(65_536))], ALIVE),
]

MASKS = [
    Case("5.1 of the RFC: unmasked", [wire(BINARY, HELLO, masked=False)], [], 1002),
    Case("5.1 of the RFC: unmasked ping", [wire(PING, b"x", masked=False)], [], 1002),
    Case("5.1 of the RFC: unmasked close", [wire(CLOSE, masked=False)], [], 1002),
    Case("5.2 of the RFC: length not minimal in 16 bits", [b"\x82\xfe\x00\x7d" + bytes(4 + 125)], [], 1002),
    Case("5.2 of the RFC: length not minimal in 64 bits", [b"\x82\xff" + bytes(6) + b"\xff\xff" + bytes(4)], [], 1002),
    Case("5.2 of the RFC: length with its highest bit", [b"\x82\xff\x80" + bytes(7) + bytes(4)], [], 1002),
    Case("5.2 of the RFC: length that nobody has", [b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4)], [], 1009),
]

CASES = [*FRAMING, *PINGS, *RESERVED_BITS, *OPCODES, *FRAGMENTS, *UTF8, *CLOSING, *SIZES, *MASKS]


@pytest.mark.parametrize("case", CASES, ids=[case.number for case in CASES])
async def test_case(attacked: ServiceWith, case: Case) -> None:
    service = await attacked()
    async with RudeClient.mallory(service.port, subprotocol=case.subprotocol) as client:
        if case.piece:
            await client.write_in_pieces(b"".join(case.sent), case.piece)
        else:
            client.write(b"".join(case.sent))

        for expected in case.answers:
            answer = await client.read_frame()
            if expected == REFUSED:
                assert json.loads(answer.payload)["payload"]["error_code"] == 400
            elif isinstance(expected, str):
                assert json.loads(answer.payload)["payload"]["signal_data"] == expected
            else:
                assert answer == expected
        if case.end == ALIVE:
            await client.check_alive()
        else:
            last = await client.read_frame()
            assert (last.opcode, int.from_bytes(last.payload[:2])) == (CLOSE, case.end)
            client.write(wire(CLOSE))
            await client.read_end()
