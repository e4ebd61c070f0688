"""The fixtures that the author of a bus provides, and the subscriber that the tests observe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from signal_manager.bus.base import Bus, Delivery, Exceptional, Messaging
from signal_manager.errors import SignalManagerError
from signal_manager.model import ClientId
from signal_manager.protocol.messages import Message, SignalMessage

__all__ = [
    "PATIENCE",
    "BusFixtures",
    "NodesFixtures",
    "Phone",
    "come",
    "message",
    "result_of",
    "until",
    "until_delivered",
]

# Seconds that a test waits for an event that takes milliseconds on an idle machine.
PATIENCE = 20.0


class Phone:
    """A subscriber that records its messages, and refuses them if a test says so."""

    def __init__(
        self,
        instance_id: str | None = None,
        *,
        taken_up_at: int = 0,
        result: Delivery = Delivery.DELIVERED,
        refusal: SignalManagerError | None = None,
    ) -> None:
        self.instance_id = instance_id
        self.taken_up_at = taken_up_at
        self.received: list[tuple[Message, bytes | None]] = []
        self.relayed: list[tuple[bytes, str, bytes]] = []
        self.replaced_by_same_instance: bool | None = None
        self._result = result
        self._refusal = refusal

    @property
    def texts(self) -> list[object]:
        """The data of the received messages, in order."""
        return [message.signal_data for message, _ in self.received if isinstance(message, SignalMessage)]

    @property
    def is_replaced(self) -> bool:
        """Whether a newer connection has replaced this one."""
        return self.replaced_by_same_instance is not None

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Record a message."""
        if self._refusal is not None:
            raise self._refusal
        self.received.append((message, message_id))
        return self._result

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Record signals."""
        result = self._refusal or self._result
        if result is self._refusal:
            return [(place, result) for place in range(len(signals))]
        self.relayed += [(head, sender, body) for head, body in signals]
        return [] if result is Delivery.DELIVERED else [(place, result) for place in range(len(signals))]

    def replaced(self, *, same_instance: bool) -> None:
        """Record that a newer connection has replaced this one."""
        self.replaced_by_same_instance = same_instance


class BusFixtures:
    """Two nodes; for a bus of one node they are the same."""

    @pytest.fixture
    async def here(self) -> Bus[Phone]:
        """Return an open bus without clients; close it after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def there(self, here: Bus[Phone]) -> Bus[Phone]:
        """Return another node's bus; close it after the test."""
        raise NotImplementedError


class NodesFixtures(BusFixtures):
    """Three nodes, called "here", "there" and "third", that do not share memory; they need not be one process."""

    @pytest.fixture
    async def third(self) -> Bus[Phone]:
        """Return a third node's bus, open; close it after the test."""
        raise NotImplementedError

    def another(self, name: str) -> Bus[Phone]:
        """Return the bus of one more node with this name, not open; called after the fixtures."""
        raise NotImplementedError

    async def cut(self) -> None:
        """Cut the nodes off from each other."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Let the nodes reach each other again."""
        raise NotImplementedError


def message(data: object = 1, *, target: str = "a") -> SignalMessage:
    """Return a signal."""
    return SignalMessage(sender_client_id="s", target_client_id=target, signal_data=data)


async def come(bus: Bus[Phone], client_id: str, phone: Phone) -> Phone:
    """Attach a client as a connection does."""
    claimed = await bus.claim(ClientId(client_id), phone.instance_id)
    assert claimed.is_won
    bus.attach(ClientId(client_id), phone)
    return phone


async def result_of(
    bus: Messaging, target: str, sent: Message, message_id: bytes | None = None
) -> Delivery | SignalManagerError:
    """Send a message and return its delivery or error."""
    later: asyncio.Future[Delivery | SignalManagerError] = asyncio.get_running_loop().create_future()
    try:
        delivery = bus.send(ClientId(target), sent, message_id, outcome=later.set_result)
    except SignalManagerError as error:
        return error
    return await asyncio.wait_for(later, PATIENCE) if delivery is Delivery.PENDING else delivery


async def until(condition: Callable[[], bool]) -> None:
    """Wait for an event on another node."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def until_delivered(bus: Messaging, target: ClientId) -> None:
    """Send until a message arrives: for a moment after a reunion, a bus may not know yet where clients are."""
    async with asyncio.timeout(PATIENCE):
        while await result_of(bus, target, message("again")) is not Delivery.DELIVERED:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
