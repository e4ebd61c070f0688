"""Sessions of all nodes: the node that an operator asks collects the answers of the others.

A single node asks no other. A node that does not answer in time is left out. The first call imports the views, which
take a tenth of the time until a service listens.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from signal_manager.gateway.live_sessions import LiveSession, LiveSessions
from signal_manager.model import NodeId
from signal_manager.rooms import RoomService

if TYPE_CHECKING:
    from signal_manager.admin.views import PageOf, SessionView

__all__ = ["AskOthers", "ClusterSessions", "Connected"]

# Asks all other nodes one question and returns their answers.
AskOthers = Callable[[bytes], Awaitable[list[bytes]]]


class _Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    about: Literal["sessions", "clients", "end"]
    client_id: str | None = None
    session_id: str | None = None
    contains: str = ""
    after: str = ""
    limit: int = 1


class _Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    sessions: list[dict[str, Any]] = []
    clients: list[str] = []
    ended: int = 0


_encode = msgspec.msgpack.Encoder().encode
_read_question = msgspec.msgpack.Decoder(_Question).decode
_read_answer = msgspec.msgpack.Decoder(_Answer).decode


class Connected(NamedTuple):
    """Ids of connected clients, complete up to `until`, or to the end if that is None."""

    clients: frozenset[str]
    until: str | None


class ClusterSessions:
    """Finds and ends sessions on all nodes.

    Args:
        live_sessions, rooms: the sessions and rooms of this node.
        node_id: this node.
        others: asks the other nodes.
    """

    def __init__(self, *, live_sessions: LiveSessions, rooms: RoomService, node_id: NodeId, others: AskOthers) -> None:
        self._live_sessions = live_sessions
        self._rooms = rooms
        self._node_id = node_id
        self._others = others

    def answer(self, question: bytes) -> bytes:
        """Return this node's answer to the question of another node."""
        try:
            return _encode(self._answer(_read_question(question)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _encode(_Answer())

    async def sessions(self, *, client_id: str | None, contains: str, after: str, limit: int) -> PageOf[SessionView]:
        """Return a page of sessions, ordered by client id."""
        from signal_manager.admin.views import PageOf, SessionView  # noqa: PLC0415 - see the module's docstring

        answers = await self._ask(
            _Question(about="sessions", client_id=client_id, contains=contains, after=after, limit=limit + 1)
        )
        views = (SessionView.model_validate(view) for answer in answers for view in answer.sessions)
        found = heapq.nsmallest(limit + 1, views, key=_place)
        return PageOf(items=found[:limit], next=_place(found[limit - 1]) if len(found) > limit else None)

    async def session(self, session_id: str) -> SessionView | None:
        """Return one session, or None if no node has it."""
        from signal_manager.admin.views import SessionView  # noqa: PLC0415 - as above

        answers = await self._ask(_Question(about="sessions", session_id=session_id))
        return next((SessionView.model_validate(view) for answer in answers for view in answer.sessions), None)

    async def sessions_of(self, client_id: str) -> list[SessionView]:
        """Return the sessions of a client on all nodes."""
        return (await self.sessions(client_id=client_id, contains="", after="", limit=100)).items

    async def connected(self, *, after: str, limit: int) -> Connected:
        """Return the connected clients whose ids follow `after`: at least `limit` of them, if there are that many."""
        answers = await self._ask(_Question(about="clients", after=after, limit=limit))
        ends = [answer.clients[-1] for answer in answers if len(answer.clients) >= limit]
        until = min(ends, default=None)
        clients = (client for answer in answers for client in answer.clients)
        return Connected(frozenset(client for client in clients if until is None or client <= until), until)

    async def end(self, *, session_id: str | None = None, client_id: str | None = None) -> int:
        """End a session, or all sessions of a client, and return how many ended."""
        answers = await self._ask(_Question(about="end", session_id=session_id, client_id=client_id))
        return sum(answer.ended for answer in answers)

    async def _ask(self, question: _Question) -> list[_Answer]:
        answers = [self._answer(question)]
        return answers + [_read_answer(answer) for answer in await self._others(_encode(question))]

    def _answer(self, question: _Question) -> _Answer:
        sessions = self._asked_for(question)
        match question.about:
            case "sessions":
                views = (self._view(session) for session in sessions)
                later = (view for view in views if _place(view) > question.after)
                found = heapq.nsmallest(question.limit, later, key=_place)
                return _Answer(sessions=[view.model_dump() for view in found])
            case "clients":
                ids = {session.client_id for session in sessions if session.client_id > question.after}
                return _Answer(clients=heapq.nsmallest(question.limit, ids))
            case "end":
                ending = list(sessions)
                for session in ending:
                    session.evict()
                return _Answer(ended=len(ending))

    def _asked_for(self, question: _Question) -> Iterable[LiveSession]:
        for session in self._live_sessions.sessions():
            if question.client_id not in (None, session.client_id):
                continue
            if question.session_id not in (None, session.session_id):
                continue
            if question.contains in session.client_id:
                yield session

    def _view(self, session: LiveSession) -> SessionView:
        from signal_manager.admin.views import SessionView  # noqa: PLC0415 - as above

        return SessionView.of(session, self._rooms.room_of(session.session_id), self._node_id)


def _place(session: SessionView) -> str:
    return f"{session.client_id}/{session.session_id}"
