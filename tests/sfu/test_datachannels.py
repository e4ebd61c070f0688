"""Data channels between sessions: who gets a message, who may reply, and what a slow or silent subscriber costs."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from signal_manager.sfu.datachannels import DataChannel, DataChannels
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.secure_transport import SecureTransport
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.wire import DataChannelObject


class Stream:
    """Stands for aiortc's end of one channel."""

    def __init__(self, stream_id: int = 1) -> None:
        self.id = stream_id
        self.readyState = "open"
        self.bufferedAmount = 0
        self.sent: list[str | bytes] = []

    def send(self, message: str | bytes) -> None:
        """Keep a message."""
        self.sent.append(message)

    def close(self) -> None:
        """Close it, which takes a while."""
        self.readyState = "closing"


class Scene:
    """A publisher's channel and its subscribers."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.publisher = self.channel()

    def channel(self) -> DataChannel:
        """Return one end of a channel."""
        stream: Any = Stream()
        return DataChannel(stream, name="chat", counters=self.counters, max_buffer=100)

    def subscribe(self) -> DataChannel:
        """Return a subscriber's end."""
        channel = self.channel()
        channel.publisher = self.publisher
        self.publisher.subscribers.append(channel)
        return channel


def sent(channel: DataChannel) -> list[str | bytes]:
    return cast("Stream", channel.rtc).sent


@pytest.fixture
def scene() -> Scene:
    return Scene()


# One channel


def test_a_message_reaches_every_subscriber_and_not_its_publisher(scene: Scene) -> None:
    subscribers = [scene.subscribe() for _ in range(2)]

    scene.publisher.receive("text")
    scene.publisher.receive(b"bytes")

    assert [sent(each) for each in subscribers] == [["text", b"bytes"]] * 2
    assert sent(scene.publisher) == []
    assert scene.counters.channel_messages == 4


def test_only_the_one_that_may_reply_does(scene: Scene) -> None:
    allowed, other = scene.subscribe(), scene.subscribe()
    scene.publisher.may_reply = allowed

    for channel, text in ((other, "no"), (allowed, "yes")):
        channel.receive(text)

    assert sent(scene.publisher) == ["yes"]
    assert (sent(allowed), sent(other)) == ([], [])


def test_a_subscriber_behind_a_gate_gets_nothing_until_its_first_message_which_goes_nowhere(scene: Scene) -> None:
    gated = scene.subscribe()
    gated.ack_deadline = time.monotonic() + 30
    scene.publisher.may_reply = gated
    assert gated.status == "initializing"

    scene.publisher.receive("early")
    gated.receive("I am here")
    scene.publisher.receive("late")

    assert sent(gated) == ["late"]
    assert sent(scene.publisher) == []
    assert gated.status == "active"


def test_a_subscriber_that_does_not_keep_up_is_closed_and_the_others_go_on(scene: Scene) -> None:
    slow, fast = scene.subscribe(), scene.subscribe()
    cast("Stream", slow.rtc).bufferedAmount = 101

    scene.publisher.receive("one")
    scene.publisher.receive("two")

    assert (sent(slow), sent(fast)) == ([], ["one", "two"])
    assert (slow.status, scene.counters.channels_overflowed) == ("inactive", 1)
    assert scene.publisher.subscribers == [fast]


def test_a_channel_that_is_not_open_takes_nothing(scene: Scene) -> None:
    subscriber = scene.subscribe()
    subscriber.rtc.readyState = "connecting"  # type: ignore[misc]  # the fake's

    scene.publisher.receive("early")

    assert (sent(subscriber), subscriber.status) == ([], "initializing")


def test_the_end_of_a_publisher_ends_its_subscribers_and_leaving_twice_is_no_fault(scene: Scene) -> None:
    first, second = scene.subscribe(), scene.subscribe()
    scene.publisher.may_reply = first

    first.leave()
    first.leave()
    assert scene.publisher.subscribers == [second]
    assert scene.publisher.may_reply is None

    scene.publisher.leave()
    assert [each.status for each in (first, second, scene.publisher)] == ["inactive"] * 3


# The channels of a session without a transport


@pytest.fixture
def channels() -> DataChannels:
    transport: Any = type("Transport", (), {"is_connected": False})()
    return DataChannels(cast("SecureTransport", transport), settings=SfuSettings(), counters=Counters())


def code_of(result: Any) -> str:
    """Return the error code of a refused item."""
    return str(result.code)


def test_without_a_section_for_data_channels_each_item_fails_alone(channels: DataChannels) -> None:
    chat = DataChannelObject(data_channel_name="chat", session_id="s")
    assert not channels.is_accepted

    assert code_of(channels.publish(chat)) == "session_error"
    assert code_of(channels.subscribe(chat, None)) == "not_found_track_error"
    assert code_of(channels.update(chat)) == "update_track_error"
    assert code_of(channels.close(DataChannelObject(id=7))) == "close_track_error"
    assert code_of(channels.close(DataChannelObject())) == "close_track_error"
    assert (channels.state(), channels.named("chat")) == ([], None)


async def test_a_session_without_channels_can_be_ticked_and_stopped(channels: DataChannels) -> None:
    channels.begin()
    channels.tick(time.monotonic())
    for _ in range(2):
        await channels.stop()
