"""The fault table of rooms: each fault of the local SFU, and what the one it hit and the other members saw.

Through the whole service, over a real socket and with real media. Everything that a fault left at the SFU must be
closed as soon as its victim is gone. `docs/local-sfu.md` has the same table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import pytest_asyncio

from signal_manager.media.base import MediaBackend, MediaSessionId
from signal_manager.media.closing import Closings
from signal_manager.media.cloudflare import CloudflareBackend
from signal_manager.media.negotiation import Limits
from signal_manager.observe.metrics import Metrics
from signal_manager.rooms import RoomService, RoomSettings
from signal_manager.rooms.probes import ProbeSettings
from signal_manager.sfu import LocalSfu
from signal_manager.sfu.faults import Fault, Faults
from signal_manager.testing.media.peers import Camera, Microphone, Peer
from tests.integration.serving import serving_rooms
from tests.integration.v1_client import ALICE, BOB, Client, Received, connect

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCS = Path(__file__).parents[2] / "docs/local-sfu.md"
# For one call to the SFU (s): much for a healthy one, little to wait for.
TIMEOUT = 2.5
# For one step of a test (s), on any machine.
TIME_LIMIT = 30.0

Step = Literal["join to send", "join to receive", "answer", "leave"]
STEPS: dict[Step, tuple[Step, ...]] = {  # all that a client does, by the one of them in which a fault strikes
    "join to send": ("join to send", "leave"),
    "join to receive": ("join to receive", "answer", "leave"),
    "answer": ("join to receive", "answer", "leave"),
    "leave": ("join to send", "leave"),
}


class Row(NamedTuple):
    """A fault, in which of a client's steps it strikes, what that client is told, and what the others are."""

    step: Step
    fault: Fault
    told: str
    seen: str

    def __str__(self) -> str:
        return f"{self.step}, {self.what}"

    @property
    def what(self) -> str:
        """The fault as the documentation has it."""
        fault = self.fault
        words = {
            "status": f"{fault.status}",
            "latency": "latency" + (" beyond the time limit" if fault.seconds > TIMEOUT else ""),
        }
        times = {None: "", 1: ", once"}.get(fault.times, f", {fault.times} times")
        return f"`{fault.endpoint}` {words.get(fault.kind, fault.kind)}{times}"

    @property
    def line(self) -> str:
        """The line of the table in the documentation."""
        return f"| {self.step} | {self.what} | {self.told} | {self.seen} |"


def fault(endpoint: str, what: int | str, times: int | None = None, **more: Any) -> Fault:
    if isinstance(what, int):
        return Fault(kind="status", endpoint=endpoint, status=what, times=times)
    return Fault(kind=what, endpoint=endpoint, times=times, **more)  # type: ignore[arg-type]  # a kind, as a word


WHOLE = "joined, published camera and microphone, left"
NOTHING = "nothing"

TABLE = [
    Row("join to send", fault("sessions/new", 503), "ERROR 503", NOTHING),
    Row("join to send", fault("tracks/new", 425, 2), "joined", WHOLE),
    Row("join to send", fault("tracks/new", 425), "ERROR 425", NOTHING),
    Row("join to send", fault("tracks/new", 429, 2), "joined", WHOLE),
    Row("join to send", fault("tracks/new", 400), "ERROR 502", NOTHING),
    Row("join to send", fault("tracks/new", 401), "ERROR 502", NOTHING),
    Row("join to send", fault("tracks/new", 406), "ERROR 400", NOTHING),
    Row("join to send", fault("tracks/new", 413), "ERROR 413", NOTHING),
    Row("join to send", fault("tracks/new", 410, 1), "joined", WHOLE),
    Row("join to send", fault("tracks/new", 410), "ERROR 409", NOTHING),
    Row("join to send", fault("tracks/new", 500), "ERROR 502", NOTHING),
    Row("join to send", fault("tracks/new", 503), "ERROR 503", NOTHING),
    Row("join to send", fault("tracks/new", "latency", seconds=0.2), "joined", WHOLE),
    Row("join to send", fault("tracks/new", "latency", seconds=TIMEOUT + 0.1), "ERROR 503", NOTHING),
    Row("join to send", fault("tracks/new", "lost", 1), "ERROR 503", NOTHING),
    Row("join to send", fault("tracks/new", "cut", 1), "ERROR 503", NOTHING),
    Row(
        "join to send",
        fault("tracks/new", "partial"),
        "joined, 503 for one track",
        "joined, published camera, left",
    ),
    Row("join to send", fault("state", 503, 4), "joined", WHOLE),
    Row("join to receive", fault("tracks/new", 425, 2), "joined", "joined, left"),
    Row("join to receive", fault("tracks/new", 410, 1), "joined", "joined, left"),
    Row("join to receive", fault("tracks/new", 500), "ERROR 502", NOTHING),
    Row("join to receive", fault("tracks/new", "lost", 1), "ERROR 503", NOTHING),
    Row("join to receive", fault("tracks/new", "partial"), "joined, 503 for one track", "joined, left"),
    Row("answer", fault("renegotiate", 406), "ERROR 400", "joined, left"),
    Row("answer", fault("renegotiate", 410), "ERROR 409", "joined, left"),
    Row("answer", fault("renegotiate", 500), "ERROR 502", "joined, left"),
    Row("answer", fault("renegotiate", "lost", 1), "ERROR 503", "joined, left"),
    Row("answer", fault("renegotiate", "cut", 1), "ERROR 503", "joined, left"),
    Row("leave", fault("tracks/close", 503, 5), "left", WHOLE),
    Row("leave", fault("tracks/close", "lost", 2), "left", WHOLE),
    Row("leave", fault("tracks/close", "cut", 2), "left", WHOLE),
    Row("leave", fault("tracks/close", "partial", 2), "left", WHOLE),
]


class RoomHarness:
    """A room with Alice in it, who sends a camera and a microphone and hears of everything."""

    def __init__(self, sfu: LocalSfu, backend: MediaBackend, rooms: RoomService, url: str, alice: Client) -> None:
        self.sfu = sfu
        self.backend = backend
        self.url = url
        self._rooms = rooms
        self._alice = alice

    async def hear(self, name: str) -> dict[str, Any]:
        """Wait for Alice's next event, which must be of that name."""
        event = (await self._alice.expect("ROOM_EVENT")).fields
        assert event["event"] == name
        return event

    async def hear_published(self, names: set[str]) -> None:
        """Wait until all these tracks were announced, in one event or in several."""
        missing = set(names)
        while missing:
            missing -= {track["track_name"] for track in (await self.hear("tracks_published"))["tracks"]}

    async def settled(self) -> None:
        """Wait until the service has nothing left to do; then only Alice's tracks may be open, and no event be left."""
        async with asyncio.timeout(TIME_LIMIT):
            await self._rooms.idle()
        gauges = self.sfu.gauges()
        assert (gauges.publications, gauges.subscriptions, gauges.data_channels) == (2, 0, 0)
        await self._alice.check_alive()


class Newcomer:
    """Bob, who comes and goes: what he is told, and what Alice sees of him."""

    def __init__(self, harness: RoomHarness, client: Client, media: Peer) -> None:
        self.seen: list[str] = []
        self._harness = harness
        self._client = client
        self._media = media
        self._offer = ""

    async def take(self, steps: tuple[Step, ...], *, faulty: Step, fault: Fault) -> str:
        """Take the steps, in one of which a fault strikes and stays; return what that one came to."""
        result = ""
        for step in steps:
            if step == faulty:
                self._harness.sfu.faults = Faults([fault])
            told = await self._take(step)
            result = told if step == faulty else result
            if not self.seen:
                break  # not let in
        return result

    async def _take(self, step: Step) -> str:
        match step:
            case "join to send":
                return await self._join(await entry(self._media))
            case "join to receive":
                return await self._join({"room_id": "r", "role": "receiver"})
            case "answer":
                answer = await self._media.answer_to(self._offer)
                return told(await ask(self._client, "RENEGOTIATE", {"room_id": "r", "answer_sdp": answer}), "accepted")
            case "leave":
                reply = await ask(self._client, "WEBRTC_ROOM_LEAVE", {"room_id": "r"})
                await self._harness.hear("participant_left")
                self.seen.append("left")
                return told(reply, "left")

    async def _join(self, fields: dict[str, Any]) -> str:
        reply = await ask(self._client, "WEBRTC_ROOM_JOIN", fields)
        if reply.type == "ERROR":
            return told(reply, "")
        await self._harness.hear("participant_joined")
        self.seen.append("joined")
        self._offer = reply.fields.get("offer_sdp", "")
        if "answer_sdp" in reply.fields:
            await self._media.accept(reply.fields["answer_sdp"])
            sent = {track["track_name"] for track in reply.fields["tracks"] if "error_code" not in track}
            await self._harness.hear_published(sent)
            self.seen.append("published " + " and ".join(sorted(sent)))
        return told(reply, "joined")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def harness() -> AsyncIterator[RoomHarness]:
    async with (
        LocalSfu(http_port=0) as sfu,
        CloudflareBackend(
            app_id=sfu.app_id,
            app_secret=sfu.app_secret,
            base_url=sfu.base_url,
            metrics=Metrics(),
            request_timeout=TIMEOUT,
            retry_wait=0.001,
        ) as backend,
        serving_rooms(
            media=backend,
            clients=(ALICE, BOB),
            settings=RoomSettings(
                limits=Limits(pauses=(0.01,), patience=1.0), probing=ProbeSettings(first_pause=0.01, longest_pause=0.05)
            ),
            # Longer than anything here is carried out after its caller has given up.
            closings=Closings(first_pause=0.01, settling_time=0.4),
        ) as served,
        connect(served.url, "signal-manager.v2") as alice,
        peer(backend) as sender,
    ):
        await alice.log_in(ALICE)
        harness = RoomHarness(sfu, backend, served.rooms, served.url, alice)
        created = await ask(alice, "WEBRTC_ROOM_CREATE", await entry(sender))
        await sender.accept(created.fields["answer_sdp"])
        await harness.hear_published({"camera", "microphone"})
        yield harness


@asynccontextmanager
async def peer(backend: MediaBackend) -> AsyncIterator[Peer]:
    """The end of a client's media; the service has the session."""
    peer = Peer(backend, MediaSessionId(""))
    try:
        yield peer
    finally:
        await peer.connection.close()


async def entry(sender: Peer) -> dict[str, Any]:
    """What a client asks to be let in with that brings a microphone and a camera."""
    offer, tracks = await sender.offer(microphone=Microphone(), camera=Camera())
    named = [{"mid": track.mid, "track_name": track.track_name} for track in tracks]
    return {"room_id": "r", "role": "sender", "offer_sdp": offer, "tracks": named}


async def ask(client: Client, request: str, fields: dict[str, Any]) -> Received:
    """Send a request and return its reply, an ACK or an ERROR; events that come first are the other's own."""
    message_id = await client.send(request, fields)
    while (reply := await client.receive()).id != message_id:
        assert reply.type == "ROOM_EVENT"
    return reply


def told(reply: Received, done: str) -> str:
    """Say in words what a reply says."""
    if reply.type == "ERROR":
        return f"ERROR {reply.error_code}"
    failed = [track for track in reply.fields.get("tracks", ()) if "error_code" in track]
    # Which one comes first is chance: the tracks of a member are in the order in which they began to send.
    return done + "".join(f", {track['error_code']} for one track" for track in failed)


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_each_fault_is_reported_to_its_victim_and_harms_nobody_else(harness: RoomHarness, row: Row) -> None:
    async with connect(harness.url, "signal-manager.v2") as client, peer(harness.backend) as media:
        bob = Newcomer(harness, await client.log_in(BOB), media)

        news = await bob.take(STEPS[row.step], faulty=row.step, fault=row.fault)
        await harness.settled()
        harness.sfu.faults = Faults()

    assert (news, ", ".join(bob.seen) or NOTHING) == (row.told, row.seen)


async def test_the_documentation_has_the_table() -> None:
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith(tuple(f"| {step} | " for step in STEPS))]

    assert lines == [row.line for row in TABLE]
