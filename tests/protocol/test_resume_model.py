"""Resume as a whole: client, network and service in memory, and a network that loses all that it can.

Every message of a session arrives exactly once and in order, in both directions, or the client is told that its session
could not be resumed. The client is the SDK's `Exchange`, the service is `ClientSession`; the rest is as small as it can
be.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

from hypothesis import event, given
from hypothesis import strategies as st

from signal_manager.client.exchange import Exchange
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import Budget, Journal
from signal_manager.protocol.messages import PayloadType, Resume, Shape
from signal_manager.protocol.resume import SESSION_OVERHEAD, ClientSession, Outcome, SessionPhase, WireFormat
from signal_manager.protocol.websocket import frame_head

WINDOW = 10.0
# Room for a dozen messages, so that overflowing is as likely as any other trouble.
LIMIT = 12 * 69
# One client has one session at a time, and for a moment two.
BUDGET = 3 * LIMIT + 2 * SESSION_OVERHEAD
A = ClientId("a")
JSON = WireFormat(Framing.V2, PayloadType.JSON, Shape.PLAIN)

CONNECT, WELCOME, HEARTBEAT, MESSAGE = range(4)
RESUMED, NEW = 1, 0


def frame(kind: int, *numbers: int) -> bytes:
    """Return what one side writes: a length, then what it is, then numbers."""
    body = bytes([kind]) + b"".join(number.to_bytes(3) for number in numbers)
    return bytes([len(body)]) + body


class Pipe:
    """One direction of a connection: bytes arrive in order, as far as they arrive."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self._arrived = bytearray()

    def deliver(self, size: int) -> Iterator[tuple[int, list[int], int]]:
        """Let `size` bytes arrive, and yield the frames that are whole by then, each with its size."""
        self._arrived += self.waiting[:size]
        del self.waiting[:size]
        while self._arrived and len(self._arrived) > self._arrived[0]:
            end = 1 + self._arrived[0]
            body = bytes(self._arrived[1:end])
            del self._arrived[:end]
            yield body[0], [int.from_bytes(body[i : i + 3]) for i in range(1, len(body), 3)], end


class Connection:
    def __init__(self) -> None:
        self.up, self.down = Pipe(), Pipe()
        self.session: int | None = None  # at the service
        self.is_open = True  # at the service


class Service:
    """Sessions by number; the token of each is its number too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.budget = Budget(BUDGET)
        self.numbers = itertools.count(1)
        self.sessions: dict[int, ClientSession] = {}
        self.carriers: dict[int, Connection] = {}
        self.heard: dict[int, list[int]] = defaultdict(list)
        self.said: dict[int, list[int]] = defaultdict(list)

    def receive(self, connection: Connection, size: int) -> None:
        for kind, numbers, length in connection.up.deliver(size):
            if not connection.is_open:
                return
            if kind == CONNECT:
                self.connect(connection, *numbers)
                continue
            session = connection.session
            assert session is not None
            journal = self.sessions[session].journal
            if kind == HEARTBEAT:
                journal.confirm(numbers[0])
            else:
                journal.take(length)
                self.heard[session].append(numbers[0])

    def connect(self, connection: Connection, session: int = 0, received: int = 0) -> None:
        stay = self.sessions.get(session)
        offer = Resume(session_id=str(session), resume_token=str(session), received=received)
        outcome = Outcome.UNKNOWN if stay is None else stay.judge(offer, A, JSON)
        if stay is not None and outcome is Outcome.RESUMED:
            self.close(self.carriers.pop(session, None))
            missing = stay.resume(received)
            answer = frame(WELCOME, RESUMED, session, stay.journal.tell())
        else:
            self.end(session)
            session, missing = next(self.numbers), ()
            journal = Journal(limit=LIMIT, budget=self.budget, overhead=SESSION_OVERHEAD)
            self.sessions[session] = ClientSession(
                session_id=SessionId(str(session)),
                client_id=A,
                instance_id=None,
                token=str(session),
                wire_format=JSON,
                window=WINDOW,
                journal=journal,
            )
            for other in [number for number in self.sessions if number != session]:
                self.end(other)  # the newest session of a client wins
            answer = frame(WELCOME, NEW, session, 0)
        connection.session = session
        self.carriers[session] = connection
        connection.down.waiting += answer + b"".join(missing)

    def say(self, *numbers: int) -> None:
        messages = [frame(MESSAGE, number) for number in numbers]
        for session, stay in list(self.sessions.items()):
            if stay.phase is not SessionPhase.CONNECTED:
                if all(map(stay.queue, messages)):
                    self.said[session] += numbers
                else:
                    self.end(session)
                continue
            if len(messages) == 1:
                stay.journal.keep(messages[0])
            else:
                stay.journal.keep(b"".join(frame_head(0x82, len(data)) + data for data in messages), len(messages))
            self.carriers[session].down.waiting += b"".join(messages)
            self.said[session] += numbers

    def lose(self, connection: Connection) -> None:
        session = connection.session
        connection.is_open = False
        if session is not None and self.carriers.get(session) is connection:
            del self.carriers[session]
            if not self.sessions[session].drop(self.now):
                self.end(session)

    def close(self, connection: Connection | None) -> None:
        if connection is not None:
            connection.is_open = False

    def end(self, session: int) -> None:
        stay = self.sessions.pop(session, None)
        self.close(self.carriers.pop(session, None))
        if stay is not None:
            stay.end()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for session, stay in list(self.sessions.items()):
            if stay.has_expired(self.now):
                self.end(session)

    def restart(self) -> None:
        """Save every session, lose every connection, and go on as another process."""
        for connection in list(self.carriers.values()):
            connection.is_open = False
        self.carriers.clear()
        saved = {number: stay.save() for number, stay in self.sessions.items() if stay.journal.is_complete}
        self.budget = Budget(BUDGET)
        self.sessions = {
            number: ClientSession.load(state, window=WINDOW, limit=LIMIT, budget=self.budget, now=self.now)
            for number, state in saved.items()
        }


class World:
    """What can happen; `argument` is any number, for an event to make of it what it can."""

    def __init__(self) -> None:
        self.service = Service()
        self.exchange = Exchange()
        self.numbers = itertools.count(1)
        self.connection = Connection()  # the one that the client uses
        self.former: list[Connection] = []  # those it gave up, whose bytes may still arrive
        self.session: int | None = None
        self.is_accepted = False
        self.sent: dict[int, list[int]] = defaultdict(list)
        self.heard: dict[int, list[int]] = defaultdict(list)
        self.resumed = 0
        self.reconnect()

    def reconnect(self, _argument: int = 0) -> None:
        """The client gives its connection up for any reason and opens another one."""
        self.former.append(self.connection)
        self.connection, self.is_accepted = Connection(), False
        offer = self.exchange.offer
        numbers = () if offer is None else (int(offer.session_id), offer.received)
        self.connection.up.waiting += frame(CONNECT, *numbers)

    def client_says(self, _argument: int) -> None:
        if self.session is None or self.exchange.journal is None:
            return
        data = frame(MESSAGE, number := next(self.numbers))
        self.sent[self.session].append(number)
        self.exchange.journal.keep(data)
        if self.is_accepted:
            self.connection.up.waiting += data

    def service_says(self, _argument: int) -> None:
        self.service.say(next(self.numbers))

    def service_says_several_things_at_once(self, argument: int) -> None:
        self.service.say(*itertools.islice(self.numbers, 2 + argument % 3))

    def bytes_arrive_at_the_service(self, argument: int) -> None:
        self.service.receive(self.connection, argument)

    def bytes_arrive_at_the_client(self, argument: int) -> None:
        for kind, numbers, length in self.connection.down.deliver(argument):
            if kind == WELCOME:
                self.welcome(*numbers)
                continue
            assert self.session is not None
            assert self.exchange.journal is not None
            if kind == HEARTBEAT:
                self.exchange.confirm(numbers[0])
            else:
                self.exchange.journal.take(length)
                self.heard[self.session].append(numbers[0])

    def welcome(self, resumed: int, session: int, received: int) -> None:
        self.is_accepted = True
        if resumed:
            assert session == self.session
            missing = self.exchange.resume(received)
            assert missing is not None, "the service claims to have resumed what it cannot have"
            self.connection.up.waiting += b"".join(missing)
            self.resumed += 1
        else:
            self.session = session
            self.exchange.begin(str(session), str(session))

    def client_confirms(self, _argument: int) -> None:
        if self.is_accepted and self.exchange.journal is not None:
            self.connection.up.waiting += frame(HEARTBEAT, self.exchange.journal.tell())

    def service_confirms(self, _argument: int) -> None:
        for session, connection in self.service.carriers.items():
            connection.down.waiting += frame(HEARTBEAT, self.service.sessions[session].journal.tell())

    def bytes_of_a_former_connection_arrive_late(self, argument: int) -> None:
        self.service.receive(self.former[-1 - argument % len(self.former)], argument)

    def the_service_notices_that_a_former_connection_is_lost(self, argument: int) -> None:
        self.service.lose(self.former[-1 - argument % len(self.former)])

    def the_service_loses_the_connection_first(self, _argument: int) -> None:
        self.service.lose(self.connection)

    def time_passes(self, argument: int) -> None:
        self.service.pass_time(argument % (WINDOW + 2))

    def the_service_restarts(self, _argument: int) -> None:
        self.service.restart()

    def check(self) -> None:
        """Nothing has come twice or out of order, and no byte is kept that nobody needs."""
        for session, heard in self.service.heard.items():
            assert heard == self.sent[session][: len(heard)]
        for session, heard in self.heard.items():
            assert heard == self.service.said[session][: len(heard)]
        weights = (stay.journal.weight + SESSION_OVERHEAD for stay in self.service.sessions.values())
        assert self.service.budget.used == sum(weights) <= self.service.budget.limit

    def settle(self) -> None:
        """When the network is whole again, nothing is missing in the session that the client has then."""
        self.reconnect()
        for _ in range(3):
            self.bytes_arrive_at_the_service(100_000)
            self.bytes_arrive_at_the_client(100_000)
        self.check()
        assert self.session is not None
        assert self.service.heard[self.session] == self.sent[self.session]
        assert self.heard[self.session] == self.service.said[self.session]


# As often as it takes for most messages to arrive, and for every trouble to come.
EVENTS = [
    happen
    for often, happen in (
        (6, World.client_says),
        (4, World.service_says),
        (2, World.service_says_several_things_at_once),
        (9, World.bytes_arrive_at_the_service),
        (9, World.bytes_arrive_at_the_client),
        (2, World.reconnect),
        (2, World.client_confirms),
        (2, World.service_confirms),
        (2, World.bytes_of_a_former_connection_arrive_late),
        (2, World.the_service_notices_that_a_former_connection_is_lost),
        (1, World.the_service_loses_the_connection_first),
        (1, World.time_passes),
        (1, World.the_service_restarts),
    )
    for _ in range(often)
]


# A schedule is bytes, two for each happening: hypothesis makes and shrinks those fastest.
@given(st.binary(min_size=240, max_size=360))
def test_nothing_is_lost_and_nothing_comes_twice_unless_the_client_is_told(schedule: bytes) -> None:
    world = World()

    for which, argument in batched(schedule):
        EVENTS[which % len(EVENTS)](world, 1 + argument % 60)
        world.check()
    world.settle()

    event("resumed" if world.resumed > 1 else "hardly resumed")


def batched(schedule: bytes) -> Iterator[tuple[int, int]]:
    return zip(schedule[::2], schedule[1::2], strict=False)
