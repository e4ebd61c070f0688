"""Clients of the local SFU for tests: its HTTP interface as methods, and PeerConnections of aiortc that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamTrack

from signal_manager.sfu import LocalSfu
from tests.web import plain_http

TIME_LIMIT = 30.0
Json = dict[str, Any]


class Api:
    """The HTTP interface as a client sees it."""

    def __init__(self, sfu: LocalSfu, http: httpx.AsyncClient) -> None:
        self.http = http
        self.root = f"{sfu.base_url}/apps/{sfu.app_id}"
        self.headers = {"authorization": f"Bearer {sfu.app_secret}"}

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Return the response, with any status."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, self.root + path, json=body, headers=self.headers | names)

    async def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Json:
        """Return the body of an answer that has to be a success."""
        response = await self.call(method, path, body, **headers)
        assert response.status_code in (200, 201), response.text
        answer: Json = response.json()
        return answer

    async def new_session(self) -> str:
        """Open a session."""
        answer = await self.ok("POST", "/sessions/new")
        return str(answer["sessionId"])


@asynccontextmanager
async def api_of(sfu: LocalSfu) -> AsyncIterator[Api]:
    """Connect to the SFU's HTTP port."""
    async with plain_http(timeout=TIME_LIMIT) as http:
        yield Api(sfu, http)


class Peer:
    """One PeerConnection of aiortc and the session it belongs to."""

    def __init__(self, api: Api, session_id: str) -> None:
        self.api = api
        self.session_id = session_id
        self.tracks: list[MediaStreamTrack] = []
        # With the other policies aiortc reads the candidates of a transport's last section; the SFU, like Cloudflare's,
        # names them in the first one only.
        configuration = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_COMPAT)
        self.connection = RTCPeerConnection(configuration)
        self.connection.on("track", self.tracks.append)

    @classmethod
    async def open(cls, api: Api) -> Self:
        """Open a session and make a connection for it."""
        return cls(api, await api.new_session())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.connection.close()

    @property
    def path(self) -> str:
        """The session's path below the app."""
        return f"/sessions/{self.session_id}"

    async def offer(self) -> Json:
        """Make and set a local offer."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.local()

    def local(self) -> Json:
        """The local description as JSON."""
        description = self.connection.localDescription
        return {"type": description.type, "sdp": description.sdp}

    async def take(self, description: Json) -> None:
        """Set the remote description."""
        await self.connection.setRemoteDescription(RTCSessionDescription(description["sdp"], description["type"]))

    async def publish(self, **tracks: MediaStreamTrack) -> Json:
        """Publish tracks under their names (case A)."""
        senders = {name: self.connection.addTrack(track) for name, track in tracks.items()}
        offer = await self.offer()
        mids = {t.sender: t.mid for t in self.connection.getTransceivers()}
        items = [{"location": "local", "mid": mids[s], "trackName": name} for name, s in senders.items()]
        answer = await self.api.ok("POST", f"{self.path}/tracks/new", {"sessionDescription": offer, "tracks": items})
        await self.take(answer["sessionDescription"])
        return answer

    async def pull(self, publisher: Peer, *names: str, **more: Any) -> Json:
        """Pull tracks of another session (case C)."""
        items = [{"location": "remote", "sessionId": publisher.session_id, "trackName": n, **more} for n in names]
        answer = await self.api.ok("POST", f"{self.path}/tracks/new", {"tracks": items})
        if answer["requiresImmediateRenegotiation"]:
            await self.answer(answer["sessionDescription"])
        return answer

    async def answer(self, offer: Json) -> None:
        """Answer an offer of the SFU."""
        await self.take(offer)
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        await self.api.ok("PUT", f"{self.path}/renegotiate", {"sessionDescription": self.local()})

    async def connected(self) -> None:
        """Wait until the connection is up."""
        await until(lambda: self.connection.connectionState == "connected")


async def until(is_true: Callable[[], bool], time_limit: float = TIME_LIMIT) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(time_limit):
        while not is_true():  # noqa: ASYNC110 -- aiortc and the SFU tell of these things by their state only
            await asyncio.sleep(0.01)


async def frames(track: MediaStreamTrack, count: int) -> list[Any]:
    """Receive that many frames."""
    async with asyncio.timeout(TIME_LIMIT):
        return [await track.recv() for _ in range(count)]
