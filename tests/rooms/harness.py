"""A room service with everything around it in memory, and clients who remember what they were told."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec

from signal_manager.bus.base import Delivery, GoneHandler, NewsHandler, Outcome, QuestionHandler, ReunionHandler
from signal_manager.errors import InvalidRequestError
from signal_manager.media.closing import Closings
from signal_manager.media.negotiation import Limits
from signal_manager.model import (
    Caller,
    ClientId,
    ClientRecord,
    Grants,
    Identity,
    MemberRecord,
    NodeId,
    Room,
    RoomId,
    SessionId,
)
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.messages import (
    DataChannelRequest,
    DataChannelsNew,
    DataChannelsNewAck,
    IceServer,
    Message,
    MetadataUpdate,
    PublishedTrack,
    Renegotiate,
    RenegotiateAck,
    RoomCreate,
    RoomCreateAck,
    RoomEvent,
    RoomJoin,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
    TrackMid,
    TrackMute,
    TrackRequest,
    TracksClose,
    TracksCloseAck,
    TracksMute,
    TracksMuteAck,
    TracksNew,
    TracksNewAck,
)
from signal_manager.rooms import RoomService, RoomSettings
from signal_manager.rooms.probes import ProbeSettings
from signal_manager.rooms.room_log import difference, write_change
from signal_manager.storage.base import RoomChange
from signal_manager.storage.memory import MemoryStorage
from tests.fakes.media import FakeSfu

NODE = NodeId("node-1")
ROOM = RoomId("room-1")
# Nothing here takes long; what comes too early is tried again soon, and given up soon.
LIMITS = Limits(patience=0.2, pauses=(0.005,))
PROBING = ProbeSettings(first_pause=0.005, longest_pause=0.02, patience=30.0)
STUN = IceServer(urls=["stun:stun.test:3478"])
TURN = IceServer(urls=["turn:turn.test:3478"], username="u", credential="c")
# For what must come, however slow the machine is.
SOON = 10.0


def offer(*mids: str, kind: str = "video") -> str:
    """Return as much of an offer as these tests need."""
    return "v=0\r\n" + "".join(f"m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{mid}\r\n" for mid in mids)


class RecordingBus:
    """A bus to clients who are there, which keeps what each was sent."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.inboxes: dict[ClientId, list[Message]] = defaultdict(list)
        self.offline: set[ClientId] = set()
        self.tagged: set[ClientId] = set()
        self.announced: Callable[[RoomId, bytes], None] | None = None
        self._on_change = on_change

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """Keep a message."""
        if target in self.offline:
            return Delivery.OFFLINE
        if target in self.tagged:
            raise InvalidRequestError("the target's protocol has no such message")
        self.inboxes[target].append(message)
        self._on_change()
        return Delivery.DELIVERED

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """Tell the other node, if a test has put one there."""
        if nodes and self.announced is not None:
            self.announced(room_id, news)

    def respond(self, on_question: QuestionHandler) -> None:
        """Answer other nodes; there are none."""

    async def ask_others(self, question: bytes) -> list[bytes]:
        """Ask other nodes; there are none."""
        return []

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        """Hear from other nodes; there are none."""


class YieldingStorage(MemoryStorage):
    """Storage that lets others run meanwhile, as a store on a disk does, and that fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        # Errors of the next changes of rooms, each with whether the change was made all the same.
        self.failures: deque[tuple[Exception, bool]] = deque()

    async def create_room(self, room: Room) -> Room:
        """Create a room, or fail as the test asked."""
        await asyncio.sleep(0)
        error, is_made = self.failures.popleft() if self.failures else (None, True)
        created = await super().create_room(room) if is_made else room
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return created

    async def change_room(self, room_id: RoomId, change: RoomChange) -> Room:
        """Change a room, or fail as the test asked."""
        await asyncio.sleep(0)
        error, is_made = self.failures.popleft() if self.failures else (None, True)
        changed = await super().change_room(room_id, change) if is_made else None
        await asyncio.sleep(0)
        if error is not None or changed is None:
            raise error or AssertionError("a change that was not made needs an error")
        return changed


class Client:
    """One session of one client."""

    def __init__(self, harness: RoomHarness, name: str, session: str, grants: Grants) -> None:
        self.harness = harness
        self.name = ClientId(name)
        self.caller = Caller(Identity(client_id=self.name, grants=grants), SessionId(session), "sha256:" + "0" * 64)
        self.seen_before = 0  # events of earlier memberships

    @property
    def events(self) -> list[RoomEvent]:
        """What the client was told of rooms since it came in."""
        inbox = self.harness.bus.inboxes[self.name]
        return [message for message in inbox if isinstance(message, RoomEvent)][self.seen_before :]

    @property
    def news(self) -> list[tuple[int, str]]:
        """The same in short."""
        return [(event.sequence, event.event) for event in self.events]

    def told(self, event: str, of: str | None = None) -> bool:
        """Tell whether the client was told this."""
        return any(
            told.event == event and (of is None or (told.participant is not None and told.participant.client_id == of))
            for told in self.events
        )

    async def create(self, room_id: str | None = ROOM, *, role: str = "sender", **fields: Any) -> RoomCreateAck:
        """Send WEBRTC_ROOM_CREATE; a sender offers a camera unless told otherwise."""
        request = RoomCreate(room_id=room_id, role=role, **(self._camera(role) | fields))
        ack = await self.harness.rooms.entry.create(self.caller, request)
        self._forget()
        return ack

    async def join(self, room_id: str = ROOM, *, role: str = "sender", **fields: Any) -> RoomJoinAck:
        """Send WEBRTC_ROOM_JOIN; a sender offers a camera unless told otherwise."""
        request = RoomJoin(room_id=room_id, role=role, **(self._camera(role) | fields))
        ack = await self.harness.rooms.entry.join(self.caller, request)
        self._forget()
        return ack

    async def leave(self, room_id: str = ROOM, reason: str | None = None) -> RoomLeaveAck:
        """Send WEBRTC_ROOM_LEAVE."""
        return await self.harness.rooms.entry.leave(self.caller, RoomLeave(room_id=room_id, reason=reason))

    async def publish(self, *mids: str, room_id: str = ROOM, names: Sequence[str] = ()) -> TracksNewAck:
        """Send TRACKS_NEW with an offer."""
        names = names or [f"track-{mid}" for mid in mids]
        tracks = [TrackRequest(mid=mid, track_name=name) for mid, name in zip(mids, names, strict=True)]
        request = TracksNew(room_id=room_id, offer_sdp=offer(*mids), tracks=tracks)
        return await self.harness.rooms.members.change_tracks(self.caller, request)

    async def pull(self, publisher: str, *names: str, room_id: str = ROOM) -> TracksNewAck:
        """Send TRACKS_NEW without an offer."""
        tracks = [TrackRequest(client_id=publisher, track_name=name) for name in names or ("camera",)]
        return await self.harness.rooms.members.change_tracks(self.caller, TracksNew(room_id=room_id, tracks=tracks))

    async def answer(self, answer_sdp: str = "v=0 answer", room_id: str = ROOM) -> RenegotiateAck:
        """Send RENEGOTIATE."""
        return await self.harness.rooms.members.renegotiate(
            self.caller, Renegotiate(room_id=room_id, answer_sdp=answer_sdp)
        )

    async def mute(self, room_id: str = ROOM, **muted: bool) -> TracksMuteAck:
        """Send TRACKS_MUTE; mids are the numbers after the underscore."""
        tracks = [TrackMute(mid=name.removeprefix("mid_"), muted=each) for name, each in muted.items()]
        return await self.harness.rooms.members.mute_tracks(self.caller, TracksMute(room_id=room_id, tracks=tracks))

    async def describe(
        self, metadata: dict[str, Any], *, scope: Literal["participant", "room"] = "participant", room_id: str = ROOM
    ) -> int:
        """Send METADATA_UPDATE."""
        request = MetadataUpdate(room_id=room_id, metadata=metadata, scope=scope)
        return (await self.harness.rooms.members.update_metadata(self.caller, request)).sequence

    async def close(
        self, *mids: str, offer_sdp: str | None = None, reason: str | None = None, room_id: str = ROOM
    ) -> TracksCloseAck:
        """Send TRACKS_CLOSE."""
        tracks = [TrackMid(mid=mid) for mid in mids]
        request = TracksClose(room_id=room_id, tracks=tracks, offer_sdp=offer_sdp, reason=reason)
        return await self.harness.rooms.members.close_tracks(self.caller, request)

    def lose_connection(self) -> None:
        """Go without a word."""
        self.harness.rooms.session_ended(self.caller)

    def _camera(self, role: str) -> dict[str, Any]:
        if role.lower() != "sender" or not self.harness.has_media:
            return {}
        return {"offer_sdp": offer("0"), "tracks": [PublishedTrack(mid="0", track_name="camera")]}

    def _forget(self) -> None:
        """Leave out what was told before the ACK that has just come: that was about an earlier membership."""
        inbox = self.harness.bus.inboxes[self.name]
        self.seen_before = sum(isinstance(message, RoomEvent) for message in inbox)


class RoomHarness:
    """The service and what surrounds it."""

    def __init__(
        self,
        *,
        has_media: bool = True,
        limits: Limits = LIMITS,
        probing: ProbeSettings = PROBING,
        storage: MemoryStorage | None = None,
        node_id: NodeId = NODE,
        sfu: FakeSfu | None = None,
        max_participants: int = 100,
    ) -> None:
        self.has_media = has_media
        self._changed = asyncio.Event()
        self.now = 1000.0
        self.sfu = sfu or FakeSfu(self._changed.set)
        self.bus = RecordingBus(self._changed.set)
        self.storage = storage or YieldingStorage()
        self.metrics = Metrics()
        self.rooms = RoomService(
            storage=self.storage,
            bus=self.bus,
            media=self.sfu if has_media else None,
            metrics=self.metrics,
            node_id=node_id,
            settings=RoomSettings(
                app_id="app",
                stun_url="stun:stun.test:3478",
                max_participants=max_participants,
                limits=limits,
                probing=probing,
            ),
            closings=Closings(settling_time=0.05),
            clock=lambda: self.now,
        )

    @property
    def flaky(self) -> deque[tuple[Exception, bool]]:
        """The failures of the next changes in storage."""
        assert isinstance(self.storage, YieldingStorage)
        return self.storage.failures

    def client(self, name: str, *, session: str | None = None, **grants: Any) -> Client:
        """Return a client who is connected."""
        return Client(self, name, session or f"session of {name}", Grants(**grants))

    async def register(self, name: str) -> None:
        """Put a client on record."""
        await self.storage.put_client(ClientRecord(client_id=ClientId(name), auth_token="t"))

    async def record(self, name: str) -> ClientRecord:
        """Return a client's record."""
        record = await self.storage.get_client(ClientId(name))
        assert record is not None
        return record

    async def room(self, room_id: str = ROOM) -> Room:
        """Return a room's record."""
        room = await self.storage.get_room(RoomId(room_id))
        assert room is not None
        return room

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that comes of a message or of a call to the SFU."""
        async with asyncio.timeout(SOON):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def settled(self) -> None:
        """Wait until nothing goes on in the background: everybody knows everything."""
        async with asyncio.timeout(SOON):
            await self.rooms.idle()

    async def ledger(self) -> set[tuple[str, str | None]]:
        """Return what the ledger holds, as session and mid."""
        page = await self.storage.list_media()
        return {(entry.session_id, entry.mid) for entry in page.items}


@asynccontextmanager
async def running(harness: RoomHarness) -> AsyncIterator[RoomHarness]:
    """Run a harness, and see that it leaves nothing behind: no open track, no ledger entry, nobody in a room."""
    async with harness.rooms:
        yield harness
        harness.sfu.gate.set()
        harness.sfu.connects_at_once = True
    assert harness.sfu.open_tracks == set()
    assert await harness.ledger() == set()
    rooms = await harness.storage.list_rooms(is_active=True)
    assert [room.participants for room in rooms.items if room.participants[0].node_id == NODE] == []


async def in_one_room(harness: RoomHarness, *names: str, role: str = "sender") -> list[Client]:
    """Return clients who are in the room, the first one its creator, with everybody's camera announced."""
    clients = [harness.client(name) for name in names]
    await clients[0].create(role=role)
    for client in clients[1:]:
        await client.join(role=role)
    await harness.settled()
    return clients


async def sender_and_receiver(harness: RoomHarness) -> tuple[Client, Client]:
    """Return the creator of the room, who sends, and a receiver in it."""
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await bob.join(role="receiver")
    return alice, bob


def hear(harness: RoomHarness, before: Room, after: Room) -> None:
    """Let a harness hear what another node has done."""
    for change in difference(before, after):
        harness.rooms._memberships.hear(ROOM, write_change(change))


async def open_channels(
    client: Client, *channels: DataChannelRequest, offer_sdp: str | None = None
) -> DataChannelsNewAck:
    """Send DATA_CHANNELS_NEW."""
    request = DataChannelsNew(room_id=ROOM, data_channels=list(channels), offer_sdp=offer_sdp)
    return await client.harness.rooms.members.open_channels(client.caller, request)


def with_ghost(room: Room, ghost: MemberRecord) -> Room:
    """Return the room with a member that no node knows of."""
    return msgspec.structs.replace(room, participants=(*room.participants, ghost))
