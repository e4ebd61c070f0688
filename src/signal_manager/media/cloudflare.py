"""A `MediaBackend` over HTTP, for Cloudflare Realtime and for SFUs with the same interface, such as the local SFU.

It turns calls into Cloudflare's JSON (`cloudflare_wire.py`), and `cloudflare_client.py` sends it. Its only state is its
connections. `negotiation.py` makes sure that calls of one session never overlap.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from signal_manager.errors import InvalidRequestError
from signal_manager.media import cloudflare_wire as wire
from signal_manager.media.base import (
    ChannelResult,
    ChannelState,
    ChannelUpdate,
    ClosedTracks,
    DataChannel,
    EstablishedChannels,
    IceServer,
    IceServers,
    LocalTrack,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    SessionState,
    TrackResult,
    TrackState,
    TrackUpdate,
)
from signal_manager.media.cloudflare_client import CloudflareClient, Endpoint, Transport
from signal_manager.media.errors import NoAnswerError
from signal_manager.observe.metrics import Metrics

__all__ = ["CloudflareBackend"]

# Cloudflare's limit for one request. Checking it here avoids a refused call.
MAX_ITEMS = 64
# Browsers refuse TURN over port 53, and trying it costs them seconds of gathering.
BLOCKED_PORT = ":53"
# Cloudflare's session ids have 32 characters. The bound keeps wrong values out of paths and records.
MAX_SESSION_ID = 128

SESSIONS_NEW = Endpoint(name="sessions_new", method="POST", path="/sessions/new", reply=wire.SessionReply)
# All others except TURN are under /sessions/{sessionId}.
SESSION_GET = Endpoint(name="session_get", method="GET", path="", reply=wire.StateReply, is_safe=True)
TRACKS_NEW = Endpoint(name="tracks_new", method="POST", path="/tracks/new", reply=wire.TracksReply)
RENEGOTIATE = Endpoint(name="renegotiate", method="PUT", path="/renegotiate", reply=wire.TracksReply)
TRACKS_CLOSE = Endpoint(name="tracks_close", method="PUT", path="/tracks/close", reply=wire.TracksReply, is_safe=True)
TRACKS_UPDATE = Endpoint(name="tracks_update", method="PUT", path="/tracks/update", reply=wire.TracksReply)
CHANNELS_ESTABLISH = Endpoint(
    name="datachannels_establish", method="POST", path="/datachannels/establish", reply=wire.ChannelsReply
)
CHANNELS_NEW = Endpoint(name="datachannels_new", method="POST", path="/datachannels/new", reply=wire.ChannelsReply)
CHANNELS_UPDATE = Endpoint(
    name="datachannels_update", method="PUT", path="/datachannels/update", reply=wire.ChannelsReply
)
CHANNELS_CLOSE = Endpoint(
    name="datachannels_close", method="PUT", path="/datachannels/close", reply=wire.ChannelsReply, is_safe=True
)
TURN_CREDENTIALS = Endpoint(
    name="turn_credentials", method="POST", path="/credentials/generate-ice-servers", reply=wire.IceServersReply
)


class CloudflareBackend:
    """Calls one app of a Cloudflare Realtime SFU.

    Args:
        app_id: the app's id.
        app_secret: the app's secret; it appears in no log, error or repr.
        metrics: counts the latency and outcomes of calls.
        base_url: the SFU's URL; a trailing slash is optional. Only this differs for the local SFU.
        stun_url: the STUN server for clients if no TURN key is configured; "" for none.
        turn_key_id: the TURN key, or "" for no TURN.
        turn_key_token: the TURN key's token, as secret as the app secret.
        turn_ttl: the lifetime of TURN credentials in seconds, at most 48 h.
        request_timeout: the limit for one HTTP request in seconds, from connecting to the last byte.
        max_connections: the most open connections; over HTTP/2 one carries about a hundred calls at once.
        retry_wait: the longest first pause before a safe call is repeated, in seconds; it doubles, with full jitter.
        transport: carries the requests; None for HTTP.

    Raises:
        ConfigurationError: `base_url` is not an HTTP URL.
    """

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        metrics: Metrics,
        base_url: str = "https://rtc.live.cloudflare.com/v1",
        stun_url: str = "stun:stun.cloudflare.com:3478",
        turn_key_id: str = "",
        turn_key_token: str = "",
        turn_ttl: float = 3600.0,
        request_timeout: float = 10.0,
        max_connections: int = 256,
        retry_wait: float = 0.2,
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            # Imports httpx, which takes long, and which an SFU in this process does not need.
            from signal_manager.media.cloudflare_http import Pools  # noqa: PLC0415

            transport = Pools(base_url, max_connections=max_connections, timeout=request_timeout)
        self._transport = transport
        base_url = base_url.rstrip("/")
        self._app_url = f"{base_url}/apps/{quote(app_id, safe='')}"
        self._stun_url = stun_url
        self._turn_url = f"{base_url}/turn/keys/{quote(turn_key_id, safe='')}"
        self._turn_token = turn_key_token if turn_key_id else ""
        self._turn_ttl = turn_ttl
        self._client = CloudflareClient(
            transport,
            secret=app_secret,
            hidden=(self._turn_token,),
            metrics=metrics,
            request_timeout=request_timeout,
            retry_wait=retry_wait,
        )

    def __repr__(self) -> str:
        return f"CloudflareBackend({self._app_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def validate_credentials(self) -> None:
        """Check the credentials: open a session, which expires unused, and request TURN credentials for one minute.

        A request for a session that cannot exist would leave nothing behind, but its 404 could mean app or session.

        Raises:
            CredentialsRefusedError: the SFU refuses the secret or the TURN token.
            AppNotFoundError: there is no such app or TURN key.
            UnreachableError, NoAnswerError: the credentials could not be checked.
        """
        await self.open_session(correlation_id="check-config")
        if self._turn_token:
            await self._generate_ice_servers(60)

    async def open_session(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """Open a session and return its id.

        The request has no body: one with an offer is undocumented, and makes the next call come too early.
        """
        query = f"?correlationId={quote(correlation_id, safe='')}" if correlation_id else ""
        reply = await self._client.attempt(SESSIONS_NEW, self._app_url, None, query=query)
        session_id = reply.session_id or ""
        if not session_id or len(session_id) > MAX_SESSION_ID or not session_id.isprintable():
            raise NoAnswerError(f"sessionId of {len(session_id)} characters, expected 1 to {MAX_SESSION_ID}")
        return MediaSessionId(session_id)

    async def publish(self, session_id: MediaSessionId, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """Publish the offer's m-sections as `tracks` and return the SFU's answer."""
        _check_count("tracks", tracks, least=0)
        body = wire.TracksRequest(
            session_description=_description("offer", offer_sdp),
            tracks=[wire.track_json(track) for track in tracks] or None,
            auto_discover=None if tracks else True,
        )
        reply = await self._client.call(TRACKS_NEW, self._session_url(session_id), body)
        results = _track_results(reply)
        answer = _sdp(reply, "answer")
        if answer is None and any(result.error is None for result in results):
            raise NoAnswerError("tracks without an answer, expected both or neither")
        return Published(tracks=results, answer_sdp=answer)

    async def pull(self, session_id: MediaSessionId, tracks: Sequence[RemoteTrack]) -> Pulled:
        """Pull tracks of other sessions and return the SFU's offer, if there is one."""
        _check_count("tracks", tracks)
        body = wire.TracksRequest(tracks=[wire.track_json(track) for track in tracks])
        reply = await self._client.call(TRACKS_NEW, self._session_url(session_id), body)
        results = _track_results(reply)
        offer = _sdp(reply, "offer")
        must_answer = bool(reply.requires_immediate_renegotiation)
        if must_answer and offer is None:
            raise NoAnswerError("immediate renegotiation without an offer, expected an offer")
        return Pulled(tracks=results, offer_sdp=offer, requires_renegotiation=must_answer)

    async def answer(self, session_id: MediaSessionId, answer_sdp: str) -> None:
        """Send the client's answer to the SFU's last offer."""
        body = wire.TracksRequest(session_description=_description("answer", answer_sdp))
        await self._client.call(RENEGOTIATE, self._session_url(session_id), body)

    async def close_tracks(
        self, session_id: MediaSessionId, mids: Sequence[str], *, offer_sdp: str | None = None
    ) -> ClosedTracks:
        """Close tracks at once, or by negotiation with an offer."""
        _check_count("mids", mids)
        body = wire.TracksRequest(
            tracks=[wire.TrackJson(mid=mid) for mid in mids],
            force=offer_sdp is None,
            session_description=None if offer_sdp is None else _description("offer", offer_sdp),
        )
        reply = await self._client.call(TRACKS_CLOSE, self._session_url(session_id), body)
        return ClosedTracks(tracks=_track_results(reply), answer_sdp=_sdp(reply, "answer"))

    async def update_tracks(
        self, session_id: MediaSessionId, updates: Sequence[TrackUpdate]
    ) -> tuple[TrackResult, ...]:
        """Change the layer or source of pulled tracks."""
        _check_count("tracks", updates)
        body = wire.TracksRequest(tracks=[wire.track_json(update) for update in updates])
        reply = await self._client.call(TRACKS_UPDATE, self._session_url(session_id), body)
        return _track_results(reply)

    async def establish_channels(
        self, session_id: MediaSessionId, *, offer_sdp: str | None = None
    ) -> EstablishedChannels:
        """Negotiate the transport for data channels."""
        body = wire.ChannelsRequest(
            data_channel=wire.ChannelJson(location="remote", data_channel_name="server-events"),
            session_description=None if offer_sdp is None else _description("offer", offer_sdp),
        )
        reply = await self._client.call(CHANNELS_ESTABLISH, self._session_url(session_id), body)
        offer, answer = _sdp(reply, "offer"), _sdp(reply, "answer")
        if reply.data_channel is None:
            raise NoAnswerError("a reply without a data channel, expected one")
        channel = wire.channel_result(reply.data_channel)
        if channel.error is None and offer is None and answer is None:
            raise NoAnswerError("a data channel without a session description, expected one")
        return EstablishedChannels(
            channel=channel,
            offer_sdp=offer,
            answer_sdp=answer,
            requires_renegotiation=bool(reply.requires_immediate_renegotiation),
        )

    async def open_channels(
        self, session_id: MediaSessionId, channels: Sequence[DataChannel]
    ) -> tuple[ChannelResult, ...]:
        """Publish data channels or subscribe to them."""
        return await self._channels(CHANNELS_NEW, session_id, [wire.channel_json(item) for item in channels])

    async def update_channels(
        self, session_id: MediaSessionId, updates: Sequence[ChannelUpdate]
    ) -> tuple[ChannelResult, ...]:
        """Grant or revoke the right to reply on data channels."""
        return await self._channels(CHANNELS_UPDATE, session_id, [wire.channel_json(item) for item in updates])

    async def close_channels(self, session_id: MediaSessionId, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """Close data channels by id."""
        return await self._channels(CHANNELS_CLOSE, session_id, [wire.ChannelJson(id=item) for item in ids])

    async def session_state(self, session_id: MediaSessionId) -> SessionState:
        """Return the tracks and data channels of a session."""
        reply = await self._client.call(SESSION_GET, self._session_url(session_id))
        return SessionState(
            tracks=tuple(
                TrackState(
                    mid=item.mid or "",
                    track_name=item.track_name or "",
                    location=item.location,
                    session_id=MediaSessionId(item.session_id) if item.session_id else None,
                    is_active=item.status == "active",
                )
                for item in reply.tracks or ()
            ),
            channels=tuple(
                ChannelState(
                    data_channel_name=item.data_channel_name or "",
                    id=item.id,
                    location=item.location,
                    session_id=MediaSessionId(item.session_id) if item.session_id else None,
                    status=item.status or "",
                )
                for item in reply.data_channels or ()
            ),
        )

    async def ice_servers(self) -> IceServers:
        """Return STUN and TURN servers; without a TURN key this makes no call."""
        if not self._turn_token:
            return IceServers(servers=(IceServer(urls=(self._stun_url,)),) if self._stun_url else ())
        asked_at = time.time()
        servers = await self._generate_ice_servers(int(self._turn_ttl))
        return IceServers(servers=servers, expires_at=asked_at + int(self._turn_ttl))

    async def _generate_ice_servers(self, ttl: int) -> tuple[IceServer, ...]:
        reply = await self._client.attempt(TURN_CREDENTIALS, self._turn_url, {"ttl": ttl}, token=self._turn_token)
        listed = reply.ice_servers
        entries = [listed] if isinstance(listed, wire.IceServerJson) else listed or []
        servers = tuple(server for server in map(_ice_server, entries) if server.urls)
        if not servers:
            raise NoAnswerError("a reply without ICE servers, expected at least one")
        return servers

    def _session_url(self, session_id: MediaSessionId) -> str:
        return f"{self._app_url}/sessions/{quote(session_id, safe='')}"

    async def _channels(
        self, endpoint: Endpoint[wire.ChannelsReply], session_id: MediaSessionId, channels: list[wire.ChannelJson]
    ) -> tuple[ChannelResult, ...]:
        _check_count("data channels", channels)
        reply = await self._client.call(
            endpoint, self._session_url(session_id), wire.ChannelsRequest(data_channels=channels)
        )
        return tuple(wire.channel_result(item) for item in reply.data_channels or ())


def _check_count(what: str, items: Sequence[Any], *, least: int = 1) -> None:
    if not least <= len(items) <= MAX_ITEMS:
        raise InvalidRequestError(f"{len(items)} {what}, expected {least} to {MAX_ITEMS}")


def _description(kind: Literal["offer", "answer"], sdp: str) -> wire.SessionDescriptionJson:
    """Return an SDP for the SFU, with the line end of its last line, which clients may trim and the SFU requires."""
    return wire.SessionDescriptionJson(type=kind, sdp=sdp if sdp.endswith("\n") else sdp + "\r\n")


def _sdp(reply: wire.TracksReply | wire.ChannelsReply, kind: Literal["offer", "answer"]) -> str | None:
    description = reply.session_description
    return description.sdp if description is not None and description.type == kind else None


def _track_results(reply: wire.TracksReply) -> tuple[TrackResult, ...]:
    results = tuple(wire.track_result(item) for item in reply.tracks or ())
    if any(not result.mid and result.error is None for result in results):
        raise NoAnswerError("a track with neither mid nor error, expected one of them")
    return results


def _ice_server(entry: wire.IceServerJson) -> IceServer:
    urls = [entry.urls] if isinstance(entry.urls, str) else entry.urls
    usable = tuple(url for url in urls if not url.partition("?")[0].endswith(BLOCKED_PORT))
    return IceServer(urls=usable, username=entry.username, credential=entry.credential)
