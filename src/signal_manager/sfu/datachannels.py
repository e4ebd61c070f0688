"""Data channels, and messages from a publisher's channel to its subscribers'.

Neighbours: `sctp` carries the channels, `sessions` decides which requests are allowed now. All channels are negotiated
by id over HTTP. A channel that a client opens in band is closed again, because it has no name to subscribe to.
"""

from __future__ import annotations

import asyncio
import time

from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities

from signal_manager.sfu.errors import ItemError, invalid_params
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.sctp import Sctp
from signal_manager.sfu.secure_transport import SecureTransport
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.wire import DataChannelObject

__all__ = ["SERVER_EVENTS", "DataChannel", "DataChannels"]

SERVER_EVENTS = "server-events"
# Browsers open 1024 streams; id 0 is the channel that `establish` opens.
_STREAM_IDS = range(1, 1024)


class DataChannel:
    """One end of a channel: the publisher's or a subscriber's."""

    def __init__(self, rtc: RTCDataChannel, *, name: str, counters: Counters, max_buffer: int) -> None:
        self.rtc = rtc
        self.name = name
        self.publisher: DataChannel | None = None
        self.publisher_session = ""
        self.subscribers: list[DataChannel] = []
        self.may_reply: DataChannel | None = None  # the one subscriber whose messages reach the publisher
        self.ack_deadline: float | None = None  # the time by which the subscriber's first message must arrive
        self._counters = counters
        self._max_buffer = max_buffer

    @property
    def stream_id(self) -> int:
        """Return the id that both ends negotiated."""
        return self.rtc.id or 0

    @property
    def status(self) -> str:
        """Return the channel's state as GET reports it."""
        if self.rtc.readyState == "open":
            return "active" if self.ack_deadline is None else "initializing"
        return "initializing" if self.rtc.readyState == "connecting" else "inactive"

    def receive(self, message: str | bytes) -> None:
        """Pass on one message of this end's client."""
        if self.publisher is None:
            for subscriber in tuple(self.subscribers):
                if subscriber.ack_deadline is None:
                    subscriber.send(message)
        elif self.ack_deadline is not None:
            self.ack_deadline = None  # the acknowledgement is for the SFU alone
        elif self.publisher.may_reply is self:
            self.publisher.send(message)

    def send(self, message: str | bytes) -> None:
        """Send to this end's client; close the channel if the client does not keep up, so that the loss is visible."""
        if self.rtc.readyState != "open":
            return
        if self.rtc.bufferedAmount > self._max_buffer:
            self._counters.channels_overflowed += 1
            self.leave()
            return
        self._counters.channel_messages += 1
        self.rtc.send(message)

    def leave(self) -> None:
        """Close this end; with a publisher's end, close its subscribers' ends too."""
        if self.publisher is not None:
            if self in self.publisher.subscribers:
                self.publisher.subscribers.remove(self)
            if self.publisher.may_reply is self:
                self.publisher.may_reply = None
        for subscriber in list(self.subscribers):
            subscriber.leave()
        if self.rtc.readyState in ("connecting", "open"):
            self.rtc.close()


class DataChannels:
    """The data channels of one session."""

    def __init__(self, transport: SecureTransport, *, settings: SfuSettings, counters: Counters) -> None:
        self.channels: dict[int, DataChannel] = {}
        self._transport = transport
        self._settings = settings
        self._counters = counters
        self._sctp: Sctp | None = None
        self._capabilities = RTCSctpCapabilities(maxMessageSize=0)
        self._port = 0
        self._start: asyncio.Task[None] | None = None
        self._closing: dict[int, RTCDataChannel] = {}  # ids of channels that the client has not closed yet

    @property
    def is_accepted(self) -> bool:
        """Return whether a description has an m-section for data channels."""
        return self._sctp is not None

    def accept(self, *, port: int, max_message_size: int) -> None:
        """Apply the client's m-section; SCTP starts as soon as DTLS is up."""
        if self._sctp is not None:
            return
        self._sctp = Sctp(self._transport, max_queued=self._settings.max_queued_datagrams)
        self._sctp.rtc.on("datachannel", lambda channel: channel.close())
        self._port = port
        # 0 means that the peer has no bound (RFC 8841, 6); then the bound is the size of a subscriber's buffer.
        bound = self._settings.max_channel_buffer
        self._capabilities = RTCSctpCapabilities(maxMessageSize=min(max_message_size or bound, bound))
        self.begin()

    def begin(self) -> None:
        """Start SCTP if there is an m-section for it and DTLS is up."""
        if self._sctp is not None and self._start is None and self._transport.is_connected:
            self._start = asyncio.create_task(self._sctp.start(self._capabilities, self._port), name="sfu-sctp")

    def named(self, name: str) -> DataChannel | None:
        """Return the channel that this session publishes under a name, or None."""
        return next((c for c in self.channels.values() if c.publisher is None and c.name == name), None)

    def publish(self, item: DataChannelObject) -> DataChannelObject | ItemError:
        """Open the publisher's end of a channel."""
        name = item.data_channel_name or ""
        if self.named(name) is not None:
            return ItemError("repeated_local_track_error", "this session already publishes a channel of that name")
        channel = self._open(name, item)
        if isinstance(channel, ItemError):
            return channel
        return DataChannelObject(location="local", data_channel_name=name, id=channel.stream_id)

    def subscribe(self, item: DataChannelObject, publisher: DataChannel | None) -> DataChannelObject | ItemError:
        """Open a subscriber's end of a publisher's channel, with the same delivery settings."""
        name = item.data_channel_name or ""
        if publisher is None:
            return ItemError("not_found_track_error", "no such data channel on the remote peer")
        channel = self._open(name, item)
        if isinstance(channel, ItemError):
            return channel
        channel.publisher, channel.publisher_session = publisher, item.session_id or ""
        publisher.subscribers.append(channel)
        if item.wait_for_ack:
            channel.ack_deadline = time.monotonic() + self._settings.ack_wait
        if item.can_reply:
            publisher.may_reply = channel
        return DataChannelObject(
            location="remote", session_id=item.session_id, data_channel_name=name, id=channel.stream_id
        )

    def update(self, item: DataChannelObject) -> DataChannelObject | ItemError:
        """Give the right to reply to this session's end of a channel, or take it away."""
        for channel in self.channels.values():
            publisher = channel.publisher
            if publisher is None or (channel.publisher_session, channel.name) != (
                item.session_id,
                item.data_channel_name,
            ):
                continue
            if item.can_reply:
                publisher.may_reply = channel
            elif publisher.may_reply is channel:
                publisher.may_reply = None
            return DataChannelObject(
                location="remote",
                session_id=item.session_id,
                data_channel_name=item.data_channel_name,
                id=channel.stream_id,
                can_reply=publisher.may_reply is channel,
            )
        return ItemError("update_track_error", "this session does not receive that data channel")

    def close(self, item: DataChannelObject) -> DataChannelObject | ItemError:
        """Close one end."""
        channel = self.channels.get(item.id) if item.id is not None else None
        if channel is None:
            return ItemError("close_track_error", "Data channel doesn't exist or was already closed")
        self._close(channel)
        return DataChannelObject(
            id=channel.stream_id,
            location="local" if channel.publisher is None else "remote",
            session_id=channel.publisher_session or None,
            data_channel_name=channel.name,
        )

    def state(self) -> list[DataChannelObject]:
        """Return every channel with its status."""
        return [
            DataChannelObject(
                location="local" if channel.publisher is None else "remote",
                session_id=channel.publisher_session or None,
                data_channel_name=channel.name,
                id=stream_id,
                status=channel.status,  # type: ignore[arg-type]  # one of the three words, put together at run time
            )
            for stream_id, channel in self.channels.items()
        ]

    def tick(self, now: float) -> None:
        """Close subscribers that never acknowledged, and free ids whose streams are closed on both sides."""
        for channel in list(self.channels.values()):
            if channel.ack_deadline is not None and now > channel.ack_deadline:
                self._close(channel)
        self._closing = {i: rtc for i, rtc in self._closing.items() if rtc.readyState != "closed"}

    async def stop(self) -> None:
        """Close every channel and the association."""
        for channel in list(self.channels.values()):
            channel.leave()
        self.channels.clear()
        if self._start is not None:
            self._start.cancel()
            await asyncio.wait([self._start])
        if self._sctp is not None:
            await self._sctp.stop()

    def _open(self, name: str, item: DataChannelObject) -> DataChannel | ItemError:
        if item.max_retransmits is not None and item.max_packet_life_time is not None:
            raise invalid_params("maxRetransmits and maxPacketLifeTime exclude each other")
        if self._sctp is None or self._sctp.rtc.state == "closed":
            return ItemError("session_error", "Session is not ready yet: its data channel transport is not connected")
        self._closing = {i: rtc for i, rtc in self._closing.items() if rtc.readyState != "closed"}
        free = (i for i in _STREAM_IDS if i not in self.channels and i not in self._closing)
        stream_id = next(free, None)
        if stream_id is None or len(self.channels) >= self._settings.max_data_channels:
            return ItemError(
                "invalid_params", f"the session has {self._settings.max_data_channels} data channels, expected fewer"
            )
        parameters = RTCDataChannelParameters(
            label=name,
            negotiated=True,
            id=stream_id,
            ordered=item.ordered is not False,
            maxRetransmits=item.max_retransmits,
            maxPacketLifeTime=item.max_packet_life_time,
        )
        rtc = RTCDataChannel(self._sctp.rtc, parameters)
        channel = DataChannel(rtc, name=name, counters=self._counters, max_buffer=self._settings.max_channel_buffer)
        rtc.on("message", channel.receive)
        rtc.on("close", lambda: self._closed(channel))
        self.channels[stream_id] = channel
        return channel

    def _close(self, channel: DataChannel) -> None:
        self.channels.pop(channel.stream_id, None)
        self._closing[channel.stream_id] = channel.rtc
        channel.leave()

    def _closed(self, channel: DataChannel) -> None:
        """Take note that a client closed its end."""
        if self.channels.get(channel.stream_id) is channel:
            del self.channels[channel.stream_id]
        channel.leave()
