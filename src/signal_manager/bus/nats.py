"""The bus of several nodes: NATS tells where a client is, and carries what nodes write to each other.

Every client has a subject that its node listens to, so that a question about a client that nobody holds is answered at
once by nats-server ("no responders"). Messages do not go there: a node has one subject for all that others send it,
and what one turn of the event loop causes for one node goes out as one batch (`wire.py`). `routes.py` remembers where
clients are and keeps the order of what waits.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, assert_never

import msgspec
import structlog

from signal_manager.bus import wire
from signal_manager.bus.base import (
    Claimed,
    Delivery,
    HandOver,
    NewsHandler,
    Outcome,
    QuestionHandler,
    ReunionHandler,
    Subscriber,
)
from signal_manager.bus.local import LocalBus
from signal_manager.bus.nats_link import Arrival, NatsLink, NatsSecurity
from signal_manager.bus.routes import Ask, Dispatch, Parcel, Routes, Step, Tell
from signal_manager.errors import (
    ConfigurationError,
    MalformedMessageError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.model import ClientId, NodeId, RoomId, is_valid_name
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.messages import Message, MessageType, PayloadType, Peer, Shape, Signal, spec_of

__all__ = ["NatsBus"]

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=Subscriber)

# How long (s) the other nodes have to answer a question, and to take a batch. A node that is busy takes its time, and
# whoever sent something is told 503 when it is over.
QUESTION_TIMEOUT = 2.0
BATCH_TIMEOUT = 5.0
# How long (s) the answer to a batch waits for company: a message of its own would cost as much as the batch.
_ANSWER_DELAY = 0.001
# Bytes that may be on their way to other nodes, or wait for it.
MAX_BUFFERED = 64 * 1024 * 1024
# Between two looks for what has taken too long (s).
_SWEEP = 0.25
# After so long (s) a node that does not take a room's news is left to find out by itself.
_NEWS_PATIENCE = 60.0
# A node that has just let a client go says so; whoever asks again then finds the client's new node, or nobody.
_ASK_AGAIN = 0.02
_ASKED = 3
# How often each node tells the others that it is there (s), and after how many times it is missed.
_HELLO = 5.0
_MISSED = 3
# Questions about our own clients that go out in one turn when the other nodes can be reached again.
_REUNION_STEP = 500

_AWAY = "the other nodes cannot be reached at present"


class _Where(msgspec.Struct, frozen=True, tag="where"):
    """Who holds this client?"""


class _Claim(msgspec.Struct, frozen=True, tag="claim"):
    """The client has come to this node; let go of it."""

    node_id: str
    instance_id: str | None
    since: float
    wants: bytes | None = None  # what the client wants to go on with, for the hand-over


class _Compare(msgspec.Struct, frozen=True, tag="compare"):
    """After nodes could not see each other: the client is here since then; the older presence ends."""

    node_id: str
    instance_id: str | None
    since: float


class _Here(msgspec.Struct, frozen=True, tag="here"):
    """The client is at this node."""

    node_id: str


class _Gone(msgspec.Struct, frozen=True, tag="gone"):
    """The client was here, and this node has just let go of it."""

    handed_over: bytes | None = None


class _Late(msgspec.Struct, frozen=True, tag="late"):
    """The client was here before, which nats-server did not know yet when it passed the question on."""


class _Newer(msgspec.Struct, frozen=True, tag="newer"):
    """This node has a newer presence of the client."""

    instance_id: str | None


class _Hello(msgspec.Struct, frozen=True, tag="hello"):
    """This node is there, for as long as it says so; `is_new` asks the others to say so too."""

    node_id: str
    is_new: bool = False


class _Query(msgspec.Struct, frozen=True, tag="query"):
    """A question to all nodes, which is none of this module's business."""

    question: bytes


class _Response(msgspec.Struct, frozen=True, tag="response"):
    """One node's answer to a `_Query`."""

    node_id: str
    answer: bytes


class _Away(msgspec.Struct, frozen=True, tag="away"):
    """This node could not reach the others for a while, and what it announced was lost."""

    node_id: str


_decoder = msgspec.msgpack.Decoder(
    _Where | _Claim | _Compare | _Here | _Gone | _Late | _Newer | _Away | _Hello | _Query | _Response
)
_encode = msgspec.msgpack.Encoder().encode


def _decode(message: Arrival) -> Any:
    """Return what another node asks or says, or None when it is not understood."""
    try:
        return _decoder.decode(message.data)
    except msgspec.DecodeError as error:
        log.error("message from another node not understood", subject=message.subject, reason=str(error))
        return None


class _Coming(msgspec.Struct):
    """A client that is about to be attached here."""

    instance_id: str | None
    since: float
    is_superseded: bool = False
    count: int = 1  # connections of the client that are coming at the same time
    questions: list[str] = msgspec.field(default_factory=list)  # where to answer those who ask for it


class _Sent(NamedTuple):
    """A batch that has no answer yet."""

    node_id: str
    parcels: list[Parcel | _Letter]
    size: int
    deadline: float


class _Letter:
    """News on its way to a node."""

    __slots__ = ("data", "node_id", "until")

    def __init__(self, node_id: str, data: bytes, until: float) -> None:
        self.node_id = node_id
        self.data = data
        self.until = until


_Answered = Callable[[Any], None]  # called with a reply, None for "no responders", or UnavailableError


class NatsBus(LocalBus[S]):
    """Presence and delivery over all nodes that share a NATS; an async context manager.

    Args:
        node_id: what this node is called; no two running nodes may have the same.
        url, security: how nats-server is reached.
        prefix: what subjects begin with; services with different prefixes share a NATS without meeting.
        max_subscribers: must be 1; which node has how many is not counted.
        batch_timeout, question_timeout: seconds that other nodes have to answer.
        max_buffered: bytes that may be on their way or wait.
        clock: seconds since the epoch; compared between nodes only where they could not see each other.
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
    ) -> None:
        super().__init__(max_subscribers=1)
        self._node_id = node_id
        self._prefix = prefix
        self._batch_timeout = batch_timeout
        self._question_timeout = question_timeout
        self._max_buffered = max_buffered
        self._clock = clock
        self._link = NatsLink(
            url, name=f"{prefix} {node_id}", security=security, on_up=self._reunite, on_down=self._cut_off
        )
        self._routes = Routes()
        self._reply_prefix = f"{self._named('r', node_id)}."
        self._inboxes: dict[str, str] = {}
        self._since: dict[str, float] = {}  # when each client was attached here
        self._unclaimed: set[str] = set()  # clients that were attached without asking the others
        self._coming: dict[str, _Coming] = {}
        self._outbox: dict[str, list[Parcel | _Letter | bytes]] = {}
        self._is_flush_due = False
        self._is_answer_due = False
        self._sent: dict[int, _Sent] = {}
        # Numbers are never used again, not even by this node's next life: a late answer must not confirm another batch.
        self._numbers = itertools.count(secrets.randbits(48))
        self._questions: dict[str, tuple[_Answered, asyncio.TimerHandle]] = {}
        self._collecting: dict[str, _Answered] = {}  # questions to all, which have many answers
        self._tokens = itertools.count(1)
        self._buffered = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_news: NewsHandler = lambda room_id, news: None
        self._on_reunion: ReunionHandler = lambda node_id: None
        self._peers: dict[str, float] = {}  # the other nodes, and when each was last heard of
        self._next_hello = 0.0
        self._on_question_to_all: QuestionHandler = lambda question: b""
        # Called around each batch, so that what it brings for one client can be written in one go.
        self.before_batch: Callable[[], None] = lambda: None
        self.after_batch: Callable[[], None] = lambda: None
        self.hand_over: HandOver = lambda client_id, wants: None

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        self._link.subscribe(self._reply_to("*"), self._on_reply)
        # A former life of this node that was cut off does not answer, and is none that is in use.
        if isinstance(await self._question(self._named("i", self._node_id), _Where()), _Here):
            await self._link.__aexit__(None, None, None)
            raise ConfigurationError(f"bus.node_id {self._node_id} is in use by another node, expected one of its own")
        self._link.subscribe(self._named("i", self._node_id), self._on_roll_call)
        self._link.subscribe(self._named("n", self._node_id), self._on_batch)
        self._link.subscribe(f"{self._prefix}.all", self._on_notice)
        self._publish_to_all(_Hello(self._node_id, is_new=True))
        await self._link.flush()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._flush()
        await self._link.drain(but=self._reply_to("*"))
        self._flush()  # the answers to what came last
        await self._link.__aexit__(kind, error, traceback)
        self._cut_off()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_connected(self) -> bool:
        """Whether the other nodes can be reached."""
        return self._link.is_up

    # -- presence ------------------------------------------------------------------------------------------------

    async def claim(self, client_id: ClientId, instance_id: str | None, *, wants: bytes | None = None) -> Claimed:
        """Have all other nodes let go of a client that is about to be attached here.

        To be followed by `attach` without awaiting anything, or by `release`. When a newer presence came up elsewhere
        meanwhile, the claim is lost and the client must not be attached. Other nodes that do not answer, or cannot be
        reached, are not waited for.

        Args:
            wants: given to the hand-over of the client's former node, which says what the client can go on with.
        """
        if client_id in self.subscribers and client_id not in self._unclaimed:
            return Claimed(is_won=True)  # all others let go of it then
        coming = self._coming.get(client_id)
        if coming is None:
            coming = self._coming[client_id] = _Coming(instance_id, self._clock())
        else:
            coming.count += 1
            coming.instance_id, coming.since = instance_id, self._clock()
        self._link.subscribe(self._subject(client_id), partial(self._on_question, client_id))
        if client_id not in self.subscribers:
            self._routes.hold(client_id)
        if not self._link.is_up:
            return Claimed(is_won=True)
        self._flush()  # what is on its way to the client's former node must arrive there before the claim
        claim = _Claim(self._node_id, instance_id, coming.since, wants)
        reply = await self._insist(self._subject(client_id), claim)
        if isinstance(reply, _Newer) or coming.is_superseded:
            self.release(client_id)
            return Claimed(is_won=False)
        return Claimed(is_won=True, handed_over=reply.handed_over if isinstance(reply, _Gone) else None)

    def release(self, client_id: ClientId) -> None:
        """Give up a claim that is not followed by `attach`."""
        coming = self._coming.get(client_id)
        if coming is None:
            return
        coming.count -= 1
        if coming.count <= 0:
            del self._coming[client_id]
            self._answer_those_who_ask(client_id, coming)
            if client_id not in self.subscribers:
                self._link.unsubscribe(self._subject(client_id))
                self._take(self._routes.stayed_away(client_id))

    def attach(self, client_id: ClientId, subscriber: S) -> None:
        """Make `subscriber` the one that receives `client_id`'s messages, on this node and all others."""
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
        for parcel in self._routes.arrived(client_id):
            self._settle(parcel, self._deliver_here(parcel.data))

    def detach(self, client_id: ClientId, subscriber: S) -> None:
        """Forget a connection that has ended."""
        super().detach(client_id, subscriber)
        if client_id in self.subscribers or self._since.pop(client_id, None) is None:
            return
        self._unclaimed.discard(client_id)
        if client_id not in self._coming:
            self._link.unsubscribe(self._subject(client_id))

    def respond(self, on_question: QuestionHandler) -> None:
        """See `Bus.respond`."""
        self._on_question_to_all = on_question

    async def ask_others(self, question: bytes) -> list[bytes]:
        """See `Bus.ask_others`."""
        token, loop = f"a{next(self._tokens)}", asyncio.get_running_loop()
        waiting = set(self._peers)
        answers: list[bytes] = []
        complete = asyncio.Event()

        def answered(response: Any) -> None:
            if isinstance(response, _Response):
                answers.append(response.answer)
                waiting.discard(response.node_id)
            if not waiting:
                complete.set()

        self._collecting[token] = answered
        try:
            if waiting and self._publish_to_all(_Query(question), self._reply_to(token)):
                async with asyncio.timeout_at(loop.time() + self._question_timeout):
                    await complete.wait()
        except TimeoutError:
            log.warning("other nodes do not answer", nodes=sorted(waiting))
        finally:
            del self._collecting[token]
        return answers

    def listen(self, *, on_news: NewsHandler, on_reunion: ReunionHandler) -> None:
        """See `Bus.listen`."""
        self._on_news, self._on_reunion = on_news, on_reunion

    # -- sending -------------------------------------------------------------------------------------------------

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """See `Bus.send`."""
        if target in self.subscribers:
            return super().send(target, message, message_id)
        if not is_valid_name(target):
            return Delivery.OFFLINE  # and no subject for NATS either
        data = message.signal_data if isinstance(message, Signal) else None
        payload_type = PayloadType.CBOR if isinstance(data, bytes) else PayloadType.JSON
        payload_type, payload = encode_payload(message, payload_type, Shape.PLAIN, sent_by=Peer.SERVICE)
        message_type = spec_of(message).message_type
        entry = wire.encode_message(message_type, payload_type, message_id or secrets.token_bytes(16), target, payload)
        self._post(target, entry, outcome)
        return Delivery.PENDING

    def forward(self, head: bytes, target: str, sender: str, body: bytes, outcome: Outcome) -> None:
        """Send a signal on in the bytes in which it came; `outcome` is called as after `send`.

        Args:
            head: the first `protocol.relay.HEAD` bytes of its frame.
            target: a valid name that is not in `subscribers`.

        Raises:
            TooLargeError, UnavailableError: as `send`.
        """
        self._post(target, wire.encode_signal(head, target, sender, body), outcome)

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """See `Bus.announce`."""
        if not self._link.is_up:
            return  # whoever misses it is told to look when this node is back
        entry = wire.encode_news(room_id, news)
        until = asyncio.get_running_loop().time() + _NEWS_PATIENCE
        for node_id in nodes:
            self._buffered += len(entry)
            self._put(node_id, _Letter(node_id, entry, until))

    def _post(self, target: str, entry: bytes, outcome: Outcome | None) -> None:
        if not self._link.is_up:
            raise UnavailableError(_AWAY)
        if len(entry) + wire.OVERHEAD > self._link.max_payload:
            raise TooLargeError(
                f"message is {len(entry)} bytes, expected at most {self._link.max_payload - wire.OVERHEAD} "
                "to a client of another node"
            )
        if self._buffered + len(entry) > self._max_buffered:
            raise UnavailableError("too much waits for the other nodes")
        self._buffered += len(entry)
        parcel = Parcel(target, entry, outcome)
        node_id = self._routes.straight(parcel)
        if node_id is not None:
            self._put(node_id, parcel)
            return
        step = self._routes.send(parcel)
        if step is not None:
            self._take((step,))

    def _take(self, steps: Iterable[Step]) -> None:
        """Do what the routes decide."""
        for step in steps:
            match step:
                case Dispatch():
                    self._put(step.node_id, step.parcel)
                case Tell():
                    self._settle(step.parcel, step.result)
                case Ask():
                    self._ask_where(step.target, _ASKED)
                case _:
                    assert_never(step)

    def _settle(self, parcel: Parcel, result: Delivery | SignalManagerError) -> None:
        self._buffered -= len(parcel.data)
        if parcel.outcome is not None:
            try:
                parcel.outcome(result)
            except Exception:
                log.exception("sender could not be told what became of a message", target=parcel.target)

    def _put(self, node_id: str, item: Parcel | _Letter | bytes) -> None:
        waiting = self._outbox.get(node_id)
        if waiting is None:
            waiting = self._outbox[node_id] = []
        waiting.append(item)
        if not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _owe(self, node_id: str, answer: bytes) -> None:
        """Answer a batch soon: with what goes to that node anyway, or with other answers."""
        self._outbox.setdefault(node_id, []).append(answer)
        if not self._is_flush_due and not self._is_answer_due:
            self._is_answer_due = True
            asyncio.get_running_loop().call_later(_ANSWER_DELAY, self._flush)

    def _flush(self) -> None:
        """Send what this turn of the loop has brought, as few batches as NATS allows."""
        self._is_flush_due = self._is_answer_due = False
        outbox, self._outbox = self._outbox, {}
        largest = self._link.max_payload - wire.OVERHEAD
        for node_id, items in outbox.items():
            batch: list[Parcel | _Letter | bytes] = []
            size = 0
            for item in items:
                length = len(item) if isinstance(item, bytes) else len(item.data)
                if batch and (size + length > largest or len(batch) >= 0xFFFF):
                    self._send_batch(node_id, batch, size)
                    batch, size = [], 0
                batch.append(item)
                size += length
            self._send_batch(node_id, batch, size)
        self._link.write_out()

    def _send_batch(self, node_id: str, items: list[Parcel | _Letter | bytes], size: int) -> None:
        number = next(self._numbers)
        parcels = [item for item in items if not isinstance(item, bytes)]
        entries = [item if isinstance(item, bytes) else item.data for item in items]
        head = wire.encode_batch(number, self._node_id, ())
        if parcels:
            deadline = asyncio.get_running_loop().time() + self._batch_timeout
            self._sent[number] = _Sent(node_id, parcels, size, deadline)
        # nats-server tells where the reply goes when nobody listens to the node's subject any more.
        reply_to = f"{self._reply_prefix}b{number}" if parcels else ""
        if not self._link.publish(self._inbox(node_id), head, reply_to, entries):
            self._lose(number, UnavailableError(_AWAY))

    # -- what other nodes send -------------------------------------------------------------------------------------

    def _on_batch(self, message: Arrival) -> None:
        try:
            batch = wire.read_batch(message.data)
        except MalformedMessageError as error:
            log.error("batch from another node not understood", reason=error.message)
            return
        unsettled: list[wire.Unsettled] = []
        index = 0
        self.before_batch()
        try:
            for entry in batch.entries:
                if isinstance(entry, wire.Answer):
                    self._answered(entry)
                    continue
                result = self._deliver(entry)
                if result is not Delivery.DELIVERED:
                    unsettled.append(_unsettled(index, result))
                index += 1
        finally:
            self.after_batch()
        if index:
            self._owe(batch.node_id, wire.encode_answer(batch.number, unsettled))

    def _deliver(self, entry: wire.RelayedSignal | wire.RelayedMessage | wire.News) -> Delivery | SignalManagerError:
        if isinstance(entry, wire.News):
            self._on_news(RoomId(entry.room_id), entry.data)
            return Delivery.DELIVERED
        subscriber = self.subscribers.get(entry.target)
        if subscriber is None:
            return Delivery.OFFLINE
        try:
            if isinstance(entry, wire.RelayedSignal):
                return subscriber.relay(entry.head, entry.sender, entry.body)
            message_type = MessageType(entry.message_type)
            payload_type = PayloadType(entry.payload_type)
            message = decode_payload(message_type, payload_type, entry.payload, sent_by=Peer.SERVICE).message
            return subscriber.deliver(message, entry.message_id)
        except SignalManagerError as error:
            return error
        except Exception:
            log.exception("message from another node not delivered", client_id=entry.target)
            return UnavailableError("the other node could not deliver this")

    def _deliver_here(self, entry: bytes) -> Delivery | SignalManagerError:
        """Deliver what was meant for another node to a client that has come here."""
        (parsed,) = wire.read_batch(wire.encode_batch(0, "", [entry])).entries
        return Delivery.OFFLINE if isinstance(parsed, wire.Answer) else self._deliver(parsed)

    def _answered(self, answer: wire.Answer) -> None:
        sent = self._sent.pop(answer.number, None)
        if sent is None:
            return  # too late, and everybody was told so
        unsettled = {each.place: each for each in answer.unsettled}
        for index, parcel in enumerate(sent.parcels):
            exception = unsettled.get(index)
            if isinstance(parcel, _Letter):
                self._buffered -= len(parcel.data)
            elif exception is None:
                if self._routes.has_arrived(parcel):
                    self._settle(parcel, Delivery.DELIVERED)
                else:
                    self._take(self._routes.delivered(parcel))
            elif exception.verdict is wire.Verdict.QUEUED:
                self._take(self._routes.delivered(parcel, Delivery.QUEUED))
            elif exception.verdict is wire.Verdict.ABSENT:
                self._take(self._routes.refused(parcel))
            else:
                error = wire.as_error(exception.verdict, exception.reason)
                self._take(self._routes.delivered(parcel, error))

    def _unheard(self, number: int) -> None:
        """Take note that a batch reached nobody, since its node is gone, and with it whatever it was sent before."""
        sent = self._sent.get(number)
        if sent is None:
            return
        earlier = [other for other, each in self._sent.items() if each.node_id == sent.node_id and other < number]
        for other in earlier:
            self._lose(other, UnavailableError("the other node is gone"))
        del self._sent[number]
        for parcel in sent.parcels:
            if isinstance(parcel, _Letter):
                self._buffered -= len(parcel.data)
            else:
                self._take(self._routes.refused(parcel))

    def _lose(self, number: int, error: UnavailableError, *, again: bool = False) -> None:
        """Take note that nobody knows what became of a batch."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return
        now = asyncio.get_running_loop().time()
        for parcel in sent.parcels:
            if not isinstance(parcel, _Letter):
                self._take(self._routes.lost(parcel, error))
            elif again and now < parcel.until:
                self._put(parcel.node_id, parcel)
            else:
                self._buffered -= len(parcel.data)

    # -- questions -----------------------------------------------------------------------------------------------

    def _ask_where(self, target: str, attempts: int) -> None:
        """Ask all nodes who holds a client."""

        def answered(reply: Any) -> None:
            if isinstance(reply, _Here):
                self._take(self._routes.found(target, reply.node_id))
            elif isinstance(reply, UnavailableError):
                self._take(self._routes.unknown(target, reply))
            elif reply is None or attempts <= 1:
                self._take(self._routes.absent(target))
            else:  # somebody has just let it go
                asyncio.get_running_loop().call_later(_ASK_AGAIN, self._ask_where, target, attempts - 1)

        self._ask(self._subject(target), _Where(), answered)

    async def _insist(self, subject: str, question: msgspec.Struct) -> Any:
        """Ask until somebody answers who holds the client, or nobody listens for it."""
        for _ in range(_ASKED):
            reply = await self._question(subject, question)
            if not isinstance(reply, _Late):
                break
            await asyncio.sleep(_ASK_AGAIN)
        return reply

    async def _question(self, subject: str, question: msgspec.Struct) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        self._ask(subject, question, answered)
        return await future

    def _ask(self, subject: str, question: msgspec.Struct, answered: _Answered) -> None:
        token = f"q{next(self._tokens)}"
        timer = asyncio.get_running_loop().call_later(self._question_timeout, self._unanswered, token)
        self._questions[token] = (answered, timer)
        if not self._link.publish(subject, _encode(question), self._reply_to(token)):
            asyncio.get_running_loop().call_soon(self._reply, token, UnavailableError(_AWAY))

    def _unanswered(self, token: str) -> None:
        self._reply(token, UnavailableError("another node does not answer"))

    def _reply(self, token: str, reply: Any) -> None:
        question = self._questions.pop(token, None)
        if question is not None:
            answered, timer = question
            timer.cancel()
            answered(reply)

    def _on_reply(self, message: Arrival) -> None:
        token = message.subject.rpartition(".")[2]
        is_unheard = message.is_unheard
        reply = None if is_unheard else _decode(message)
        if is_unheard and token.startswith("b"):
            self._unheard(int(token[1:]))
        elif token in self._collecting:
            self._collecting[token](reply)
        elif is_unheard or reply is not None:
            self._reply(token, reply)

    def _on_question(self, client_id: ClientId, message: Arrival) -> None:
        """Answer for a client that is here, or is coming."""
        question = _decode(message)
        coming = self._coming.get(client_id)
        if isinstance(question, _Where):
            if coming is not None and client_id not in self.subscribers:
                coming.questions.append(message.reply)
            else:
                self._answer_where(client_id, message.reply)
        elif isinstance(question, _Claim | _Compare):
            rank = (question.since, question.node_id)
            if coming is not None and rank < (coming.since, self._node_id):
                answer: msgspec.Struct = _Newer(coming.instance_id)
            elif isinstance(question, _Compare) and rank < (self._since.get(client_id, 0.0), self._node_id):
                answer = _Newer(self.subscribers[client_id].instance_id)
            else:
                if coming is not None:
                    coming.is_superseded = True
                    self._let_go(client_id, question.instance_id)
                answer = self._give_away(client_id, question) if coming is None else _Gone()
            self._flush()  # answers to what was sent here for the client must not come after this
            self._link.publish(message.reply, _encode(answer))

    def _give_away(self, client_id: ClientId, question: _Claim | _Compare) -> _Gone | _Late:
        """Let a client go to its new node, with what it wants to go on with where that is possible."""
        handed_over = None
        if isinstance(question, _Claim) and question.wants is not None and client_id in self.subscribers:
            handed_over = self.hand_over(client_id, question.wants)
            if handed_over is not None and len(handed_over) + wire.OVERHEAD > self._link.max_payload:
                handed_over = None
                log.warning("session too large to be handed over", client_id=client_id)
            if handed_over is not None:
                return _Gone(handed_over)
        return _Gone() if self._let_go(client_id, question.instance_id) else _Late()

    def _let_go(self, client_id: ClientId, instance_id: str | None) -> bool:
        """End the presence of a client that is elsewhere; False when it has none here."""
        subscriber = self.subscribers.get(client_id)
        if subscriber is None:
            return False
        self.detach(client_id, subscriber)
        is_same = instance_id is not None and subscriber.instance_id == instance_id
        subscriber.replaced(same_instance=is_same)
        return True

    def _answer_where(self, client_id: ClientId, reply_to: str) -> None:
        answer = _Here(self._node_id) if client_id in self.subscribers else _Late()
        self._link.publish(reply_to, _encode(answer))

    def _answer_those_who_ask(self, client_id: ClientId, coming: _Coming) -> None:
        questions, coming.questions = coming.questions, []
        for reply_to in questions:
            self._answer_where(client_id, reply_to)

    def _on_roll_call(self, message: Arrival) -> None:
        self._link.publish(message.reply, _encode(_Here(self._node_id)))

    def _on_notice(self, message: Arrival) -> None:
        notice = _decode(message)
        match notice:
            case _Away():
                self._on_reunion(NodeId(notice.node_id))
            case _Hello():
                self._peers[notice.node_id] = asyncio.get_running_loop().time()
                if notice.is_new:
                    self._publish_to_all(_Hello(self._node_id))
            case _Query():
                answer = self._on_question_to_all(notice.question)
                self._link.publish(message.reply, _encode(_Response(self._node_id, answer)))
            case _:
                pass

    def _publish_to_all(self, notice: msgspec.Struct, reply: str = "") -> bool:
        return self._link.publish(f"{self._prefix}.all", _encode(notice), reply)

    # -- time, loss and reunion ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP, self._sweep)
        now = loop.time()
        if now >= self._next_hello:
            self._next_hello = now + _HELLO
            self._publish_to_all(_Hello(self._node_id))
            self._peers = {peer: at for peer, at in self._peers.items() if now - at < _MISSED * _HELLO}
        late = [number for number, sent in itertools.takewhile(lambda each: each[1].deadline < now, self._sent.items())]
        for number in late:
            self._lose(number, UnavailableError("another node does not answer"), again=True)

    def _cut_off(self) -> None:
        """Tell everybody who waits that the other nodes are out of reach."""
        error = UnavailableError(_AWAY)
        self._flush()
        for number in tuple(self._sent):
            self._lose(number, error)
        for token in tuple(self._questions):
            self._reply(token, error)

    def _reunite(self) -> None:
        """Settle with the other nodes what has happened while they could not be reached."""
        self._publish_to_all(_Away(self._node_id))
        self._publish_to_all(_Hello(self._node_id, is_new=True))
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
        subject = self._subject(client_id)
        reply = await self._insist(subject, _Compare(self._node_id, subscriber.instance_id, since))
        if isinstance(reply, _Newer) and self.subscribers.get(client_id) is subscriber:
            self._let_go(ClientId(client_id), reply.instance_id)

    # -- subjects ------------------------------------------------------------------------------------------------

    def _subject(self, client_id: str) -> str:
        return self._named("c", client_id)

    def _named(self, kind: str, name: str) -> str:
        # A dot would part the name into tokens, and a colon is in no name.
        return f"{self._prefix}.{kind}.{name.replace('.', ':')}"

    def _inbox(self, node_id: str) -> str:
        inbox = self._inboxes.get(node_id)
        if inbox is None:
            inbox = self._inboxes[node_id] = self._named("n", node_id)
        return inbox

    def _reply_to(self, token: str) -> str:
        return self._reply_prefix + token


def _unsettled(index: int, result: Delivery | SignalManagerError) -> wire.Unsettled:
    if isinstance(result, SignalManagerError):
        return wire.Unsettled(index, wire.verdict_of(result), result.message)
    return wire.Unsettled(index, wire.Verdict.QUEUED if result is Delivery.QUEUED else wire.Verdict.ABSENT)
