"""What a room needs from media, in product words: the promises that every media backend keeps.

`cloudflare.py` keeps them over HTTP, for Cloudflare Realtime and for the local SFU alike; `negotiation.py` stands in
front of a backend and gives it one call at a time. One contract suite, tests/contracts/media_contract.py, holds every
adapter to this page.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, NewType, Protocol, Self

import msgspec

from signal_manager.media.errors import FAULTS, After, MediaFault, SfuRefusedError

__all__ = [
    "WHOLE_SESSION",
    "ChannelResult",
    "ChannelState",
    "ChannelUpdate",
    "ClosedTracks",
    "DataChannel",
    "EstablishedChannels",
    "IceServer",
    "IceServers",
    "ItemError",
    "Ledger",
    "LocalTrack",
    "MediaBackend",
    "MediaSessionId",
    "Published",
    "Pulled",
    "RemoteTrack",
    "SessionState",
    "Simulcast",
    "TrackResult",
    "TrackState",
    "TrackUpdate",
]

MediaSessionId = NewType("MediaSessionId", str)

# In the ledger, the mid that stands for whatever else a session may hold, known to the service or not.
WHOLE_SESSION = ""


class Simulcast(msgspec.Struct, frozen=True, kw_only=True):
    """Which layer of a simulcast track a subscriber wants; with both orders "none" nothing switches by itself."""

    preferred_rid: str
    priority_ordering: Literal["none", "asciibetical"] = "none"
    rid_not_available: Literal["none", "asciibetical"] = "none"


class LocalTrack(msgspec.Struct, frozen=True, kw_only=True):
    """A track that the session publishes: the m-section of its offer, and the name others pull it by."""

    mid: str
    track_name: str


class RemoteTrack(msgspec.Struct, frozen=True, kw_only=True):
    """A track of another session to pull; with `mid`, into a transceiver that this session already has."""

    session_id: MediaSessionId
    track_name: str
    mid: str | None = None
    simulcast: Simulcast | None = None


class TrackUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A change to a pulled track: another layer, or (with both `session_id` and `track_name`) another source."""

    mid: str
    simulcast: Simulcast | None = None
    session_id: MediaSessionId | None = None
    track_name: str | None = None


class ItemError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one item of a request failed while others may have succeeded; `error_code` is a key of `errors.FAULTS`."""

    error_code: str
    message: str

    def as_fault(self) -> MediaFault:
        """Return the error that the whole request would have failed with."""
        return FAULTS.get(self.error_code, SfuRefusedError)(self.message)

    @property
    def is_too_early(self) -> bool:
        """Tell whether the same item may succeed later."""
        return FAULTS.get(self.error_code, SfuRefusedError).after is After.TRY_LATER

    @property
    def is_already_closed(self) -> bool:
        """Tell whether the item is what it was to become."""
        return self.error_code == "close_track_error"


class TrackResult(msgspec.Struct, frozen=True, kw_only=True):
    """One track of a request, in the order of the request where the backend keeps it; `mid` is "" when it failed."""

    mid: str = ""
    track_name: str = ""
    session_id: MediaSessionId | None = None
    error: ItemError | None = None


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The SFU's answer to an offer; `answer_sdp` is None only when every track failed."""

    tracks: tuple[TrackResult, ...]
    answer_sdp: str | None = None


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """The SFU's offer for pulled tracks; no offer when every track failed or reused a transceiver."""

    tracks: tuple[TrackResult, ...]
    offer_sdp: str | None = None
    requires_renegotiation: bool = False


class ClosedTracks(msgspec.Struct, frozen=True, kw_only=True):
    """What was closed; `answer_sdp` belongs to the offer that came with the request, and must be applied."""

    tracks: tuple[TrackResult, ...]
    answer_sdp: str | None = None


class DataChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A data channel to publish ("local") or subscribe to ("remote", which names the publisher's session).

    `max_packet_life_time` is in ms and excludes `max_retransmits`; a subscriber mirrors its publisher's choice.
    """

    location: Literal["local", "remote"]
    data_channel_name: str
    session_id: MediaSessionId | None = None
    ordered: bool | None = None
    max_retransmits: int | None = None
    max_packet_life_time: int | None = None
    wait_for_ack: bool | None = None
    can_reply: bool | None = None


class ChannelUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A change to a subscribed data channel: whether this session may reply on it."""

    session_id: MediaSessionId
    data_channel_name: str
    can_reply: bool


class ChannelResult(msgspec.Struct, frozen=True, kw_only=True):
    """One data channel of a request; the client opens it with `negotiated: true` and `id`, None when it failed."""

    data_channel_name: str = ""
    id: int | None = None
    location: Literal["local", "remote"] | None = None
    session_id: MediaSessionId | None = None
    error: ItemError | None = None


class EstablishedChannels(msgspec.Struct, frozen=True, kw_only=True):
    """The transport for data channels: the SFU's offer to answer, or its answer to the offer that came."""

    channel: ChannelResult
    offer_sdp: str | None = None
    answer_sdp: str | None = None
    requires_renegotiation: bool = False


class IceServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of RTCPeerConnection's `iceServers`."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None

    def __repr__(self) -> str:
        return f"IceServer(urls={self.urls!r})"  # a credential that is logged is a credential given away


class IceServers(msgspec.Struct, frozen=True, kw_only=True):
    """STUN and TURN servers; `expires_at` is in seconds since the epoch, None when nothing in them expires."""

    servers: tuple[IceServer, ...]
    expires_at: float | None = None


class TrackState(msgspec.Struct, frozen=True, kw_only=True):
    """A track as the SFU sees it; an inactive one moves no media now, and may do so again."""

    mid: str
    track_name: str
    location: Literal["local", "remote"] | None = None
    session_id: MediaSessionId | None = None
    is_active: bool = False


class ChannelState(msgspec.Struct, frozen=True, kw_only=True):
    """A data channel as the SFU sees it; `status` is "active", "inactive" or "initializing"."""

    data_channel_name: str
    id: int | None = None
    location: Literal["local", "remote"] | None = None
    session_id: MediaSessionId | None = None
    status: str = ""


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a session holds."""

    tracks: tuple[TrackState, ...] = ()
    channels: tuple[ChannelState, ...] = ()


class MediaBackend(Protocol):
    """An SFU: sessions are single peer connections, tracks are found by (publisher's session, track name).

    **Order.** Calls that change a session must not overlap, and after an SFU's offer nothing but its answer may come;
    `Negotiation` sees to that. Calls for different sessions are independent.

    **Atomic?** No. A request of several items may fail in part: failed items carry `error`, the others hold, and the
    mids that came back must be kept for closing. A call that raises has changed nothing, unless the error's `after` is
    `After.REPLACE`: then nobody knows, and the session must be given up and swept.

    **Retries.** The backend itself repeats only `close_tracks`, `close_channels` and `session_state`, a bounded number
    of times. A caller may repeat a call that raised an error with `After.TRY_LATER`, and no other.

    **Cancellation** of a call that changes a session is like a lost answer: it may have been carried out.

    **Errors.** Every method raises only `SignalManagerError`s: a `MediaFault` of `media/errors.py` from the SFU, and
    `InvalidRequestError` for arguments that cannot be sent. Any call on a session may raise `SessionGoneError`. Every
    call is bounded in time by the adapter.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def validate_credentials(self) -> None:
        """Make one harmless call that proves app id and secret; raises CredentialsRefusedError or AppNotFoundError."""
        ...

    async def open_session(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """Open a session without transport; do it just before negotiating, because an unused one expires.

        There is no call to delete a session: it ends when its connection does. `correlation_id` is a label for the
        SFU's own diagnostics. An id lost with its answer needs no cleaning up, since that session holds nothing.
        """
        ...

    async def publish(self, session_id: MediaSessionId, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """Publish the offer's m-sections as `tracks`; without tracks the SFU takes every new one and names it.

        Nothing is to be answered: the client applies `answer_sdp`. A further call before it did may raise
        SessionNotReadyError. Raises InvalidSessionDescriptionError for SDP the SFU cannot use.
        """
        ...

    async def pull(self, session_id: MediaSessionId, tracks: Sequence[RemoteTrack]) -> Pulled:
        """Subscribe to tracks of other sessions; with `requires_renegotiation` the client's answer must follow.

        Not idempotent: a repeated pull may subscribe twice. Items fail with `not_found_track_error` or
        `empty_track_error` (after a wait of several seconds) while the publisher is not sending yet.
        """
        ...

    async def answer(self, session_id: MediaSessionId, answer_sdp: str) -> None:
        """Answer the SFU's last offer, once; a second answer may fail although the first was accepted.

        Raises InvalidSessionDescriptionError for SDP that does not fit the offer, which then still waits.
        """
        ...

    async def close_tracks(
        self, session_id: MediaSessionId, mids: Sequence[str], *, offer_sdp: str | None = None
    ) -> ClosedTracks:
        """Stop published or pulled tracks: at once without an offer, else by negotiation.

        May be repeated. A mid that is not there fails with `close_track_error`, which is as good as success.
        """
        ...

    async def update_tracks(
        self, session_id: MediaSessionId, updates: Sequence[TrackUpdate]
    ) -> tuple[TrackResult, ...]:
        """Switch layer or source of pulled tracks, without SDP; items fail with `update_track_error`."""
        ...

    async def establish_channels(
        self, session_id: MediaSessionId, *, offer_sdp: str | None = None
    ) -> EstablishedChannels:
        """Negotiate the transport for data channels, once in a session's life; a repetition is refused.

        Not needed when the first published offer had an application m-section.
        """
        ...

    async def open_channels(
        self, session_id: MediaSessionId, channels: Sequence[DataChannel]
    ) -> tuple[ChannelResult, ...]:
        """Publish or subscribe to data channels; items fail with `repeated_local_track_error` for a taken name."""
        ...

    async def update_channels(
        self, session_id: MediaSessionId, updates: Sequence[ChannelUpdate]
    ) -> tuple[ChannelResult, ...]:
        """Grant or take back the right to reply; granting it moves it away from its present holder."""
        ...

    async def close_channels(self, session_id: MediaSessionId, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """Close data channels by id, without SDP. May be repeated."""
        ...

    async def session_state(self, session_id: MediaSessionId) -> SessionState:
        """Return what the SFU holds for a session; raises SessionGoneError when it holds nothing any more."""
        ...

    async def ice_servers(self) -> IceServers:
        """Return STUN and, where configured, freshly made TURN servers that expire."""
        ...


class Ledger(Protocol):
    """Where every mid and session that the service ever caused is kept until its closing is confirmed.

    `storage` keeps one that survives a crash. An entry is on disk when the call returns; writing or removing an entry
    twice is the same as once. A mid of `WHOLE_SESSION` is the entry of the session itself.
    """

    async def caused(self, session_id: MediaSessionId, *mids: str) -> None:
        """Remember that these mids of a session must be closed some day: all of them, or none and an error."""
        ...

    async def closed(self, session_id: MediaSessionId, *mids: str) -> None:
        """Forget these mids of a session: their closing was confirmed."""
        ...
