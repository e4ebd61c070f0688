"""Which clients this node has or claims, since when, and which of two nodes keeps a client that both have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from signal_manager.bus.base import Subscriber
from signal_manager.bus.nats.questions import Claim, Compare, Newer

__all__ = ["Claims", "Coming"]


class Coming(msgspec.Struct):
    """A client that is about to be attached here."""

    instance_id: str | None
    since: float
    taken_up_at: int
    is_superseded: bool = False
    count: int = 1  # connections of the client that arrive at the same time
    questions: list[str] = msgspec.field(default_factory=list)  # reply subjects of nodes that ask for the client


class Claims:
    """The claims of one node; it decides, and neither asks nor answers.

    Args:
        node_id: this node; its name decides where two claims have the same time.
        subscribers: the clients that are attached here.
        clock: seconds since the epoch.
        is_taken_over: whether an instance that the user took up later is attached here.

    Attributes:
        coming: the clients that are claimed and not attached yet.
    """

    def __init__(
        self,
        node_id: str,
        subscribers: Mapping[str, Subscriber],
        *,
        clock: Callable[[], float],
        is_taken_over: Callable[[str, str | None, int], bool],
    ) -> None:
        self.coming: dict[str, Coming] = {}
        self._node_id = node_id
        self._subscribers = subscribers
        self._clock = clock
        self._is_taken_over = is_taken_over
        self._since: dict[str, float] = {}  # when each client was attached here
        self._unclaimed: set[str] = set()  # clients that were attached without asking the others

    def is_settled(self, client_id: str) -> bool:
        """Whether the client is here and no other node holds it any more."""
        return client_id in self._subscribers and client_id not in self._unclaimed

    def since(self, client_id: str) -> float | None:
        """Return when the client was attached here; None if it is not."""
        return self._since.get(client_id)

    def begin(self, client_id: str, instance_id: str | None, taken_up_at: int) -> Coming:
        """Begin to claim a client, or claim it for one more connection."""
        coming = self.coming.get(client_id)
        if coming is None:
            coming = self.coming[client_id] = Coming(instance_id, self._clock(), taken_up_at)
        else:
            coming.count += 1
            coming.instance_id, coming.since, coming.taken_up_at = instance_id, self._clock(), taken_up_at
        return coming

    def end(self, client_id: str) -> Coming | None:
        """End the claim for one connection; return what is over if it was the last one."""
        coming = self.coming.get(client_id)
        if coming is None:
            return None
        coming.count -= 1
        if coming.count > 0:
            return None
        return self.coming.pop(client_id)

    def attached(self, client_id: str) -> list[str]:
        """Note that a client is here; return the reply subjects of those who asked for it while it came."""
        self._unclaimed.discard(client_id)
        coming = self.coming.get(client_id)
        self._since[client_id] = coming.since if coming is not None else self._clock()
        if coming is None:
            self._unclaimed.add(client_id)
            return []
        self.end(client_id)
        questions, coming.questions = coming.questions, []
        return questions

    def detached(self, client_id: str) -> bool:
        """Note that a connection has ended; return whether the client is no longer here."""
        if client_id in self._subscribers or self._since.pop(client_id, None) is None:
            return False
        self._unclaimed.discard(client_id)
        return True

    def newer(self, client_id: str, question: Claim | Compare) -> Newer | None:
        """Return the presence here that keeps the client although another node asks for it, or None."""
        coming, present = self.coming.get(client_id), self._subscribers.get(client_id)
        if coming is not None and self._is_older(question, coming.instance_id, coming.taken_up_at, coming.since):
            return Newer(coming.instance_id)
        if present is None:
            return None
        if isinstance(question, Compare):
            stays = self._is_older(question, present.instance_id, present.taken_up_at, self._since[client_id])
        else:
            stays = question.yields and coming is None
            stays = stays and self._is_taken_over(client_id, question.instance_id, _taken_up_at(question))
        return Newer(present.instance_id) if stays else None

    def _is_older(self, question: Claim | Compare, instance_id: str | None, taken_up_at: int, since: float) -> bool:
        """Tell whether the other node's presence of the client is older than one here.

        Of two devices the one that the user took up later wins, and of two connections of one device the later one.
        """
        theirs = _taken_up_at(question)
        if theirs != taken_up_at and (instance_id is None or instance_id != question.instance_id):
            return theirs < taken_up_at
        return (question.since, question.node_id) < (since, self._node_id)


def _taken_up_at(question: Claim | Compare) -> int:
    """Return when the user took up the device in a question (ms since the epoch)."""
    return int(question.since * 1000) if question.taken_up_at is None else question.taken_up_at
