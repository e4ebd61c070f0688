"""What a node does once it can reach the others again: it announces itself, and compares its clients with theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from signal_manager.bus.base import Subscriber
from signal_manager.bus.nats.claims import Claims
from signal_manager.bus.nats.peers import Peers
from signal_manager.bus.nats.questions import Compare, Newer, Questions
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.model import ClientId

__all__ = ["Reunion"]

# Questions about this node's clients per turn of the loop, after the other nodes could not be reached.
_STEP = 500


class Reunion:
    """Finds the clients that came to another node while the nodes could not reach each other.

    Args:
        peers: hear of the reunion.
        subscribers: the clients that are attached here.
        claims: since when they are.
        questions: ask the other nodes.
        let_go: ends a client's presence here, given the instance that is elsewhere.
    """

    def __init__(
        self,
        peers: Peers,
        subscribers: Mapping[str, Subscriber],
        claims: Claims,
        questions: Questions,
        subjects: Subjects,
        *,
        let_go: Callable[[ClientId, str | None], object],
    ) -> None:
        self._peers = peers
        self._subscribers = subscribers
        self._claims = claims
        self._questions = questions
        self._subjects = subjects
        self._let_go = let_go
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Announce this node, and compare its clients in the background."""
        loop = asyncio.get_running_loop()
        self._peers.reunite(loop.time())
        task = loop.create_task(self._compare_clients(), name="reunion")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is not compared yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _compare_clients(self) -> None:
        clients = [(client_id, subscriber) for client_id, subscriber in self._subscribers.items()]
        for start in range(0, len(clients), _STEP):
            await asyncio.gather(*(self._compare(*each) for each in clients[start : start + _STEP]))

    async def _compare(self, client_id: str, subscriber: Subscriber) -> None:
        since = self._claims.since(client_id)
        if since is None or self._subscribers.get(client_id) is not subscriber:
            return
        question = Compare(self._subjects.node_id, subscriber.instance_id, since, subscriber.taken_up_at)
        reply = await self._questions.insist(self._subjects.client(client_id), question)
        if isinstance(reply, Newer) and self._subscribers.get(client_id) is subscriber:
            self._let_go(ClientId(client_id), reply.instance_id)
