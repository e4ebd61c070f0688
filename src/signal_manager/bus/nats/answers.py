"""Answers the questions of other nodes about clients, and hands a client over to the node that claims it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic

import msgspec
import structlog

from signal_manager.bus.base import HandOver, S
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.claims import Claims
from signal_manager.bus.nats.link import Arrival, NatsLink
from signal_manager.bus.nats.questions import Claim, Compare, Gone, Here, Late, Where, decode, encode
from signal_manager.model import ClientId

__all__ = ["Answers"]

log = structlog.get_logger(__name__)


class Answers(Generic[S]):
    """What this node answers.

    Args:
        node_id: this node.
        subscribers: the clients that are attached here.
        claims: the clients that are coming, and which node keeps a client.
        link: carries the answers.
        flush: sends what waits for other nodes.
        detach: removes a client's connection from this node.

    Attributes:
        hand_over: saves the session of a client that another node claims.
    """

    def __init__(
        self,
        node_id: str,
        subscribers: Mapping[str, S],
        claims: Claims,
        link: NatsLink,
        *,
        flush: Callable[[], None],
        detach: Callable[[ClientId, S], None],
    ) -> None:
        self._node_id = node_id
        self._subscribers = subscribers
        self._claims = claims
        self._link = link
        self._flush = flush
        self._detach = detach
        self.hand_over: HandOver = lambda client_id, wants: None

    def take(self, client_id: ClientId, message: Arrival) -> None:
        """Answer a question about a client that is here or coming; ignore a question without a reply subject."""
        question = decode(message)
        if not message.reply:
            return
        coming = self._claims.coming.get(client_id)
        if isinstance(question, Where):
            if coming is not None and client_id not in self._subscribers:
                coming.questions.append(message.reply)
            else:
                self.answer_where(client_id, [message.reply])
        elif isinstance(question, Claim | Compare):
            answer: msgspec.Struct | None = self._claims.newer(client_id, question)
            if answer is None:
                if coming is not None:
                    coming.is_superseded = True
                    self.let_go(client_id, question.instance_id)
                answer = self._give_away(client_id, question) if coming is None else Gone()
            self._flush()  # the answers to messages for the client must arrive before this one
            self._link.publish(message.reply, encode(answer))

    def _give_away(self, client_id: ClientId, question: Claim | Compare) -> Gone | Late:
        """Detach a client that another node claims, and hand its session over if possible."""
        handed_over = None
        if isinstance(question, Claim) and question.wants is not None and client_id in self._subscribers:
            handed_over = self.hand_over(client_id, question.wants)
            if handed_over is not None and len(handed_over) + wire.OVERHEAD > self._link.max_payload:
                handed_over = None
                log.warning("session too large to be handed over", client_id=client_id)
            if handed_over is not None:
                return Gone(handed_over)
        return Gone() if self.let_go(client_id, question.instance_id) else Late()

    def let_go(self, client_id: ClientId, instance_id: str | None) -> bool:
        """Detach a client that is on another node now; return False if it was not attached here."""
        subscriber = self._subscribers.get(client_id)
        if subscriber is None:
            return False
        self._detach(client_id, subscriber)
        is_same = instance_id is not None and subscriber.instance_id == instance_id
        subscriber.replaced(same_instance=is_same)
        return True

    def answer_where(self, client_id: ClientId, reply_to: Iterable[str]) -> None:
        """Answer the nodes that ask whether the client is here."""
        answer = encode(Here(self._node_id) if client_id in self._subscribers else Late())
        for subject in reply_to:
            self._link.publish(subject, answer)

    def identify(self, message: Arrival) -> None:
        """Answer a starting node that uses the name of this one."""
        if message.reply:
            self._link.publish(message.reply, encode(Here(self._node_id)))
