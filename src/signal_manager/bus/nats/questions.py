"""The questions of nodes about clients and about each other, and the way of the answers.

Every question ends with an answer, with nats-server's "no responders", or with an error after a time limit.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from signal_manager.bus.nats.link import Arrival, NatsLink
from signal_manager.errors import UnavailableError

__all__ = [
    "ASKED",
    "ASK_AGAIN",
    "Away",
    "Claim",
    "Compare",
    "Gone",
    "Hello",
    "Here",
    "Late",
    "Newer",
    "Query",
    "Questions",
    "Response",
    "Where",
    "decode",
    "encode",
]

log = structlog.get_logger(__name__)

# A node that has just detached a client answers `Gone` or `Late` until nats-server knows. The asker then asks again and
# finds the client's new node, or none. The pauses (s) double, because a busy machine takes its time.
ASK_AGAIN = 0.02
ASKED = 6


class Where(msgspec.Struct, frozen=True, tag="where"):
    """Asks which node has this client."""


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """Tells other nodes to detach a client, which has come to the asking node."""

    node_id: str
    instance_id: str | None
    since: float
    wants: bytes | None = None  # the session that the client wants to resume, for the hand-over
    yields: bool = False  # whether another instance that its user took up later keeps the client
    taken_up_at: int | None = None  # None from a node of an older version


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """Tells other nodes, after a cut, since when the client is at the asking node; the older presence ends."""

    node_id: str
    instance_id: str | None
    since: float
    taken_up_at: int | None = None  # as in `Claim`


class Here(msgspec.Struct, frozen=True, tag="here"):
    """The client is at the answering node."""

    node_id: str


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """The answering node had the client and has just detached it."""

    handed_over: bytes | None = None


class Late(msgspec.Struct, frozen=True, tag="late"):
    """The client has left this node; nats-server passed the question on before it knew."""


class Newer(msgspec.Struct, frozen=True, tag="newer"):
    """The answering node has a newer presence of the client."""

    instance_id: str | None


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A node's sign of life; with `is_new` it asks the other nodes for theirs."""

    node_id: str
    is_new: bool = False


class Query(msgspec.Struct, frozen=True, tag="query"):
    """A question to all nodes; this module does not read it."""

    question: bytes


class Response(msgspec.Struct, frozen=True, tag="response"):
    """One node's answer to a `Query`."""

    node_id: str
    answer: bytes


class Away(msgspec.Struct, frozen=True, tag="away"):
    """The node was cut off from the others for a while, and its announcements were lost."""

    node_id: str


_decoder = msgspec.msgpack.Decoder(
    Where | Claim | Compare | Here | Gone | Late | Newer | Away | Hello | Query | Response
)
encode = msgspec.msgpack.Encoder().encode


def decode(message: Arrival) -> Any:
    """Decode a question or notice of another node; log an unknown one and return None."""
    try:
        return _decoder.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.error("message from another node not understood", subject=message.subject, reason=str(error))
        return None


Answered = Callable[[Any], None]  # called with a reply, None for "no responders", or UnavailableError


class Questions:
    """Sends questions and returns each answer to its caller.

    Args:
        link: carries questions and answers.
        reply_to: this node's subject for replies, by token.
        timeout: seconds that the other nodes have to answer.
        away: the text of the error while the other nodes cannot be reached.
    """

    def __init__(self, link: NatsLink, reply_to: Callable[[str], str], *, timeout: float, away: str) -> None:
        self._link = link
        self._reply_to = reply_to
        self._timeout = timeout
        self._away = away
        self._open: dict[str, tuple[Answered, asyncio.TimerHandle]] = {}
        self._collecting: dict[str, Answered] = {}  # questions to all nodes, which have many answers
        self._tokens = itertools.count(1)

    def ask(self, subject: str, question: msgspec.Struct, answered: Answered) -> None:
        """Ask the nodes that listen to `subject`; call `answered` once."""
        loop, token = asyncio.get_running_loop(), f"q{next(self._tokens)}"
        self._open[token] = (answered, loop.call_later(self._timeout, self._unanswered, token))
        if not self._link.publish(subject, encode(question), self._reply_to(token)):
            loop.call_soon(self._settle, token, UnavailableError(self._away))

    async def answer_to(self, subject: str, question: msgspec.Struct) -> Any:
        """Ask, and return the answer (`Answered`)."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        self.ask(subject, question, answered)
        return await future

    async def insist(self, subject: str, question: msgspec.Struct) -> Any:
        """Ask until a node that has the client answers, or no node listens for it."""
        for attempt in range(ASKED):
            reply = await self.answer_to(subject, question)
            if not isinstance(reply, Late):
                break
            await asyncio.sleep(ASK_AGAIN * 2**attempt)
        return reply

    async def collect(self, subject: str, question: bytes, nodes: set[str]) -> list[bytes]:
        """Ask these nodes, which all listen to `subject`, and return the answers that come in time."""
        token, loop = f"a{next(self._tokens)}", asyncio.get_running_loop()
        waiting = set(nodes)
        answers: list[bytes] = []
        complete = asyncio.Event()

        def answered(response: Any) -> None:
            if isinstance(response, Response):
                answers.append(response.answer)
                waiting.discard(response.node_id)
            if not waiting:
                complete.set()

        self._collecting[token] = answered
        try:
            if waiting and self._link.publish(subject, encode(Query(question)), self._reply_to(token)):
                async with asyncio.timeout_at(loop.time() + self._timeout):
                    await complete.wait()
        except TimeoutError:
            log.warning("other nodes do not answer", nodes=sorted(waiting))
        finally:
            del self._collecting[token]
        return answers

    def on_reply(self, token: str, message: Arrival) -> None:
        """Take what came to this node's subject for replies."""
        reply = None if message.is_unheard else decode(message)
        if token in self._collecting:
            self._collecting[token](reply)
        elif message.is_unheard or reply is not None:
            self._settle(token, reply)

    def cut_off(self) -> None:
        """Tell everybody who waits that the other nodes are out of reach."""
        for token in tuple(self._open):
            self._settle(token, UnavailableError(self._away))

    def _unanswered(self, token: str) -> None:
        self._settle(token, UnavailableError("another node does not answer"))

    def _settle(self, token: str, reply: Any) -> None:
        question = self._open.pop(token, None)
        if question is not None:
            answered, timer = question
            timer.cancel()
            answered(reply)
