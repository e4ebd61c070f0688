"""Cloudflare Realtime's JSON as typed structs, and its refusals as errors.

`cloudflare.py` sends and reads these. Decoding ignores unknown fields and accepts null for optional ones, because the
interface is only partly documented. `cloudflare.py` checks that required fields are there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from signal_manager.media.base import (
    ChannelResult,
    ChannelUpdate,
    DataChannel,
    ItemError,
    LocalTrack,
    MediaSessionId,
    RemoteTrack,
    Simulcast,
    TrackResult,
    TrackUpdate,
)
from signal_manager.media.errors import (
    FAULTS,
    After,
    AppNotFoundError,
    CredentialsRefusedError,
    InternalFaultError,
    InvalidParametersError,
    MediaFault,
    PayloadTooLargeError,
    RequestNotUnderstoodError,
    SessionGoneError,
    SessionNotReadyError,
    SfuRefusedError,
    TooManyCallsError,
)

# The SFU's text goes to clients and logs; a sentence is enough there.
DESCRIPTION_LENGTH = 200
# URLs, paths, and runs long enough to be an id, a key or a piece of SDP: useless to clients, and perhaps secret.
_TELLING = re.compile(r"\S+://\S+|\S*/\S+/\S*|[A-Za-z0-9+=_.~-]{32,}")

# For replies without a known error code.
FAULT_BY_STATUS: dict[int, type[MediaFault]] = {
    400: RequestNotUnderstoodError,
    401: CredentialsRefusedError,
    403: CredentialsRefusedError,
    404: AppNotFoundError,
    406: InvalidParametersError,
    410: SessionGoneError,
    413: PayloadTooLargeError,
    425: SessionNotReadyError,
    429: TooManyCallsError,
}


class SimulcastJson(msgspec.Struct, rename="camel", omit_defaults=True):
    """Section "Simulcast" of a track."""

    preferred_rid: str
    priority_ordering: str = "none"
    rid_not_available: str = "none"


class SessionDescriptionJson(msgspec.Struct):
    """An offer or an answer."""

    type: Literal["offer", "answer"]
    sdp: str


class TrackJson(msgspec.Struct, rename="camel", omit_defaults=True):
    """A track as requests and replies carry it; replies add the error of a failed item."""

    location: Literal["local", "remote"] | None = None
    mid: str | None = None
    session_id: str | None = None
    track_name: str | None = None
    simulcast: SimulcastJson | None = None
    status: str | None = None
    error_code: str | None = None
    error_description: str | None = None


class ChannelJson(msgspec.Struct, rename="camel", omit_defaults=True):
    """A data channel as requests and replies carry it."""

    location: Literal["local", "remote"] | None = None
    data_channel_name: str | None = None
    session_id: str | None = None
    id: int | None = None
    ordered: bool | None = None
    max_retransmits: int | None = None
    max_packet_life_time: int | None = None
    wait_for_ack: bool | None = None
    can_reply: bool | None = None
    status: str | None = None
    error_code: str | None = None
    error_description: str | None = None


class TracksRequest(msgspec.Struct, rename="camel", omit_defaults=True):
    """Body of tracks/new, tracks/close, tracks/update and renegotiate; each uses some of the fields."""

    session_description: SessionDescriptionJson | None = None
    tracks: list[TrackJson] | None = None
    auto_discover: bool | None = None
    force: bool | None = None


class ChannelsRequest(msgspec.Struct, rename="camel", omit_defaults=True):
    """Body of the calls about data channels; only establish uses `data_channel`."""

    session_description: SessionDescriptionJson | None = None
    data_channel: ChannelJson | None = None
    data_channels: list[ChannelJson] | None = None


class ErrorJson(msgspec.Struct, rename="camel"):
    """A refusal of a whole request. A reply with a status of success may also contain one."""

    error_code: str | None = None
    error_description: str | None = None

    def has_failed_items(self) -> bool:
        """Tell whether an item failed although the whole request succeeded."""
        return False


class SessionReply(ErrorJson, rename="camel"):
    """Reply of sessions/new."""

    session_id: str | None = None


class TracksReply(ErrorJson, rename="camel"):
    """Reply of the calls about tracks."""

    requires_immediate_renegotiation: bool | None = None
    tracks: list[TrackJson] | None = None
    session_description: SessionDescriptionJson | None = None

    def has_failed_items(self) -> bool:
        """Tell whether an item of the reply has an error."""
        return any(item.error_code for item in self.tracks or ())


class ChannelsReply(ErrorJson, rename="camel"):
    """Reply of the calls about data channels."""

    requires_immediate_renegotiation: bool | None = None
    data_channel: ChannelJson | None = None
    data_channels: list[ChannelJson] | None = None
    session_description: SessionDescriptionJson | None = None

    def has_failed_items(self) -> bool:
        """Tell whether an item of the reply has an error."""
        return any(item.error_code for item in self.data_channels or ())


class StateReply(ErrorJson, rename="camel"):
    """Reply of GET on a session."""

    tracks: list[TrackJson] | None = None
    data_channels: list[ChannelJson] | None = None


class IceServerJson(msgspec.Struct):
    """One STUN or TURN server; the older endpoint sends one URL as a plain string."""

    urls: list[str] | str
    username: str | None = None
    credential: str | None = None


class IceServersReply(ErrorJson, rename="camel"):
    """Reply of generate-ice-servers, or of the older endpoint with its single object."""

    ice_servers: list[IceServerJson] | IceServerJson | None = None


def simulcast_json(simulcast: Simulcast | None) -> SimulcastJson | None:
    """Return the SFU's JSON for a choice of simulcast layer."""
    if simulcast is None:
        return None
    return SimulcastJson(simulcast.preferred_rid, simulcast.priority_ordering, simulcast.rid_not_available)


def track_json(track: LocalTrack | RemoteTrack | TrackUpdate) -> TrackJson:
    """Return the SFU's JSON for a track of a request."""
    if isinstance(track, LocalTrack):
        return TrackJson(location="local", mid=track.mid, track_name=track.track_name)
    return TrackJson(
        location="remote",
        mid=track.mid,
        session_id=track.session_id,
        track_name=track.track_name,
        simulcast=simulcast_json(track.simulcast),
    )


def channel_json(channel: DataChannel | ChannelUpdate) -> ChannelJson:
    """Return the SFU's JSON for a data channel of a request."""
    if isinstance(channel, ChannelUpdate):
        channel = DataChannel(location="remote", **msgspec.structs.asdict(channel))
    return ChannelJson(**msgspec.structs.asdict(channel))


def track_result(item: TrackJson) -> TrackResult:
    """Return the result for one track of a reply."""
    return TrackResult(
        mid=item.mid or "",
        track_name=item.track_name or "",
        session_id=MediaSessionId(item.session_id) if item.session_id else None,
        error=item_error(item),
    )


def channel_result(item: ChannelJson) -> ChannelResult:
    """Return the result for one data channel of a reply."""
    return ChannelResult(
        data_channel_name=item.data_channel_name or "",
        id=item.id,
        location=item.location,
        session_id=MediaSessionId(item.session_id) if item.session_id else None,
        error=item_error(item),
    )


def item_error(item: TrackJson | ChannelJson) -> ItemError | None:
    """Return why an item of a reply failed, or None if it succeeded."""
    if not item.error_code:
        return None
    return ItemError(
        error_code=harmless(item.error_code), message=harmless(item.error_description or "no reason given")
    )


def fault_of(status: int, content: bytes, *, of_session: bool, secrets: Sequence[str] = ()) -> MediaFault:
    """Return the error for a reply that refuses a call.

    Args:
        status: the reply's HTTP status, 300 or above (or 200 with an `errorCode` for the whole).
        content: the reply's body, of any shape.
        of_session: whether the call was about an existing session; then a 404 means that the session is gone.
        secrets: texts to keep out of the message, even if the SFU sends them back.
    """
    try:
        body = msgspec.json.decode(content, type=ErrorJson)
    except msgspec.MsgspecError:
        body = ErrorJson()
    code = body.error_code or ""
    kind = FAULTS.get(code) or FAULT_BY_STATUS.get(status) or (InternalFaultError if status >= 500 else SfuRefusedError)
    if status == 410 or (status == 404 and of_session):
        kind = SessionGoneError
    description = body.error_description or "no reason given"
    for secret in filter(None, secrets):
        description = description.replace(secret, "…")
    known = code if code in FAULTS else "no known error code"
    # Only a refusal below 500 means that nothing was carried out, unless the session is gone.
    after = After.REPLACE if status >= 500 else None
    return kind(f"the SFU replied {status}, {known}: {harmless(description)}", after=after)


def harmless(text: str) -> str:
    """Return another service's text as one short printable line without URLs, paths, keys or SDP."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    line = _TELLING.sub("…", "".join(character for character in line if character.isprintable()))
    return line if len(line) <= DESCRIPTION_LENGTH else line[: DESCRIPTION_LENGTH - 1] + "…"
