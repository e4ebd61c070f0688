"""The bus of several nodes over NATS, which finds a client's node and carries messages between nodes.

The node of a client listens to the client's subject, so nats-server answers "no responders" at once for a client that
no node has. Messages go to one subject per node; `batches.py` sends them. `questions.py` has the questions of nodes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from signal_manager.bus.base import (
    Claimed,
    Delivery,
    GoneHandler,
    HandOver,
    NewsHandler,
    Outcome,
    QuestionHandler,
    ReunionHandler,
    S,
)
from signal_manager.bus.local import LocalBus
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.batches import AWAY, Batches
from signal_manager.bus.nats.deliveries import Deliveries
from signal_manager.bus.nats.link import Arrival, NatsLink, NatsSecurity
from signal_manager.bus.nats.outbox import Addresses
from signal_manager.bus.nats.questions import (
    ASK_AGAIN,
    ASKED,
    Away,
    Claim,
    Compare,
    Gone,
    Hello,
    Here,
    Late,
    Newer,
    Query,
    Questions,
    Response,
    Where,
    decode,
    encode,
)
from signal_manager.errors import (
    ConfigurationError,
    UnavailableError,
)
from signal_manager.model import ClientId, NodeId, RoomId, is_valid_name
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import encode_payload
from signal_manager.protocol.messages import Message, PayloadType, Peer, Shape, Signal

__all__ = ["NatsBus"]

log = structlog.get_logger(__name__)

# Seconds that other nodes have to answer a question and a batch. A busy node takes its time; after the limit the
# sender gets 503.
QUESTION_TIMEOUT = 2.0
BATCH_TIMEOUT = 5.0
# The most bytes that are on their way to other nodes or wait.
MAX_BUFFERED = 64 * 1024 * 1024
# Seconds between two checks for expired questions and batches.
_SWEEP = 0.25
# Seconds between two signs of life of a node, and the number of missed ones after which it counts as gone.
_HELLO = 3.0
_MISSED = 2
# Questions about this node's clients per turn of the loop, after the other nodes could not be reached.
_REUNION_STEP = 500


class _Coming(msgspec.Struct):
    """A client that is about to be attached here."""

    instance_id: str | None
    since: float
    taken_up_at: int
    is_superseded: bool = False
    count: int = 1  # connections of the client that arrive at the same time
    questions: list[str] = msgspec.field(default_factory=list)  # reply subjects of nodes that ask for the client


class NatsBus(LocalBus[S]):
    """Presence and delivery over all nodes that share a NATS; an async context manager.

    Args:
        node_id: the name of this node, unique among running nodes.
        url, security: the address of nats-server and the credentials.
        prefix: the prefix of all subjects; services with different prefixes can share a NATS.
        max_subscribers: must be 1, because connections are not counted over nodes.
        batch_timeout, question_timeout: seconds that other nodes have to answer.
        max_buffered: the most bytes that are on their way or wait.
        clock: seconds since the epoch; nodes compare it only after they could not reach each other.
        metrics: counts messages, bytes and losses.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        url: str,
        security: NatsSecurity | None = None,
        prefix: str = "signal-manager",
        batch_timeout: float = BATCH_TIMEOUT,
        question_timeout: float = QUESTION_TIMEOUT,
        max_buffered: int = MAX_BUFFERED,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = Metrics() if metrics is None else metrics
        super().__init__(max_subscribers=1)
        self._node_id = node_id
        self._prefix = prefix
        self._clock = clock
        self._link = NatsLink(
            url, name=f"{prefix} {node_id}", security=security, on_up=self._reunite, on_down=self._cut_off
        )
        self._reply_prefix = f"{self._named('r', node_id)}."
        self._since: dict[str, float] = {}  # when each client was attached here
        self._unclaimed: set[str] = set()  # clients that were attached without asking the others
        self._coming: dict[str, _Coming] = {}
        self._batches = Batches(
            self._link,
            Addresses(node_id, self._inbox, self._reply_to),
            ask=self._ask_where,
            timeout=batch_timeout,
            max_buffered=max_buffered,
            metrics=metrics,
        )
        self._routes, self._outboxes = self._batches.routes, self._batches.outboxes
        self._questions = Questions(self._link, self._reply_to, timeout=question_timeout, away=AWAY)
        self._deliveries = Deliveries(self.subscribers, self._batches, metrics)
        metrics.bus_connected.read_from(lambda: float(self._link.is_up))
        metrics.bus_nodes.read_from(lambda: len(self._peers))
        self._content: tuple[Message, bytes, wire.Content] | None = (
            None  # what was sent last, which may go to others too
        )
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_reunion: ReunionHandler = lambda node_id: None
        self._on_gone: GoneHandler = lambda node_id: None
        self._peers: dict[str, float] = {}  # the other nodes, and when each was last heard
        self._next_hello = 0.0
        self._swept_at: float | None = None
        self._on_question_to_all: QuestionHandler = lambda question: b""
        self._hand_over: HandOver = lambda client_id, wants: None

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        self._link.subscribe(self._reply_to("*"), self._on_reply)
        # An earlier run of this node that was cut off does not answer, and does not count.
        if isinstance(await self._questions.answer_to(self._named("i", self._node_id), Where()), Here):
            await self._link.__aexit__(None, None, None)
            raise ConfigurationError(f"bus.node_id {self._node_id} is in use by another node, expected one of its own")
        self._link.subscribe(self._named("i", self._node_id), self._on_roll_call)
        self._link.subscribe(self._named("n", self._node_id), self._deliveries.take)
        self._link.subscribe(f"{self._prefix}.all", self._on_notice)
        self._publish_to_all(Hello(self._node_id, is_new=True))
        await self._link.flush()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._outboxes.flush()
        await self._link.drain(but=self._reply_to("*"))
        self._outboxes.flush()  # the answers to what came last
        await self._link.__aexit__(kind, error, traceback)
        self._outboxes.close()
        while self._coming:  # messages wait for clients that can no longer come
            self.release(ClientId(next(iter(self._coming))))
        self._cut_off()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def forwarder(self) -> Batches:
        """The fast path to clients of other nodes."""
        return self._batches

    @property
    def is_waiting(self) -> bool:
        """Whether the delivery of a message is still open."""
        return self._batches.is_waiting

    def serve_others(self, *, hand_over: HandOver, join: Callable[[], None], flush: Callable[[], None]) -> None:
        """Use these functions for claims and messages of other nodes (`Bus.serve_others`)."""
        self._hand_over = hand_over
        self._deliveries.before, self._deliveries.after = join, flush

    @property
    def is_connected(self) -> bool:
        """Whether the other nodes can be reached."""
        return self._link.is_up

    # -- presence ------------------------------------------------------------------------------------------------

    async def claim(
        self,
        client_id: ClientId,
        instance_id: str | None,
        *,
        wants: bytes | None = None,
        yields: bool = False,
        taken_up_at: int = 0,
    ) -> Claimed:
        """Make all other nodes detach a client that is about to be attached here (`Presence.claim`)."""
        if yields and self._is_taken_over(client_id, instance_id, taken_up_at):
            return Claimed(is_won=False)
        if client_id in self.subscribers and client_id not in self._unclaimed:
            return Claimed(is_won=True)  # all others let go of it then
        coming = self._coming.get(client_id)
        if coming is None:
            coming = self._coming[client_id] = _Coming(instance_id, self._clock(), taken_up_at)
        else:
            coming.count += 1
            coming.instance_id, coming.since, coming.taken_up_at = instance_id, self._clock(), taken_up_at
        self._link.subscribe(self._subject(client_id), partial(self._on_question, client_id))
        if client_id not in self.subscribers:
            self._routes.hold(client_id)
        if not self._link.is_up:
            return Claimed(is_won=True)
        self._outboxes.flush()  # what is on its way to the client's former node must arrive there before the claim
        claim = Claim(self._node_id, instance_id, coming.since, wants, yields, taken_up_at)
        try:
            reply = await self._questions.insist(self._subject(client_id), claim)
        except asyncio.CancelledError:
            self.release(client_id)
            raise
        if isinstance(reply, Newer) or coming.is_superseded:
            self.release(client_id)
            return Claimed(is_won=False)
        return Claimed(is_won=True, handed_over=reply.handed_over if isinstance(reply, Gone) else None)

    def release(self, client_id: ClientId) -> None:
        """Give up a claim that no `attach` follows."""
        coming = self._coming.get(client_id)
        if coming is None:
            return
        coming.count -= 1
        if coming.count <= 0:
            del self._coming[client_id]
            self._answer_those_who_ask(client_id, coming)
            if client_id not in self.subscribers:
                self._link.unsubscribe(self._subject(client_id))
                self._batches.take(self._routes.stayed_away(client_id))

    def attach(self, client_id: ClientId, subscriber: S) -> None:
        """Make `subscriber` the newest connection of a client, for all nodes (`Presence.attach`)."""
        super().attach(client_id, subscriber)
        self._unclaimed.discard(client_id)
        coming = self._coming.get(client_id)
        self._since[client_id] = coming.since if coming is not None else self._clock()
        self._link.subscribe(self._subject(client_id), partial(self._on_question, client_id))
        if coming is None:
            self._unclaimed.add(client_id)
        else:
            coming.count -= 1
            if coming.count <= 0:
                del self._coming[client_id]
            self._answer_those_who_ask(client_id, coming)
        for envelope in self._routes.arrived(client_id):
            self._batches.settle(envelope, self._deliveries.deliver_parcel(envelope))

    def detach(self, client_id: ClientId, subscriber: S) -> None:
        """Remove a connection that has ended."""
        super().detach(client_id, subscriber)
        if client_id in self.subscribers or self._since.pop(client_id, None) is None:
            return
        self._unclaimed.discard(client_id)
        if client_id not in self._coming:
            self._link.unsubscribe(self._subject(client_id))

    def respond(self, on_question: QuestionHandler) -> None:
        """Answer the questions of other nodes with this function from now on."""
        self._on_question_to_all = on_question

    async def ask_others(self, question: bytes) -> list[bytes]:
        """Return the answers of all other nodes that come in time."""
        return await self._questions.collect(f"{self._prefix}.all", question, set(self._peers))

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        """Call these functions for news, for a reunion, and for a node that is gone."""
        self._deliveries.on_news, self._on_reunion, self._on_gone = on_news, on_reunion, on_gone

    # -- sending -------------------------------------------------------------------------------------------------

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """Deliver `message` to the newest connection of `target`, on whichever node that is (`Messaging.send`)."""
        if target in self.subscribers:
            return super().send(target, message, message_id)
        if not is_valid_name(target):
            return Delivery.OFFLINE  # and no subject for NATS either
        data = message.signal_data if isinstance(message, Signal) else None
        payload_type = PayloadType.CBOR if isinstance(data, bytes) else PayloadType.JSON
        message_id = message_id or secrets.token_bytes(16)
        content = self._content
        if content is None or content[0] is not message or content[1] != message_id:
            payload_type, payload = encode_payload(message, payload_type, Shape.PLAIN, sent_by=Peer.SERVICE)
            message_type = spec_of(message).message_type
            encoded = wire.Content(message_type, payload_type, message_id, payload)
            content = self._content = (message, message_id, encoded)
        size = wire.size_of(content[2]) + wire.TARGET_HEAD + len(target)
        self._batches.send(target, content[2], size, outcome)
        return Delivery.PENDING

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """Hand `news` of a room to these other nodes."""
        if not self._link.is_up:
            return  # nodes that miss it check their rooms at the reunion
        self._batches.announce(nodes, wire.News(room_id, news))

    # -- questions -----------------------------------------------------------------------------------------------

    def _ask_where(self, target: str, attempt: int = 1) -> None:
        """Ask all nodes for a client."""

        def answered(reply: Any) -> None:
            if isinstance(reply, Here):
                self._batches.take(self._routes.found(target, reply.node_id))
            elif isinstance(reply, UnavailableError):
                self._batches.take(self._routes.unknown(target, reply))
            elif reply is None or attempt >= ASKED:
                self._batches.take(self._routes.absent(target))
            else:  # a node has just detached the client
                pause = ASK_AGAIN * 2 ** (attempt - 1)
                asyncio.get_running_loop().call_later(pause, self._ask_where, target, attempt + 1)

        self._questions.ask(self._subject(target), Where(), answered)

    def _on_reply(self, message: Arrival) -> None:
        token = message.subject.rpartition(".")[2]
        if message.is_unheard and token.startswith("b"):
            self._batches.unheard(int(token[1:]))
        else:
            self._questions.on_reply(token, message)

    def _on_question(self, client_id: ClientId, message: Arrival) -> None:
        """Answer a question about a client that is here or coming; ignore a question without a reply subject."""
        question = decode(message)
        if not message.reply:
            return
        coming = self._coming.get(client_id)
        if isinstance(question, Where):
            if coming is not None and client_id not in self.subscribers:
                coming.questions.append(message.reply)
            else:
                self._answer_where(client_id, message.reply)
        elif isinstance(question, Claim | Compare):
            answer: msgspec.Struct | None = self._newer(client_id, question)
            if answer is None:
                if coming is not None:
                    coming.is_superseded = True
                    self._let_go(client_id, question.instance_id)
                answer = self._give_away(client_id, question) if coming is None else Gone()
            self._outboxes.flush()  # answers to what was sent here for the client must not come after this
            self._link.publish(message.reply, encode(answer))

    def _newer(self, client_id: str, question: Claim | Compare) -> Newer | None:
        """Return the presence here that keeps the client although another node asks for it, or None."""
        coming, present = self._coming.get(client_id), self.subscribers.get(client_id)
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

    def _give_away(self, client_id: ClientId, question: Claim | Compare) -> Gone | Late:
        """Detach a client that goes to another node, and hand its session over if possible."""
        handed_over = None
        if isinstance(question, Claim) and question.wants is not None and client_id in self.subscribers:
            handed_over = self._hand_over(client_id, question.wants)
            if handed_over is not None and len(handed_over) + wire.OVERHEAD > self._link.max_payload:
                handed_over = None
                log.warning("session too large to be handed over", client_id=client_id)
            if handed_over is not None:
                return Gone(handed_over)
        return Gone() if self._let_go(client_id, question.instance_id) else Late()

    def _let_go(self, client_id: ClientId, instance_id: str | None) -> bool:
        """End the presence of a client that is on another node; return False if it has none here."""
        subscriber = self.subscribers.get(client_id)
        if subscriber is None:
            return False
        self.detach(client_id, subscriber)
        is_same = instance_id is not None and subscriber.instance_id == instance_id
        subscriber.replaced(same_instance=is_same)
        return True

    def _answer_where(self, client_id: ClientId, reply_to: str) -> None:
        answer = Here(self._node_id) if client_id in self.subscribers else Late()
        self._link.publish(reply_to, encode(answer))

    def _answer_those_who_ask(self, client_id: ClientId, coming: _Coming) -> None:
        questions, coming.questions = coming.questions, []
        for reply_to in questions:
            self._answer_where(client_id, reply_to)

    def _on_roll_call(self, message: Arrival) -> None:
        if message.reply:
            self._link.publish(message.reply, encode(Here(self._node_id)))

    def _on_notice(self, message: Arrival) -> None:
        notice = decode(message)
        match notice:
            case Away():
                self._on_reunion(NodeId(notice.node_id))
            case Hello():
                self._peers[notice.node_id] = asyncio.get_running_loop().time()
                if notice.is_new:
                    self._publish_to_all(Hello(self._node_id))
            case Query() if message.reply:
                answer = self._on_question_to_all(notice.question)
                self._link.publish(message.reply, encode(Response(self._node_id, answer)))
            case _:
                pass

    def _publish_to_all(self, notice: msgspec.Struct, reply: str = "") -> bool:
        return self._link.publish(f"{self._prefix}.all", encode(notice), reply)

    # -- time, loss and reunion ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP, self._sweep)
        now = loop.time()
        late = 0.0 if self._swept_at is None else now - self._swept_at - _SWEEP
        self._swept_at = now
        if late > _SWEEP:  # this process was stopped; messages of other nodes still wait to be read
            self._peers = {peer: at + late for peer, at in self._peers.items()}
        if now >= self._next_hello:
            self._next_hello = now + _HELLO
            self._publish_to_all(Hello(self._node_id))
        if self._link.is_up:  # while the link is down, other nodes cannot be heard and may be well
            for peer in [peer for peer, at in self._peers.items() if now - at > _MISSED * _HELLO + _SWEEP]:
                del self._peers[peer]
                self._on_gone(NodeId(peer))
        self._batches.give_up_late(now)

    def _cut_off(self) -> None:
        """Tell all waiting senders and askers that the other nodes cannot be reached."""
        self._batches.cut_off()
        self._questions.cut_off()

    def _reunite(self) -> None:
        """Compare clients and announce this node after the other nodes could not be reached."""
        now = asyncio.get_running_loop().time()
        self._peers = dict.fromkeys(self._peers, now)  # running nodes will answer
        self._publish_to_all(Away(self._node_id))
        self._publish_to_all(Hello(self._node_id, is_new=True))
        self._on_reunion(None)
        task = asyncio.get_running_loop().create_task(self._compare_clients(), name="reunion")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare_clients(self) -> None:
        clients = [(client_id, subscriber) for client_id, subscriber in self.subscribers.items()]
        for start in range(0, len(clients), _REUNION_STEP):
            await asyncio.gather(*(self._compare(*each) for each in clients[start : start + _REUNION_STEP]))

    async def _compare(self, client_id: str, subscriber: S) -> None:
        since = self._since.get(client_id)
        if since is None or self.subscribers.get(client_id) is not subscriber:
            return
        question = Compare(self._node_id, subscriber.instance_id, since, subscriber.taken_up_at)
        reply = await self._questions.insist(self._subject(client_id), question)
        if isinstance(reply, Newer) and self.subscribers.get(client_id) is subscriber:
            self._let_go(ClientId(client_id), reply.instance_id)

    # -- subjects ------------------------------------------------------------------------------------------------

    def _subject(self, client_id: str) -> str:
        return self._named("c", client_id)

    def _named(self, kind: str, name: str) -> str:
        # A dot would split the name into tokens. No name contains a colon.
        return f"{self._prefix}.{kind}.{name.replace('.', ':')}"

    def _inbox(self, node_id: str) -> str:
        return self._named("n", node_id)

    def _reply_to(self, token: str) -> str:
        return self._reply_prefix + token


def _taken_up_at(question: Claim | Compare) -> int:
    """Return when the user took up the device in a question (ms since the epoch)."""
    return int(question.since * 1000) if question.taken_up_at is None else question.taken_up_at
