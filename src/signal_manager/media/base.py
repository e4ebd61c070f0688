"""The promises of a media backend: what rooms need from an SFU.

`cloudflare.py` implements them over HTTP, for Cloudflare Realtime and for the local SFU. `negotiation.py` gives a
backend one call at a time for each session. One contract suite, tests/contracts/media_contract.py, holds every adapter
to this page.
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

# In the ledger, this mid stands for everything else that a session may hold, even unknown to the service.
WHOLE_SESSION = ""


class Simulcast(msgspec.Struct, frozen=True, kw_only=True):
    """The simulcast layer that a subscriber wants; with both orders "none" the SFU never switches by itself."""

    preferred_rid: str
    priority_ordering: Literal["none", "asciibetical"] = "none"
    rid_not_available: Literal["none", "asciibetical"] = "none"


class LocalTrack(msgspec.Struct, frozen=True, kw_only=True):
    """A track that the session publishes: the mid of its m-section, and the name by which others pull it."""

    mid: str
    track_name: str


class RemoteTrack(msgspec.Struct, frozen=True, kw_only=True):
    """A track of another session to pull; `mid` names an existing transceiver to reuse."""

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
    """Why one item of a request failed; other items may have succeeded. `error_code` is a key of `errors.FAULTS`."""

    error_code: str
    message: str

    def as_fault(self) -> MediaFault:
        """Return the error of a whole request that fails for this reason."""
        return FAULTS.get(self.error_code, SfuRefusedError)(self.message)

    @property
    def is_too_early(self) -> bool:
        """Tell whether the same item may succeed later."""
        return FAULTS.get(self.error_code, SfuRefusedError).after is After.TRY_LATER

    @property
    def is_already_closed(self) -> bool:
        """Tell whether the item failed to close because it is closed already."""
        return self.error_code == "close_track_error"


class TrackResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one track; `mid` is "" if it failed. The order is the request's if the backend keeps it."""

    mid: str = ""
    track_name: str = ""
    session_id: MediaSessionId | None = None
    error: ItemError | None = None


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The SFU's answer to an offer; `answer_sdp` is None only if every track failed."""

    tracks: tuple[TrackResult, ...]
    answer_sdp: str | None = None


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """The SFU's offer for pulled tracks; there is none if every track failed or reused a transceiver."""

    tracks: tuple[TrackResult, ...]
    offer_sdp: str | None = None
    requires_renegotiation: bool = False


class ClosedTracks(msgspec.Struct, frozen=True, kw_only=True):
    """The closed tracks; the client must apply `answer_sdp`, the answer to the offer in the request."""

    tracks: tuple[TrackResult, ...]
    answer_sdp: str | None = None


class DataChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A data channel to publish ("local") or subscribe to ("remote", with the publisher's session).

    `max_packet_life_time` is in ms and excludes `max_retransmits`. A subscriber repeats its publisher's choice.
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
    """The result for one data channel: the client opens it with `negotiated: true` and `id`; None if it failed."""

    data_channel_name: str = ""
    id: int | None = None
    location: Literal["local", "remote"] | None = None
    session_id: MediaSessionId | None = None
    error: ItemError | None = None


class EstablishedChannels(msgspec.Struct, frozen=True, kw_only=True):
    """The SFU's offer for the transport of data channels, or its answer to the client's offer."""

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
        return f"IceServer(urls={self.urls!r})"  # keeps the credential out of logs


class IceServers(msgspec.Struct, frozen=True, kw_only=True):
    """STUN and TURN servers; `expires_at` is in seconds since the epoch, or None if nothing expires."""

    servers: tuple[IceServer, ...]
    expires_at: float | None = None


class TrackState(msgspec.Struct, frozen=True, kw_only=True):
    """A track as the SFU sees it. An inactive track carries no media now and may become active again."""

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
    """An SFU. A session is one peer connection; its publisher's session and its name identify a track.

    **Order.** Calls that change a session must not overlap. After an offer of the SFU the next call is its answer.
    `Negotiation` enforces both. Calls for different sessions are independent.

    **No atomicity.** A request may fail in part: failed items carry `error`, the others take effect, and the caller
    must keep their mids for closing. A call that raises has changed nothing, unless the error's `after` is
    `After.REPLACE`: then the state of the session is unknown, and the caller must give it up and sweep it.

    **Retries.** The backend itself repeats only `close_tracks`, `close_channels` and `session_state`, a bounded number
    of times. A caller may repeat a call only if its error has `After.TRY_LATER`.

    **Cancellation** of a call that changes a session is like a lost reply: the SFU may have carried the call out.

    **Errors.** Every method raises only `SignalManagerError`s: a `MediaFault` of `media/errors.py` for an error of the
    SFU, and `InvalidRequestError` for arguments that cannot be sent. Any call on a session may raise
    `SessionGoneError`. The adapter limits the time of every call.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def validate_credentials(self) -> None:
        """Check app id and secret with one harmless call; raise CredentialsRefusedError or AppNotFoundError."""
        ...

    async def open_session(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """Open a session without transport. Call it just before negotiating, because an unused session expires.

        No call deletes a session: it ends with its connection. `correlation_id` is a label for the SFU's diagnostics.
        If the reply is lost, nothing needs cleaning up, because the session is empty.
        """
        ...

    async def publish(self, session_id: MediaSessionId, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """Publish the offer's m-sections as `tracks`; without `tracks` the SFU publishes and names every new one.

        The client applies `answer_sdp`. Another call before that may raise SessionNotReadyError.

        Raises:
            InvalidSessionDescriptionError: the SFU cannot use the SDP.
        """
        ...

    async def pull(self, session_id: MediaSessionId, tracks: Sequence[RemoteTrack]) -> Pulled:
        """Subscribe to tracks of other sessions. If `requires_renegotiation` is true, the client's answer must follow.

        Not idempotent: a repeated pull may subscribe twice. While the publisher is not sending yet, items fail with
        `not_found_track_error` or, after several seconds, with `empty_track_error`.
        """
        ...

    async def answer(self, session_id: MediaSessionId, answer_sdp: str) -> None:
        """Answer the SFU's last offer, once. A second answer may fail although the first was accepted.

        Raises:
            InvalidSessionDescriptionError: the SDP does not match the offer, which still waits for an answer.
        """
        ...

    async def close_tracks(
        self, session_id: MediaSessionId, mids: Sequence[str], *, offer_sdp: str | None = None
    ) -> ClosedTracks:
        """Close published or pulled tracks: at once without an offer, otherwise by negotiation.

        The call may be repeated. A missing mid fails with `close_track_error`, which means success.
        """
        ...

    async def update_tracks(
        self, session_id: MediaSessionId, updates: Sequence[TrackUpdate]
    ) -> tuple[TrackResult, ...]:
        """Change the layer or source of pulled tracks, without SDP; items fail with `update_track_error`."""
        ...

    async def establish_channels(
        self, session_id: MediaSessionId, *, offer_sdp: str | None = None
    ) -> EstablishedChannels:
        """Negotiate the transport for data channels, once per session; the SFU refuses a repetition.

        Not needed if the first published offer has an application m-section.
        """
        ...

    async def open_channels(
        self, session_id: MediaSessionId, channels: Sequence[DataChannel]
    ) -> tuple[ChannelResult, ...]:
        """Publish or subscribe to data channels; an item with a taken name fails with `repeated_local_track_error`."""
        ...

    async def update_channels(
        self, session_id: MediaSessionId, updates: Sequence[ChannelUpdate]
    ) -> tuple[ChannelResult, ...]:
        """Grant or revoke the right to reply. Granting it takes it from its present holder."""
        ...

    async def close_channels(self, session_id: MediaSessionId, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """Close data channels by id, without SDP. The call may be repeated."""
        ...

    async def session_state(self, session_id: MediaSessionId) -> SessionState:
        """Return the tracks and data channels of a session; raise SessionGoneError if the session has ended."""
        ...

    async def ice_servers(self) -> IceServers:
        """Return STUN servers and, if configured, TURN servers with new credentials that expire."""
        ...


class Ledger(Protocol):
    """Records every mid and session that the service created, until its closing is confirmed.

    The ledger in `storage` survives a crash. When a call returns, its entries are on disk. Writing or removing an entry
    twice is the same as once. The mid `WHOLE_SESSION` stands for the session itself.
    """

    async def caused(self, session_id: MediaSessionId, *mids: str) -> None:
        """Record that these mids of a session must be closed some day; record all of them, or none and raise."""
        ...

    async def closed(self, session_id: MediaSessionId, *mids: str) -> None:
        """Remove these mids of a session, whose closing is confirmed."""
        ...
