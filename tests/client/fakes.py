"""Fakes of what a room of the client uses: its client and its media session. Each does what it is told, at once."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from aiortc.mediastreams import MediaStreamTrack
from msgspec import structs

from signal_manager.client.descriptions import UNDECODABLE
from signal_manager.client.members import PulledTrack
from signal_manager.client.publications import Publication
from signal_manager.protocol.messages import (
    ConnectionInfo,
    IceServers,
    IceServersAck,
    Message,
    PublishedTrack,
    Renegotiate,
    RenegotiateAck,
    RoomAck,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
    TrackResult,
)

if TYPE_CHECKING:
    from signal_manager.client.media import MediaSession

Reply = TypeVar("Reply", bound=Message)
Answer: TypeAlias = Message | Exception | Callable[[Any], Message | Awaitable[Message]]

_DEFAULTS: dict[type[Message], Answer] = {
    IceServers: IceServersAck(ice_servers=[]),
    Renegotiate: RenegotiateAck(status=200, answer_sdp="answer", tracks=[]),
    RoomLeave: RoomLeaveAck(version="1.0.0", status=200, message="ok", room_id="demo", client_id="alice"),
}


class FakeRequester:
    """The client of a room. A test sets `answers`: a reply, an error or a function for each type of request."""

    def __init__(self, client_id: str = "alice") -> None:
        self.client_id = client_id
        self.is_connected = True
        self.answers: dict[type[Message], Answer] = dict(_DEFAULTS)
        self.asked: list[Message] = []

    def asked_for(self, kind: type[Reply]) -> list[Reply]:
        """Return the requests of a type."""
        return [message for message in self.asked if isinstance(message, kind)]

    async def request(self, message: Message, expected: type[Reply], *, timeout: float | None = None) -> Reply:
        """Answer as the test said."""
        self.asked.append(message)
        answer: Any = self.answers[type(message)]
        if callable(answer):
            answer = answer(message)
            if inspect.isawaitable(answer):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, expected)
        return answer


def welcome(**fields: Any) -> RoomJoinAck:
    """Return what a service with a media backend answers to a new member, unless the test says otherwise."""
    given: dict[str, Any] = {"participants": [], "tracks": [], "sequence": 1, "ice_servers": [], "session_id": "s"}
    info = ConnectionInfo(room_id="demo", role="", app_id="", session_id="", status="Connected", metadata={})
    ack = RoomJoinAck(
        version="1.0.0",
        status=200,
        message="ok",
        room_id="demo",
        app_id="",
        stun_url="",
        connection_info=info,
        **given | fields,
    )
    assert isinstance(ack, RoomAck)
    return ack


class FakeMedia:
    """A media session whose SFU takes everything, until the test says otherwise.

    Attributes:
        calls: each negotiation so far, with the names of its tracks or its mids.
        failures: the errors that the next calls of a method raise.
        results: what the SFU answers for tracks of these names, in place of success.
        undecodable: the mids that are rejected, because they cannot be decoded.
        gates: a method waits for its event, if it has one here.
    """

    def __init__(self, on_track: Callable[[PulledTrack, str, MediaStreamTrack], None] = lambda *_: None) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.failures: defaultdict[str, list[Exception]] = defaultdict(list)
        self.results: dict[str, TrackResult] = {}
        self.undecodable: frozenset[str] = frozenset()
        self.gates: dict[str, asyncio.Event] = {}
        self.is_connected = True
        self.is_closed = False
        self.has_lost = False
        self.on_track = on_track
        self._mids = 0

    @property
    def as_session(self) -> MediaSession:
        """Return it under the type that its users expect; `test_fakes.py` holds it to that."""
        return cast("MediaSession", self)

    @property
    def done(self) -> list[str]:
        """The methods that were called."""
        return [what for what, _ in self.calls]

    def mid(self) -> str:
        """Return a mid that no track has."""
        self._mids += 1
        return str(self._mids)

    async def close(self) -> None:
        """End."""
        self.is_closed = True

    async def offer(self, publications: Sequence[Publication]) -> tuple[str, list[PublishedTrack]]:
        """Make an offer."""
        await self._note("offer", [each.name for each in publications])
        for each in publications:
            each.said = each.muted
        return "offer", [
            PublishedTrack(mid=self.mid(), track_name=each.name, kind=each.kind, muted=each.said)
            for each in publications
        ]

    async def accept(self, answer_sdp: str, refused: Sequence[Publication] = ()) -> None:
        """Take the answer to an offer."""
        await self._note("accept", [each.name for each in refused])

    async def withdraw(self, publications: Sequence[Publication]) -> None:
        """Take an offer back."""
        await self._note("withdraw", [each.name for each in publications])

    async def publish(self, publications: Sequence[Publication]) -> list[TrackResult]:
        """Publish tracks."""
        await self._note("publish", [each.name for each in publications])
        for each in publications:
            each.said = each.muted
        return [self.results.get(each.name, TrackResult(mid=self.mid())) for each in publications]

    async def unpublish(self, publications: Sequence[Publication]) -> None:
        """Close tracks."""
        await self._note("unpublish", [each.name for each in publications])

    async def mute(self, publications: Sequence[Publication]) -> None:
        """Tell what is muted."""
        for each in publications:
            each.said = each.muted
        await self._note("mute", [each.name for each in publications])

    async def pull(self, tracks: Sequence[PulledTrack]) -> list[TrackResult]:
        """Pull tracks."""
        await self._note("pull", [track.name for track in tracks])
        results = [self.results.get(track.name, TrackResult(mid=self.mid())) for track in tracks]
        for track, result in zip(tracks, results, strict=True):
            if result.mid and result.error_code is None and result.mid not in self.undecodable:
                self.on_track(track, result.mid, Silence())
        return [
            structs.replace(result, error_code=400, error_message=UNDECODABLE)
            if result.mid in self.undecodable
            else result
            for result in results
        ]

    async def answer(self, offer_sdp: str | None, pulled: Mapping[str, PulledTrack]) -> frozenset[str]:
        """Answer an offer."""
        await self._note("answer", [*pulled])
        for mid, track in pulled.items():
            if mid not in self.undecodable:
                self.on_track(track, mid, Silence())
        return self.undecodable

    async def drop(self, mids: Sequence[str]) -> None:
        """Receive these no longer."""
        await self._note("drop", [*mids])

    async def suspect(self) -> None:
        """Note what has come."""
        await self._note("suspect", [])

    async def has_lost_path(self, least: float = 0.0) -> bool:
        """Tell what the test said."""
        await self._note("has_lost_path", [])
        return self.has_lost

    async def _note(self, what: str, names: list[str]) -> None:
        self.calls.append((what, names))
        if what in self.gates:
            await self.gates[what].wait()
        if self.failures[what]:
            raise self.failures[what].pop(0)


class Silence(MediaStreamTrack):
    """A track that never has a frame."""

    def __init__(self, kind: str = "audio") -> None:
        super().__init__()
        self.kind = kind

    async def recv(self) -> Any:
        """Wait for ever."""
        await asyncio.Event().wait()
