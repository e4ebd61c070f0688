"""The Cloudflare Realtime SFU over HTTP, and whatever speaks the same interface, such as the local SFU.

`MediaBackend` for rooms: product words in, Cloudflare's JSON (`cloudflare_wire.py`) out, one typed error per error
code. It keeps no state but its connections; that calls of one session never overlap is `negotiation.py`'s affair.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import tenacity

from signal_manager.errors import ConfigurationError, InvalidRequestError
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
from signal_manager.media.cloudflare_http import Pools
from signal_manager.media.errors import (
    After,
    MediaFault,
    NoAnswerError,
    SessionGoneError,
    SessionNotReadyError,
    UnreachableError,
)
from signal_manager.observe.metrics import Metrics

__all__ = ["CloudflareBackend"]

# Cloudflare's limit for one request; a larger one would be refused after the fact.
MAX_ITEMS = 64
# An offer for dozens of tracks stays well below 1 MB; anything larger is no reply of an SFU.
MAX_REPLY = 4 * 1024 * 1024
# TURN over port 53 is what browsers refuse to use, and trying costs them seconds of gathering.
BLOCKED_PORT = ":53"
# Cloudflare's session ids are 32 characters; the bound only keeps nonsense out of paths and records.
MAX_SESSION_ID = 128

Reply = TypeVar("Reply", bound=wire.ErrorJson)


@dataclass(frozen=True, kw_only=True)
class Endpoint(Generic[Reply]):
    """One call of the interface; `is_safe` says that a repetition can do no harm."""

    name: str
    method: Literal["GET", "POST", "PUT"]
    path: str
    reply: type[Reply]
    is_safe: bool = False


SESSIONS_NEW = Endpoint(name="sessions_new", method="POST", path="/sessions/new", reply=wire.SessionReply)
# The rest, but for TURN, is under /sessions/{sessionId}.
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
    """Speak to one app of a Cloudflare Realtime SFU.

    Args:
        app_id: the app's id.
        app_secret: the app's secret; it appears in no log, error or repr.
        metrics: where latency and outcomes of calls are counted.
        base_url: without a trailing slash needed; only this differs for the local SFU.
        stun_url: the STUN server named to clients when no TURN key is configured; "" for none.
        turn_key_id: the TURN key, or "" for no TURN.
        turn_key_token: that key's token, as secret as the app secret.
        turn_ttl: for how long TURN credentials are made, in seconds, at most 48 h.
        request_timeout: the limit for one HTTP request in seconds, from connecting to the last byte.
        max_connections: connections held at most; over HTTP/2 one carries about a hundred calls at once.
        retry_wait: the longest first pause before a safe call is repeated, in seconds; it doubles, with full jitter.

    Raises:
        ConfigurationError: `base_url` is no HTTP URL.
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
    ) -> None:
        base_url = _checked_url(base_url)
        self._app_url = f"{base_url}/apps/{quote(app_id, safe='')}"
        self._app_secret = app_secret
        self._metrics = metrics
        self._stun_url = stun_url
        self._turn_url = f"{base_url}/turn/keys/{quote(turn_key_id, safe='')}"
        self._turn_token = turn_key_token if turn_key_id else ""
        self._turn_ttl = turn_ttl
        self._request_timeout = request_timeout
        self._retry_wait = retry_wait
        # On HTTP/2 its debug lines hold every header as it is sent, and so the secrets.
        logging.getLogger("hpack").setLevel(logging.WARNING)
        self._http = Pools(
            max_connections=max_connections,
            timeout=httpx.Timeout(request_timeout, connect=min(5.0, request_timeout)),
            is_local=httpx.URL(base_url).host in {"127.0.0.1", "::1", "localhost"},
            is_secure=base_url.startswith("https:"),
        )

    def __repr__(self) -> str:
        return f"CloudflareBackend({self._app_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def validate_credentials(self) -> None:
        """Open a session, which expires unused; with TURN configured, also ask for a minute's credentials.

        Asking for a session that cannot exist would leave nothing at all, but a 404 could then mean app or session.

        Raises:
            CredentialsRefusedError: the secret or the TURN token is not accepted.
            AppNotFoundError: there is no such app or TURN key.
            UnreachableError, NoAnswerError: nothing can be said.
        """
        await self.open_session(correlation_id="check-config")
        if self._turn_token:
            await self._generate_ice_servers(60)

    async def open_session(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """See `MediaBackend`. No body: one with an offer is undocumented, and makes the next call come too early."""
        query = f"?correlationId={quote(correlation_id, safe='')}" if correlation_id else ""
        reply = await self._attempt(SESSIONS_NEW, self._app_url, None, query=query)
        session_id = reply.session_id or ""
        if not session_id or len(session_id) > MAX_SESSION_ID or not session_id.isprintable():
            raise NoAnswerError(f"sessionId of {len(session_id)} characters, expected 1 to {MAX_SESSION_ID}")
        return MediaSessionId(session_id)

    async def publish(self, session_id: MediaSessionId, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """See `MediaBackend`."""
        _check_count("tracks", tracks, least=0)
        body = wire.TracksRequest(
            session_description=_description("offer", offer_sdp),
            tracks=[wire.track_json(track) for track in tracks] or None,
            auto_discover=None if tracks else True,
        )
        reply = await self._call(TRACKS_NEW, session_id, body)
        results = _track_results(reply)
        answer = _sdp(reply, "answer")
        if answer is None and any(result.error is None for result in results):
            raise NoAnswerError("tracks without an answer, expected both or neither")
        return Published(tracks=results, answer_sdp=answer)

    async def pull(self, session_id: MediaSessionId, tracks: Sequence[RemoteTrack]) -> Pulled:
        """See `MediaBackend`."""
        _check_count("tracks", tracks)
        body = wire.TracksRequest(tracks=[wire.track_json(track) for track in tracks])
        reply = await self._call(TRACKS_NEW, session_id, body)
        results = _track_results(reply)
        offer = _sdp(reply, "offer")
        must_answer = bool(reply.requires_immediate_renegotiation)
        if must_answer and offer is None:
            raise NoAnswerError("immediate renegotiation without an offer, expected an offer")
        return Pulled(tracks=results, offer_sdp=offer, requires_renegotiation=must_answer)

    async def answer(self, session_id: MediaSessionId, answer_sdp: str) -> None:
        """See `MediaBackend`."""
        body = wire.TracksRequest(session_description=_description("answer", answer_sdp))
        await self._call(RENEGOTIATE, session_id, body)

    async def close_tracks(
        self, session_id: MediaSessionId, mids: Sequence[str], *, offer_sdp: str | None = None
    ) -> ClosedTracks:
        """See `MediaBackend`."""
        _check_count("mids", mids)
        body = wire.TracksRequest(
            tracks=[wire.TrackJson(mid=mid) for mid in mids],
            force=offer_sdp is None,
            session_description=None if offer_sdp is None else _description("offer", offer_sdp),
        )
        reply = await self._call(TRACKS_CLOSE, session_id, body)
        return ClosedTracks(tracks=_track_results(reply), answer_sdp=_sdp(reply, "answer"))

    async def update_tracks(
        self, session_id: MediaSessionId, updates: Sequence[TrackUpdate]
    ) -> tuple[TrackResult, ...]:
        """See `MediaBackend`."""
        _check_count("tracks", updates)
        body = wire.TracksRequest(tracks=[wire.track_json(update) for update in updates])
        reply = await self._call(TRACKS_UPDATE, session_id, body)
        return _track_results(reply)

    async def establish_channels(
        self, session_id: MediaSessionId, *, offer_sdp: str | None = None
    ) -> EstablishedChannels:
        """See `MediaBackend`."""
        body = wire.ChannelsRequest(
            data_channel=wire.ChannelJson(location="remote", data_channel_name="server-events"),
            session_description=None if offer_sdp is None else _description("offer", offer_sdp),
        )
        reply = await self._call(CHANNELS_ESTABLISH, session_id, body)
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
        """See `MediaBackend`."""
        return await self._channels(CHANNELS_NEW, session_id, [wire.channel_json(item) for item in channels])

    async def update_channels(
        self, session_id: MediaSessionId, updates: Sequence[ChannelUpdate]
    ) -> tuple[ChannelResult, ...]:
        """See `MediaBackend`."""
        return await self._channels(CHANNELS_UPDATE, session_id, [wire.channel_json(item) for item in updates])

    async def close_channels(self, session_id: MediaSessionId, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """See `MediaBackend`."""
        return await self._channels(CHANNELS_CLOSE, session_id, [wire.ChannelJson(id=item) for item in ids])

    async def session_state(self, session_id: MediaSessionId) -> SessionState:
        """See `MediaBackend`."""
        reply = await self._call(SESSION_GET, session_id)
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
        """See `MediaBackend`. Without a TURN key this makes no call."""
        if not self._turn_token:
            return IceServers(servers=(IceServer(urls=(self._stun_url,)),) if self._stun_url else ())
        asked_at = time.time()
        servers = await self._generate_ice_servers(int(self._turn_ttl))
        return IceServers(servers=servers, expires_at=asked_at + int(self._turn_ttl))

    async def _generate_ice_servers(self, ttl: int) -> tuple[IceServer, ...]:
        reply = await self._attempt(TURN_CREDENTIALS, self._turn_url, {"ttl": ttl}, token=self._turn_token)
        listed = reply.ice_servers
        entries = [listed] if isinstance(listed, wire.IceServerJson) else listed or []
        servers = tuple(server for server in map(_ice_server, entries) if server.urls)
        if not servers:
            raise NoAnswerError("a reply without ICE servers, expected at least one")
        return servers

    async def _channels(
        self, endpoint: Endpoint[wire.ChannelsReply], session_id: MediaSessionId, channels: list[wire.ChannelJson]
    ) -> tuple[ChannelResult, ...]:
        _check_count("data channels", channels)
        reply = await self._call(endpoint, session_id, wire.ChannelsRequest(data_channels=channels))
        return tuple(wire.channel_result(item) for item in reply.data_channels or ())

    async def _call(self, endpoint: Endpoint[Reply], session_id: MediaSessionId, body: Any = None) -> Reply:
        """Make one call; a safe one is repeated, at most twice and not begun later than one request may take."""
        url = f"{self._app_url}/sessions/{quote(session_id, safe='')}"
        if not endpoint.is_safe:
            return await self._attempt(endpoint, url, body, of_session=True)
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_repeat),
            stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(self._request_timeout),
            wait=tenacity.wait_random_exponential(multiplier=self._retry_wait, max=2.0),
            reraise=True,
        )
        return await attempts(self._attempt, endpoint, url, body, of_session=True)

    async def _attempt(
        self,
        endpoint: Endpoint[Reply],
        url: str,
        body: Any,
        *,
        query: str = "",
        token: str | None = None,
        of_session: bool = False,
    ) -> Reply:
        """Send one request, read its reply, and count how it ended."""
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            status, content = await self._exchange(
                endpoint.method, url + endpoint.path + query, body, self._app_secret if token is None else token
            )
            secrets = (self._app_secret, self._turn_token)
            reply = _read(status, content, endpoint.reply, of_session=of_session, secrets=secrets)
            outcome = "partial" if reply.has_failed_items() else "ok"
        except MediaFault as fault:
            outcome = fault.error_code
            if endpoint.is_safe and fault.after is After.REPLACE and not isinstance(fault, SessionGoneError):
                fault.after = After.TRY_LATER  # whether it was carried out or not, a repetition can do no harm
            raise
        finally:
            self._metrics.media_calls.labelled(endpoint.name, outcome).add()
            self._metrics.media_call_seconds.labelled(endpoint.name).observe(time.perf_counter() - started)
        return reply

    async def _exchange(self, method: str, url: str, body: Any, token: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        try:
            async with (
                asyncio.timeout(self._request_timeout),
                self._http.stream(method, url, content=content, headers=headers) as response,
            ):
                received = bytearray()
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > MAX_REPLY:
                        raise NoAnswerError(f"a reply of more than {MAX_REPLY} bytes, expected at most that")
                return response.status_code, bytes(received)
        # The text of httpx's and ssl's errors names hosts and addresses, which are none of a client's business.
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise UnreachableError(f"the SFU cannot be reached ({type(error).__name__})") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise NoAnswerError(f"the SFU did not answer ({type(error).__name__})") from error


def _checked_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"cloudflare.base_url is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 443) < 65536:
        raise ConfigurationError(f"cloudflare.base_url is {base_url!r}, expected http:// or https:// with a host")
    return base_url.rstrip("/")


def _read(status: int, content: bytes, shape: type[Reply], *, of_session: bool, secrets: Sequence[str]) -> Reply:
    """Return a reply in the shape its operation promises; raises the error it stands for otherwise."""
    if not 200 <= status < 300:
        raise wire.fault_of(status, content, of_session=of_session, secrets=secrets)
    try:
        reply: Reply = msgspec.json.decode(content or b"{}", type=shape)
    except msgspec.MsgspecError as error:
        raise NoAnswerError("a reply of unexpected shape, expected the documented JSON") from error
    if reply.error_code:
        raise wire.fault_of(status, content, of_session=of_session, secrets=secrets)
    return reply


def _may_repeat(error: BaseException) -> bool:
    """Tell whether a safe call that failed so is worth repeating at once.

    Not when the session is not ready: the SFU has waited for it already.
    """
    return (
        isinstance(error, MediaFault) and error.after is After.TRY_LATER and not isinstance(error, SessionNotReadyError)
    )


def _check_count(what: str, items: Sequence[Any], *, least: int = 1) -> None:
    if not least <= len(items) <= MAX_ITEMS:
        raise InvalidRequestError(f"{len(items)} {what}, expected {least} to {MAX_ITEMS}")


def _description(kind: Literal["offer", "answer"], sdp: str) -> wire.SessionDescriptionJson:
    """Return an SDP as the SFU takes it: without the last line's end, which clients like to trim, it is refused."""
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
