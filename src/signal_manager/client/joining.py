"""Coming into a room and leaving it: what is asked of the service, and what becomes of the offer that goes with it.

`room.py` says when; whoever fails to come in leaves nothing behind, neither a media session nor a membership.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from signal_manager.client.departures import Departures
from signal_manager.client.ports import Requester
from signal_manager.client.publications import Publication, Publications
from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    MalformedMessageError,
    NotFoundError,
    SignalManagerError,
    TooLateError,
    UnavailableError,
)
from signal_manager.protocol.messages import (
    IceServer,
    IceServers,
    IceServersAck,
    PublishedTrack,
    Renegotiate,
    RenegotiateAck,
    RoomAck,
    RoomCreate,
    RoomCreateAck,
    RoomJoin,
    RoomJoinAck,
)

if TYPE_CHECKING:
    from signal_manager.client.media import MediaSession

__all__ = ["Joining"]

# Seconds for joining, as the service may wait for the SFU, and for leaving, which nobody needs an answer to.
_JOIN_TIMEOUT = 30.0
_LEAVE_TIMEOUT = 5.0
# Seconds that joining waits until the service knows what was left before.
_SETTLE_TIMEOUT = 10.0

Welcome: TypeAlias = "Callable[[RoomAck, MediaSession | None], None]"


class Joining:
    """Ask to be let into one room, as often as it takes.

    Args:
        publications: learn what became of those that joining offers.
        open_media: makes a media session with these ICE servers, and when their credentials end, where that is known.
        connection: returns which of the client's connections is the present one, or None once the room is closed.
    """

    def __init__(
        self,
        client: Requester,
        departures: Departures,
        room_id: str,
        *,
        role: Literal["sender", "receiver"] | None,
        metadata: dict[str, Any] | None,
        max_participants: int | None,
        publications: Publications,
        open_media: Callable[[list[IceServer], int | None], MediaSession],
        connection: Callable[[], int | None],
    ) -> None:
        self._client = client
        self._departures = departures
        self._room_id = room_id
        self._role = role
        self.metadata = metadata  # what the others see of this client
        self._max_participants = max_participants
        self._publications = publications
        self._open_media = open_media
        self._connection = connection
        self.is_giving_up = False  # failed to come in, and sees to it that nothing is left behind

    async def enter(self, fresh: list[Publication], *, may_create: bool, welcome: Welcome) -> None:
        """Become a member, with a new media session; whoever fails to leaves nothing behind.

        Args:
            fresh: what is to be published.
            may_create: make the room if it is not there.
            welcome: called with the welcome and the media session, if there is one, which are its own from then on.
        """
        # Whoever joins again brings what it published since, as if it had had it from the start.
        is_sender = self._role != "receiver" and bool(fresh)
        self.is_giving_up = False
        media: MediaSession | None = None
        try:
            # The service still counts this client in where it has not heard yet that it left.
            await self._departures.settle(_SETTLE_TIMEOUT)
            offer: tuple[str, list[PublishedTrack]] | None = None
            if is_sender:
                servers = await self._client.request(IceServers(), IceServersAck)
                media = self._open_media(servers.ice_servers, servers.expires_at)
                offer = await media.offer(fresh)
            ack = await self._knock(offer, may_create=may_create)
            connection = self._connection()
            if ack.session_id == "":
                if media is not None:
                    await media.close()
                media = None
            elif media is None:
                media = self._open_media(ack.ice_servers, None)
            elif offer is not None:
                await self._finish_offer(media, fresh, offer[1], ack)
            if connection is None or connection != self._connection():
                raise UnavailableError("the connection was lost while joining")
            welcome(ack, media)
        except BaseException as error:
            # Before anything is awaited, so that nothing can come between: not even a second cancellation.
            self.is_giving_up = True
            if may_be_in := _may_be_member(error):
                self.note_departure()
            if media is not None:
                await media.close()
            if may_be_in:
                await self.depart()
            raise

    async def replace(self, fresh: list[Publication], *, is_member: Callable[[], bool]) -> MediaSession:
        """Return a new media session behind the membership that there is; whoever fails to leaves none behind.

        Args:
            fresh: what is to be published.
            is_member: tells whether the membership is still there.
        """
        servers = await self._client.request(IceServers(), IceServersAck)
        media = self._open_media(servers.ice_servers, servers.expires_at)
        try:
            offer_sdp, tracks = await media.offer(fresh) if fresh else (None, [])
            message = Renegotiate(room_id=self._room_id, offer_sdp=offer_sdp, tracks=tracks)
            ack = await self._client.request(message, RenegotiateAck, timeout=_JOIN_TIMEOUT)
            if fresh:
                await self._finish_offer(media, fresh, tracks, ack)
            if not is_member():
                raise UnavailableError("the membership was lost meanwhile")
        except BaseException:
            await media.close()
            self._publications.forget_session()
            raise
        return media

    async def _knock(self, offer: tuple[str, list[PublishedTrack]] | None, *, may_create: bool) -> RoomAck:
        """Ask to be let in, and create the room when it is not there and that is wanted."""
        fields: dict[str, Any] = {"room_id": self._room_id, "metadata": self.metadata, "role": "receiver"}
        if offer is not None:
            fields |= {"role": "sender", "offer_sdp": offer[0], "tracks": offer[1]}
        making: dict[str, Any] = {}
        if may_create:
            making = {"create_if_missing": True, "max_participants": self._max_participants}
        try:
            return await self._client.request(RoomJoin(**fields, **making), RoomJoinAck, timeout=_JOIN_TIMEOUT)
        except (NotFoundError, InvalidRequestError):
            if not may_create:
                raise
        # A service that does not know `create_if_missing`: a room that was closed answers 400 there rather than 404.
        try:
            creation = RoomCreate(**fields, max_participants=self._max_participants)
            return await self._client.request(creation, RoomCreateAck, timeout=_JOIN_TIMEOUT)
        except ConflictError:
            # Another client has created it meanwhile.
            return await self._client.request(RoomJoin(**fields), RoomJoinAck, timeout=_JOIN_TIMEOUT)

    def note_departure(self, reason: str | None = None) -> None:
        """Leave the room, now or as soon as the service can be told; see `Departures`."""
        self._departures.note(self._room_id, reason)

    async def depart(self) -> None:
        """Wait a little until the service knows of a departure, if it can be told at the moment."""
        if self._client.is_connected:
            await self._departures.settle(_LEAVE_TIMEOUT)

    async def _finish_offer(
        self, media: MediaSession, sent: list[Publication], tracks: list[PublishedTrack], ack: RoomAck | RenegotiateAck
    ) -> None:
        """Apply the answer that came with the welcome; what it leaves out is published later."""
        if ack.answer_sdp is None:
            await media.withdraw(sent)
            return
        by_mid = {result.mid: result for result in ack.tracks or ()}
        results = [by_mid.get(track.mid) for track in tracks]
        refused = [each for each, r in zip(sent, results, strict=True) if r is not None and r.error_code is not None]
        await media.accept(ack.answer_sdp, refused)
        for publication, result in zip(sent, results, strict=True):
            self._publications.settle(publication, result)


def _may_be_member(error: BaseException) -> bool:
    """Tell whether the service may count a client in that met this error while joining. A refusal is clear."""
    is_refusal = isinstance(error, SignalManagerError) and not isinstance(error, MalformedMessageError)
    return not is_refusal or isinstance(error, TooLateError | UnavailableError)
