"""The JSON of the HTTP interface: Cloudflare Realtime's request and response objects, field by field.

Neighbours: `http` decodes and encodes them, `sessions` and `datachannels` fill them in. Fields that Cloudflare does
not know are ignored in requests; fields without a value are left out of responses.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from signal_manager.sfu.errors import ItemError

__all__ = [
    "ChannelsRequest",
    "ChannelsResponse",
    "CloseRequest",
    "DataChannelObject",
    "Empty",
    "ErrorResponse",
    "EstablishRequest",
    "EstablishResponse",
    "LoadResponse",
    "NewSessionRequest",
    "NewSessionResponse",
    "RenegotiateRequest",
    "SessionDescription",
    "Simulcast",
    "StateResponse",
    "TrackObject",
    "TracksRequest",
    "TracksResponse",
    "UpdateRequest",
]

# Names are locators that other clients repeat; the bound keeps them from filling memory and pages.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
StreamId = Annotated[int, msgspec.Meta(ge=0, le=65534)]
Count = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Location = Literal["local", "remote"]


class _Object(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A JSON object with names in camel case; fields that are None are omitted."""


class SessionDescription(_Object):
    """An SDP and its type."""

    sdp: str
    type: Literal["offer", "answer"]


class Simulcast(_Object):
    """The simulcast layer that a subscriber wants."""

    preferred_rid: str | None = None
    priority_ordering: Literal["none", "asciibetical"] | None = None
    rid_not_available: Literal["none", "asciibetical"] | None = None


class TrackObject(_Object):
    """One track of a request or a response."""

    location: Location | None = None
    mid: str | None = None
    session_id: str | None = None
    track_name: Name | None = None
    bidirectional_media_stream: bool | None = None
    kind: Literal["audio", "video"] | None = None
    simulcast: Simulcast | None = None
    status: Literal["active", "inactive"] | None = None
    error_code: str | None = None
    error_description: str | None = None

    def failed(self, error: ItemError) -> TrackObject:
        """Return the response's item for this track when it failed."""
        return TrackObject(
            session_id=self.session_id,
            track_name=self.track_name,
            mid=self.mid or "",
            error_code=error.code,
            error_description=error.description,
        )


class NewSessionRequest(_Object):
    """The optional body of sessions/new."""

    session_description: SessionDescription | None = None


class NewSessionResponse(_Object):
    """A new session, with an answer if the request had an offer."""

    session_id: str
    session_description: SessionDescription | None = None


class LoadResponse(_Object):
    """The load of one worker of an SFU, for the process in front of the workers."""

    packets_per_second: float
    busy: float
    rooms: list[str]


class TracksRequest(_Object):
    """The body of tracks/new."""

    session_description: SessionDescription | None = None
    tracks: list[TrackObject] | None = None
    auto_discover: bool = False


class TracksResponse(_Object):
    """The response to tracks/new, tracks/close and tracks/update."""

    requires_immediate_renegotiation: bool
    tracks: list[TrackObject]
    session_description: SessionDescription | None = None


class RenegotiateRequest(_Object):
    """The body of renegotiate."""

    session_description: SessionDescription


class Empty(_Object):
    """The response to renegotiate, with an answer if the request had an offer."""

    session_description: SessionDescription | None = None


class CloseRequest(_Object):
    """The body of tracks/close."""

    tracks: list[TrackObject]
    force: bool
    session_description: SessionDescription | None = None


class UpdateRequest(_Object):
    """The body of tracks/update."""

    tracks: list[TrackObject]


class DataChannelObject(_Object):
    """One data channel of a request or a response."""

    location: Location | None = None
    session_id: str | None = None
    data_channel_name: Name | None = None
    id: StreamId | None = None
    ordered: bool | None = None
    max_retransmits: Count | None = None
    max_packet_life_time: Count | None = None
    wait_for_ack: bool | None = None
    can_reply: bool | None = None
    status: Literal["active", "inactive", "initializing"] | None = None
    error_code: str | None = None
    error_description: str | None = None


class ChannelsRequest(_Object):
    """The body of datachannels/new, /update and /close."""

    data_channels: list[DataChannelObject]


class ChannelsResponse(_Object):
    """The response to datachannels/new, /update and /close."""

    data_channels: list[DataChannelObject]


class EstablishRequest(_Object):
    """The body of datachannels/establish."""

    data_channel: DataChannelObject
    session_description: SessionDescription | None = None


class EstablishResponse(_Object):
    """The response to datachannels/establish."""

    requires_immediate_renegotiation: bool
    data_channel: DataChannelObject
    session_description: SessionDescription


class StateResponse(_Object):
    """The response to GET of a session."""

    tracks: list[TrackObject]
    data_channels: list[DataChannelObject]


class ErrorResponse(_Object):
    """The response to a request that failed as a whole."""

    error_code: str
    error_description: str
