"""aiortc's SCTP on our DTLS: what it takes from inside aiortc, and the packets between both."""

from __future__ import annotations

import inspect
import re
from typing import Any

import aiortc
from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCSctpTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities

from signal_manager.sfu.sctp import Sctp, _DtlsForSctp
from tests.sfu.test_secure_transport import connect, sides
from tests.waiting import until

CAPABILITIES = RTCSctpCapabilities(maxMessageSize=65536)


def test_aiortcs_sctp_asks_no_more_of_dtls_than_it_gets() -> None:
    source = inspect.getsource(RTCSctpTransport)
    asked = set(re.findall(r"\btransport\.(?!setter)([a-z_]+)", source)) | set(
        re.findall(r"self\.__transport\.([a-z_]+)", source)
    )
    given = {name for name in vars(_DtlsForSctp) if not name.startswith("__")}
    help = (
        f"aiortc {aiortc.__version__} changed what RTCSctpTransport asks of its DTLS transport. Adapt _DtlsForSctp in "
        "signal_manager/sfu/sctp.py; or look whether docs/upstream.md's proposal came true, and use that."
    )

    assert asked == given, help
    assert inspect.iscoroutinefunction(getattr(RTCSctpTransport, "_handle_data", None)), help


def channel(sctp: Sctp) -> tuple[RTCDataChannel, list[Any]]:
    got: list[Any] = []
    rtc = RTCDataChannel(sctp.rtc, RTCDataChannelParameters(label="x", negotiated=True, id=1))
    rtc.on("message", got.append)
    return rtc, got


async def test_a_channel_carries_messages_over_a_second_association_too() -> None:
    client, server = sides()
    ours, theirs = Sctp(server.transport, max_queued=256), Sctp(client.transport, max_queued=256)
    (there, heard), (here, answered) = channel(theirs), channel(ours)
    assert ours.rtc.transport.state == "connecting"
    await connect(client, server)
    await theirs.start(CAPABILITIES, 5000)
    await ours.start(CAPABILITIES, 5000)
    assert ours.rtc.is_server
    assert not theirs.rtc.is_server

    await until(lambda: here.readyState == there.readyState == "open")
    here.send("hello")
    there.send(bytes(20_000))
    await until(lambda: heard == ["hello"] and answered == [bytes(20_000)])

    client.transport.end()
    await until(lambda: not server.transport.is_connected)
    here.send("meanwhile")
    client.transport.begin()
    await until(lambda: heard == ["hello", "meanwhile"])

    await ours.stop()
    await until(lambda: theirs.rtc.state == "closed")
    await theirs.stop()
    for side in (client, server):
        side.transport.close()
    assert ours.rtc.transport.state == "closed"


async def test_packets_beyond_the_bound_are_lost() -> None:
    client, server = sides()
    sctp = Sctp(server.transport, max_queued=2)
    await connect(client, server)
    for _ in range(5):
        client.transport.send_data(bytes(12))
    last: list[bytes] = []
    client.transport.on_data = last.append
    server.transport.send_data(b"all came")
    await until(lambda: last == [b"all came"])

    assert sctp._packets.qsize() == 2

    await sctp.stop()


async def test_what_aiortc_fails_on_ends_the_dtls_association() -> None:
    client, server = sides()
    sctp = Sctp(server.transport, max_queued=2)
    await connect(client, server)
    await sctp.start(CAPABILITIES, 5000)
    sctp.rtc._handle_data = None  # type: ignore[method-assign,assignment]

    client.transport.send_data(bytes(12))

    await until(lambda: not client.transport.is_connected and not server.transport.is_connected)
    await sctp.stop()
