"""The other nodes: which of them run, and the announcements and questions to all of them."""

from __future__ import annotations

import asyncio

import msgspec

from signal_manager.bus.base import GoneHandler, QuestionHandler, ReunionHandler
from signal_manager.bus.nats.link import Arrival, NatsLink
from signal_manager.bus.nats.questions import Away, Hello, Query, Response, decode, encode
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.model import NodeId

__all__ = ["SWEEP", "Peers"]

# Seconds between two calls of `tick`.
SWEEP = 0.25
# Seconds between two signs of life of a node, and the number of missed ones after which it counts as gone.
_HELLO = 3.0
_MISSED = 2


class Peers:
    """Announces this node, tracks which other nodes run, and answers questions to all nodes.

    Attributes:
        on_reunion: called with a node that was cut off, or with None if this node was.
        on_gone: called with a node that is gone.
        on_question: answers a question to all nodes.
    """

    def __init__(self, link: NatsLink, subjects: Subjects) -> None:
        self._link = link
        self._subjects = subjects
        self._heard: dict[str, float] = {}  # the other nodes, and when each was last heard
        self._next_hello = 0.0
        self._ticked_at: float | None = None
        self.on_reunion: ReunionHandler = lambda node_id: None
        self.on_gone: GoneHandler = lambda node_id: None
        self.on_question: QuestionHandler = lambda question: b""

    def __len__(self) -> int:
        return len(self._heard)

    @property
    def names(self) -> set[str]:
        """The other nodes."""
        return set(self._heard)

    def hello(self, *, is_new: bool = False) -> None:
        """Announce this node; with `is_new` the others announce themselves too."""
        self._tell(Hello(self._subjects.node_id, is_new=is_new))

    def take(self, message: Arrival) -> None:
        """Handle an announcement or a question to all nodes."""
        notice = decode(message)
        match notice:
            case Away():
                self.on_reunion(NodeId(notice.node_id))
            case Hello():
                self._heard[notice.node_id] = asyncio.get_running_loop().time()
                if notice.is_new:
                    self.hello()
            case Query() if message.reply:
                answer = self.on_question(notice.question)
                self._link.publish(message.reply, encode(Response(self._subjects.node_id, answer)))
            case _:
                pass

    def tick(self, now: float) -> None:
        """Announce this node when that is due, and drop nodes that have stopped announcing themselves."""
        late = 0.0 if self._ticked_at is None else now - self._ticked_at - SWEEP
        self._ticked_at = now
        if late > SWEEP:  # this process was stopped; messages of other nodes still wait to be read
            self._heard = {peer: at + late for peer, at in self._heard.items()}
        if now >= self._next_hello:
            self._next_hello = now + _HELLO
            self.hello()
        if self._link.is_up:  # while the link is down, the silence of other nodes means nothing
            for peer in [peer for peer, at in self._heard.items() if now - at > _MISSED * _HELLO + SWEEP]:
                del self._heard[peer]
                self.on_gone(NodeId(peer))

    def reunite(self, now: float) -> None:
        """Announce this node after the others could not be reached."""
        self._heard = dict.fromkeys(self._heard, now)  # running nodes will answer
        self._tell(Away(self._subjects.node_id))
        self.hello(is_new=True)
        self.on_reunion(None)

    def _tell(self, notice: msgspec.Struct) -> None:
        self._link.publish(self._subjects.all_nodes, encode(notice))
