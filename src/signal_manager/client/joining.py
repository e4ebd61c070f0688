"""Join a room and leave it: the requests to the service, and the offer that goes with them.

`room_membership.py` decides when. An attempt that fails leaves neither a media session nor a membership behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from signal_manager.client.departures import Departures
from signal_manager.client.ports import Requester
from signal_manager.client.publications import Publication, Publications
from signal_manager.client.room_metadata import RoomMetadata
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

__all__ = ["Joining", "Role"]

# Seconds for joining, as the service may wait for the SFU, and for leaving, whose answer matters little.
_JOIN_TIMEOUT = 30.0
_LEAVE_TIMEOUT = 5.0
# Seconds that joining waits until the service knows which rooms were left before.
_SETTLE_TIMEOUT = 10.0

Role: TypeAlias = Literal["sender", "receiver"]
Joined: TypeAlias = "Callable[[RoomAck, MediaSession | None], None]"


class Joining:
    """Join one room, the first time and again.

    Args:
        publications: takes the results of the tracks that joining offers.
        open_media: makes a media session with these ICE servers, and the time when their credentials end, if known.
    """

    def __init__(
        self,
        client: Requester,
        departures: Departures,
        room_id: str,
        *,
        role: Role | None,
        metadata: RoomMetadata,
        max_participants: int | None,
        publications: Publications,
        open_media: Callable[[list[IceServer], int | None], MediaSession],
    ) -> None:
        self._client = client
        self._departures = departures
        self._room_id = room_id
        self._role = role
        self._metadata = metadata
        self._max_participants = max_participants
        self._publications = publications
        self._open_media = open_media
        self._connection: int | None = 0  # counts the client's connections; None when the room is closed
        self.has_joined = False  # at least once
        self.is_giving_up = False  # the attempt has failed, and cleans up

    def note_new_connection(self) -> None:
        """Note that the client has another connection, so that an attempt on the former one fails."""
        if self._connection is not None:
            self._connection += 1

    def close(self) -> None:
        """Note that the room is closed, so that an attempt under way fails."""
        self._connection = None

    async def join(self, fresh: list[Publication], *, may_create: bool, on_joined: Joined) -> None:
        """Become a member, with a new media session. An attempt that fails leaves nothing behind.

        Args:
            fresh: the tracks to publish.
            may_create: make the room if it does not exist.
            on_joined: called with the ACK and the media session, if there is one; it takes over both.
        """
        # A client that joins again brings the tracks that it has published since.
        is_sender = self._role != "receiver" and bool(fresh)
        self.is_giving_up = False
        media: MediaSession | None = None
        try:
            # The service still counts this client as a member until it hears that the client left.
            await self._departures.settle(_SETTLE_TIMEOUT)
            offer: tuple[str, list[PublishedTrack]] | None = None
            if is_sender:
                servers = await self._client.request(IceServers(), IceServersAck)
                media = self._open_media(servers.ice_servers, servers.expires_at)
                offer = await media.offer(fresh)
            ack = await self._ask_to_join(offer, may_create=may_create)
            connection = self._connection
            if ack.session_id == "":
                if media is not None:
                    await media.close()
                media = None
            elif media is None:
                media = self._open_media(ack.ice_servers, None)
            elif offer is not None:
                await self._finish_offer(media, fresh, offer[1], ack)
            if connection is None or connection != self._connection:
                raise UnavailableError("the connection was lost while joining")
            self.has_joined = True
            on_joined(ack, media)
        except BaseException as error:
            # Before the first await, so that not even a second cancellation can come between.
            self.is_giving_up = True
            if may_be_in := _may_be_member(error):
                self.note_departure()
            if media is not None:
                await media.close()
            if may_be_in:
                await self.settle_departure()
            raise

    async def replace(self, fresh: list[Publication], *, is_member: Callable[[], bool]) -> MediaSession:
        """Return a new media session for the present membership. An attempt that fails leaves none behind.

        Args:
            fresh: the tracks to publish.
            is_member: tells whether the membership still exists.
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

    async def _ask_to_join(self, offer: tuple[str, list[PublishedTrack]] | None, *, may_create: bool) -> RoomAck:
        """Send the request to join, which creates a missing room if that is allowed."""
        fields: dict[str, Any] = {"room_id": self._room_id, "metadata": self._metadata.own, "role": "receiver"}
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
        # This service may not know `create_if_missing`. It answers 400 rather than 404 when the room was closed.
        try:
            creation = RoomCreate(**fields, max_participants=self._max_participants)
            return await self._client.request(creation, RoomCreateAck, timeout=_JOIN_TIMEOUT)
        except ConflictError:
            # Another client has created it meanwhile.
            return await self._client.request(RoomJoin(**fields), RoomJoinAck, timeout=_JOIN_TIMEOUT)

    def note_departure(self, reason: str | None = None) -> None:
        """Leave the room, now or as soon as the service can be reached."""
        self._departures.note(self._room_id, reason)

    async def settle_departure(self) -> None:
        """Wait a little until the service knows of a departure, if it can be reached now."""
        if self._client.is_connected:
            await self._departures.settle(_LEAVE_TIMEOUT)

    async def _finish_offer(
        self, media: MediaSession, sent: list[Publication], tracks: list[PublishedTrack], ack: RoomAck | RenegotiateAck
    ) -> None:
        """Apply the answer in the ACK. Tracks that it leaves out are published later."""
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
    """Tell whether the service may count a client as a member after this error. A refusal is clear."""
    is_refusal = isinstance(error, SignalManagerError) and not isinstance(error, MalformedMessageError)
    return not is_refusal or isinstance(error, TooLateError | UnavailableError)
