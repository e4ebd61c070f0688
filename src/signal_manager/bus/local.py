"""The bus of one process: a dictionary of the clients that are connected to it.

The relay path reads `subscribers` directly: one look-up per relayed signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, Self

from signal_manager.bus.base import (
    Claimed,
    Delivery,
    Forwarder,
    GoneHandler,
    HandOver,
    NewsHandler,
    Outcome,
    QuestionHandler,
    ReunionHandler,
    S,
)
from signal_manager.model import ClientId, NodeId, RoomId
from signal_manager.protocol.messages import Message

__all__ = ["LocalBus"]


class LocalBus(Generic[S]):
    """The bus of a service with one process.

    Args:
        max_subscribers: the most connections of one client at once; a further one replaces the oldest.
    """

    def __init__(self, *, max_subscribers: int = 1) -> None:
        self._max_subscribers = max_subscribers
        # The newest connection of each client, by client id (a plain str: it comes straight off the wire).
        self.subscribers: dict[str, S] = {}
        # The older connections of each client, oldest first; only clients with older ones are here.
        self._older: dict[str, list[S]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    # There are no other nodes (`claims_at_once`).
    claims_at_once = True

    @property
    def is_connected(self) -> bool:
        """Always true: there are no other nodes."""
        return True

    @property
    def is_waiting(self) -> bool:
        """Always false: senders learn the delivery at once."""
        return False

    @property
    def forwarder(self) -> Forwarder | None:
        """Always None: there are no other nodes."""
        return None

    def serve_others(self, *, hand_over: HandOver, join: Callable[[], None], flush: Callable[[], None]) -> None:
        """Do nothing: there are no other nodes."""

    async def claim(
        self,
        client_id: ClientId,
        instance_id: str | None,
        *,
        wants: bytes | None = None,
        yields: bool = False,
        taken_up_at: int = 0,
    ) -> Claimed:
        """Win the claim, unless a newer instance of the client is attached here (`Presence.claim`)."""
        return Claimed(is_won=not (yields and self._is_taken_over(client_id, instance_id, taken_up_at)))

    def release(self, client_id: ClientId) -> None:
        """Do nothing: no message waits for a claim here."""

    def _is_taken_over(self, client_id: str, instance_id: str | None, taken_up_at: int) -> bool:
        """Tell whether another instance of the client, which its user took up later, is attached."""
        present = self.subscribers.get(client_id)
        if present is None or self._max_subscribers > 1 or present.instance_id == instance_id:
            return False
        return present.taken_up_at > taken_up_at

    def attach(self, client_id: ClientId, subscriber: S) -> None:
        """Make `subscriber` the newest connection of a client (`Presence.attach`).

        A connection of the same instance always gives way, because it is stale.
        """
        previous = self.subscribers.get(client_id)
        self.subscribers[client_id] = subscriber
        if previous is None:
            return
        stay: list[S] = []
        for other in (*self._older.get(client_id, ()), previous):
            if other.instance_id is not None and other.instance_id == subscriber.instance_id:
                other.replaced(same_instance=True)
            else:
                stay.append(other)
        while len(stay) >= self._max_subscribers:
            stay.pop(0).replaced(same_instance=False)
        self._remember(client_id, stay)

    def swap(self, client_id: ClientId, present: S, successor: S) -> bool:
        """Replace `present` by `successor` (`Presence.swap`)."""
        if self.subscribers.get(client_id) is present:
            self.subscribers[client_id] = successor
            return True
        older = self._older.get(client_id, [])
        if present not in older:
            return False
        older[older.index(present)] = successor
        return True

    def detach(self, client_id: ClientId, subscriber: S) -> None:
        """Remove a connection that has ended; an older one of the client takes its place."""
        older = self._older.get(client_id, [])
        if self.subscribers.get(client_id) is not subscriber:
            if subscriber in older:
                older.remove(subscriber)
                self._remember(client_id, older)
            return
        if older:
            self.subscribers[client_id] = older.pop()
            self._remember(client_id, older)
        else:
            del self.subscribers[client_id]

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """Deliver `message` to `target`'s newest connection."""
        subscriber = self.subscribers.get(target)
        if subscriber is None:
            return Delivery.OFFLINE
        return subscriber.deliver(message, message_id)

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """Do nothing: there are no other nodes."""

    def respond(self, on_question: QuestionHandler) -> None:
        """Do nothing: there are no other nodes."""

    async def ask_others(self, question: bytes) -> list[bytes]:
        """Return []: there are no other nodes."""
        return []

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        """Do nothing: there are no other nodes."""

    def _remember(self, client_id: ClientId, older: list[S]) -> None:
        if older:
            self._older[client_id] = older
        else:
            self._older.pop(client_id, None)
