"""`signal-manager try`: connect two WebRTC peers in this process, over a data channel and in a room of the service.

The command line calls `run_test_call`. The peers signal through `client` like any application, and aiortc is their
media side. aiortc is an optional dependency, so only the command `try` imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.sdp import candidate_from_sdp
from av import VideoFrame
from rich.console import Console
from rich.table import Table

from signal_manager.client import (
    Disconnected,
    ErrorReceived,
    RetryPolicy,
    Room,
    RoomClosed,
    RoomReconnecting,
    SignalClient,
    SignalKind,
    SignalReceived,
    TrackAdded,
    TrackFailed,
)
from signal_manager.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    MalformedMessageError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.observe import logs
from signal_manager.service import app
from signal_manager.service.config import Config

__all__ = ["run_test_call", "split_candidates"]

# The published development keys of a service that was never configured.
DEFAULT_SENDER = ("test_client_1", "test_token_1")
DEFAULT_RECEIVER = ("test_client_2", "test_token_2")

# Pictures that must arrive through the SFU: the first shows that it works, the others that it keeps working.
FRAMES = 30
_NO_MEDIA = "skipped: the service has no media backend"


async def run_test_call(
    *,
    url: str | None = None,
    sender: tuple[str, str] = DEFAULT_SENDER,
    receiver: tuple[str, str] = DEFAULT_RECEIVER,
    messages: int = 100,
    timeout: float = 30.0,
    json_output: bool = False,
) -> int:
    """Let two peers exchange offer, answer and ICE candidates through the service, then messages without it.

    Then one peer sends video to the other in a room, through the SFU; this step is skipped if the service has none. The
    steps and their times are printed to standard output as a table or as one JSON object.

    Args:
        url: a running service; None starts one of its own on a free port of the loopback interface.
        sender: client id and token of the peer that offers.
        receiver: client id and token of the peer that answers.
        messages: how many to send each way over the data channel.
        timeout: seconds for the whole trial.
        json_output: print JSON instead of a table.

    Returns:
        the exit status: 0 when everything arrived, else 1.

    Raises:
        ConfigurationError: the arguments cannot work.
    """
    if sender[0] == receiver[0]:
        raise ConfigurationError(f"sender and receiver are both {sender[0]!r}, expected two different client ids")
    trial = _TestCall(messages=messages)
    written = logs.configure(level="error")
    try:
        async with asyncio.timeout(timeout), _service(url, sender, receiver) as trial.url:
            await trial.run(sender, receiver)
    except TimeoutError:
        trial.error = f"{trial.unfinished} did not finish within {timeout:g} s"
    except ConfigurationError:
        raise
    except SignalManagerError as error:
        trial.error = f"{trial.unfinished}: {trial.explain(error)}"
    finally:
        written.close()
    print(trial.as_json()) if json_output else trial.print()
    return 0 if trial.error is None else 1


@contextlib.asynccontextmanager
async def _service(url: str | None, *keys: tuple[str, str]) -> AsyncIterator[str]:
    if url is not None:
        yield url
        return
    settings = {
        "server": {"port": 0},
        "auth": {"auth_method": "api_key", "api_keys": [f"{client_id}:{token}" for client_id, token in keys]},
        "storage": {"backend": "memory"},
        "media": {"backend": "local"},
        "metrics": {"enabled": False},
    }
    async with app.running(Config.model_validate(settings)) as service:
        yield f"ws://127.0.0.1:{service.port}"


@dataclass
class _Step:
    name: str
    seconds: float | None = None  # None until the step is done
    detail: str = ""


@dataclass
class _TestCall:
    messages: int
    url: str = ""
    steps: list[_Step] = field(default_factory=list)
    error: str | None = None
    has_media: bool = False

    @property
    def unfinished(self) -> str:
        return self.steps[-1].name if self.steps else "starting a service"

    def explain(self, error: SignalManagerError) -> str:
        """Return what went wrong, with advice if there is any."""
        match error:
            case AuthenticationError():
                return f"{error.message}; name a client id and a token that this service accepts"
            case UnavailableError() if self.unfinished.startswith("connect"):
                return f"{error.message}; is a service running at {self.url}? `signal-manager serve` starts one"
            case _:
                return error.message

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[_Step]:
        step = _Step(name)
        self.steps.append(step)
        started = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - started

    async def run(self, sender: tuple[str, str], receiver: tuple[str, str]) -> None:
        """Run every step; an error is raised from the step that failed."""
        async with contextlib.AsyncExitStack() as stack:
            a = await self._connect(stack, "connect a", *sender)
            b = await self._connect(stack, "connect b", *receiver)
            a.use_channel(a.connection.createDataChannel("trial"))
            await self._negotiate(a, b)
            with self.step("candidates") as step:
                to_b, to_a = await a.trickle_to(b), await b.trickle_to(a)
                step.detail = f"{to_b} a to b, {to_a} b to a"
            with self.step("ice connected"):
                await a.wait_connected()
                await b.wait_connected()
            with self.step("data channel open"):
                await a.wait_open()
                await b.wait_open()
            for name, source, sink in (("messages a to b", a, b), ("messages b to a", b, a)):
                with self.step(name) as step:
                    await source.talk_to(sink, self.messages, step)
            await self._meet(a.client, b.client)

    async def _meet(self, a: SignalClient, b: SignalClient) -> None:
        """Make a room call: a sends a picture through the SFU, and b counts what arrives."""
        room_id = f"trial-{uuid4()}"
        async with contextlib.AsyncExitStack() as stack:
            with self.step("join room") as step:
                sender = await stack.enter_async_context(await a.join(room_id, create=True, retry=_ONCE))
                receiver = await stack.enter_async_context(await b.join(room_id, retry=_ONCE))
                self.has_media = sender.has_media
                step.detail = room_id if sender.has_media else _NO_MEDIA
            if not sender.has_media:
                return
            with self.step("publish"):
                await sender.publish(_Picture())
            with self.step("track received") as step:
                added = await _next_track(receiver)
                step.detail = f"{added.track_name} of {added.participant.client_id}"
            with self.step("frames a to b") as step:
                for number in range(FRAMES):
                    step.detail = f"{number} of {FRAMES}"
                    await added.track.recv()
                step.detail = f"{FRAMES} of {FRAMES}"

    async def _connect(self, stack: contextlib.AsyncExitStack, name: str, client_id: str, token: str) -> _Peer:
        with self.step(name) as step:
            step.detail = client_id
            try:
                client = SignalClient(self.url, client_id, token, retry=RetryPolicy(attempts=0))
            except InvalidRequestError as error:
                raise ConfigurationError(str(error)) from error
            await stack.enter_async_context(client)
            return await stack.enter_async_context(_Peer(client))

    async def _negotiate(self, a: _Peer, b: _Peer) -> None:
        with self.step("offer") as step:
            await a.connection.setLocalDescription(await a.connection.createOffer())
            step.detail = await a.describe_to(b, "offer")
        with self.step("answer") as step:
            await b.connection.setLocalDescription(await b.connection.createAnswer())
            step.detail = await b.describe_to(a, "answer")

    def as_json(self) -> str:
        steps = [
            {
                "step": step.name,
                "ms": None if step.seconds is None else round(step.seconds * 1000, 3),
                "detail": step.detail,
            }
            for step in self.steps
        ]
        return json.dumps({"ok": self.error is None, "url": self.url, "steps": steps, "error": self.error})

    def print(self) -> None:
        console = Console(highlight=False)
        table = Table("step", title=f"Two peers through {self.url}", title_justify="left")
        table.add_column("ms", justify="right")
        table.add_column("")
        for step in self.steps:
            took = "[red]failed[/red]" if step.seconds is None else f"{step.seconds * 1000:.1f}"
            table.add_row(step.name, took, step.detail)
        if any(step.seconds is not None for step in self.steps):
            console.print(table)
        if self.error is None:
            frames = f", {FRAMES} frames through the SFU" if self.has_media else ""
            console.print(f"[green]Everything arrived:[/green] {self.messages} messages each way{frames}.")
            if not self.has_media:
                console.print("There was no room call: the service has no media backend.")
        else:
            # The service's text must stay on one line, and may look like markup.
            Console(file=sys.stderr, highlight=False).print(f"error: {self.error}", markup=False, soft_wrap=True)


# The test call shows failures; it must not retry them away.
_ONCE = RetryPolicy(attempts=1)


class _Picture(VideoStreamTrack):
    """A small picture that changes, cheap to encode."""

    async def recv(self) -> VideoFrame:
        frame = VideoFrame(160, 120, "yuv420p")
        frame.pts, frame.time_base = await self.next_timestamp()
        for plane, value in zip(frame.planes, (frame.pts // 3000 * 8 % 256, 128, 128), strict=True):
            plane.update(bytes((value,)) * plane.buffer_size)
        return frame


async def _next_track(room: Room) -> TrackAdded:
    async for event in room:
        match event:
            case TrackAdded():
                return event
            case TrackFailed(error=error) | RoomReconnecting(error=error):
                raise UnavailableError(str(error))
            case RoomClosed(reason=reason):
                raise UnavailableError(f"the room was closed: {reason}")
    raise UnavailableError("the room was left")


class _Peer:
    """One side of the test call: a WebRTC connection, and the client that it signals through."""

    def __init__(self, client: SignalClient) -> None:
        self.client = client
        # Host candidates are enough for two peers on one machine. By default aiortc asks a public STUN server.
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel: RTCDataChannel | None = None
        self.received: asyncio.Queue[str] = asyncio.Queue()
        self._candidates: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        for event in ("iceconnectionstatechange", "connectionstatechange"):
            self.connection.on(event, self._changed.set)
        self.connection.on("datachannel", self.use_channel)

    async def __aenter__(self) -> _Peer:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.connection.close()

    def use_channel(self, channel: RTCDataChannel) -> None:
        self.channel = channel
        channel.on("open", self._changed.set)
        channel.on("message", self.received.put_nowait)
        self._changed.set()

    async def describe_to(self, other: _Peer, kind: SignalKind) -> str:
        """Send the local description without its candidates, which follow one by one."""
        description = self.connection.localDescription
        sdp, self._candidates = split_candidates(description.sdp)
        send = self.client.send_offer if kind == "offer" else self.client.send_answer
        status = await send(other.client.client_id, {"type": kind, "sdp": sdp}, ack=True)
        data = await other.next_signal(kind, self)
        await other.connection.setRemoteDescription(RTCSessionDescription(sdp=data["sdp"], type=data["type"]))
        return f"{len(sdp)} bytes of SDP, {status}"

    async def trickle_to(self, other: _Peer) -> int:
        """Send the candidates and the mark behind the last one (RFC 8838, section 14); return how many there were."""
        if not self._candidates:
            raise UnavailableError("this machine has no network address beside loopback, so ICE has no candidates")
        for data in (*self._candidates, self._candidates[-1] | {"candidate": ""}):
            await self.client.send_ice_candidate(other.client.client_id, data)
        for _ in self._candidates:
            data = await other.next_signal("ice_candidate", self)
            candidate = candidate_from_sdp(data["candidate"].removeprefix("candidate:"))
            candidate.sdpMid, candidate.sdpMLineIndex = data["sdpMid"], data["sdpMLineIndex"]
            await other.connection.addIceCandidate(candidate)
        await other.next_signal("ice_candidate", self)
        await other.connection.addIceCandidate(None)
        return len(self._candidates)

    async def next_signal(self, kind: SignalKind, sender: _Peer) -> dict[str, Any]:
        """Return the data of the sender's next signal, which must be of this kind; others may signal here too."""
        async for event in self.client:
            match event:
                case SignalReceived(sender=name, kind=received, data=data) if name == sender.client.client_id:
                    if received != kind or not isinstance(data, dict):
                        raise MalformedMessageError(
                            f"expected the {kind} that was sent, got another signal: {received}"
                        )
                    return data
                case ErrorReceived(error=error):
                    raise error
                case Disconnected(reason=reason):
                    raise UnavailableError(f"the service ended the connection: {reason}")
        raise UnavailableError("the client was closed")

    async def wait_connected(self) -> None:
        await self._wait_until(lambda: self.connection.iceConnectionState in {"connected", "completed"})

    async def wait_open(self) -> None:
        await self._wait_until(lambda: self.channel is not None and self.channel.readyState == "open")

    async def _wait_until(self, is_reached: Callable[[], bool]) -> None:
        while not is_reached():
            if {self.connection.iceConnectionState, self.connection.connectionState} & {"failed", "closed"}:
                raise UnavailableError("the peers cannot reach each other; does a firewall drop local UDP?")
            self._changed.clear()
            await self._changed.wait()

    async def talk_to(self, other: _Peer, count: int, step: _Step) -> None:
        """Send numbered messages and check that all arrive, in order."""
        if self.channel is None:
            raise UnavailableError("there is no data channel")
        for number in range(count):
            self.channel.send(f"message {number}")
        for number in range(count):
            step.detail = f"{number} of {count}"
            message = await other.received.get()
            if message != f"message {number}":
                raise MalformedMessageError(f"expected message {number} over the data channel, got another one")
        step.detail = f"{count} of {count}"


def split_candidates(sdp: str) -> tuple[str, list[dict[str, Any]]]:
    """Remove the ICE candidates from an SDP, because aiortc gathers them first and never trickles.

    Returns:
        the SDP without candidates, and each candidate as a browser's `RTCIceCandidateInit`.
    """
    kept: list[str] = []
    candidates: list[dict[str, Any]] = []
    mids: dict[int, str] = {}
    index = -1
    for line in sdp.splitlines():
        if line.startswith("m="):
            index += 1
        if line.startswith("a=mid:"):
            mids[index] = line.removeprefix("a=mid:")
        if line.startswith("a=candidate:"):
            candidates.append({"candidate": line.removeprefix("a="), "sdpMLineIndex": index})
        elif line != "a=end-of-candidates":
            kept.append(line)
    # A section's mid may come after its candidates.
    return "\r\n".join((*kept, "")), [{**data, "sdpMid": mids.get(data["sdpMLineIndex"])} for data in candidates]
