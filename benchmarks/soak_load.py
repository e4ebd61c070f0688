"""Clients of the soak that talk, come and go in rooms, and lose their connections, in a process of their own.

`soak.py` starts it and reads its JSON lines: one when all clients are in, one with the account of every message. The
clients are the Python SDK's, so that what is counted is what an application would have seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass

import uvloop

from benchmarks.processes import end_on_sigterm
from signal_manager.client import SignalClient
from signal_manager.client.events import Disconnected, ErrorReceived, Reconnected, SignalReceived
from signal_manager.client.timing import RetryPolicy
from signal_manager.errors import ConflictError, NotFoundError, SignalManagerError
from signal_manager.protocol.messages import RoomCreate, RoomCreateAck, RoomJoin, RoomJoinAck, RoomLeave, RoomLeaveAck

__all__ = ["TOKEN", "client_id"]

TOKEN = "token-of-the-soak"

# Clients that talk to each other and share a room.
GROUP = 8
# One message of this many asks for an acknowledgement.
ACK_ONE_OF = 8
# Clients that connect at a time: enough to keep the service busy, too few to overflow its backlog.
AT_A_TIME = 50
# How long (s) messages may be on their way at the end: a session that waits for its client, and some more.
DRAIN_LIMIT = 40.0
LINES_SHOWN = 10


def client_id(number: int) -> str:
    """Return the client id of one client."""
    return f"soak-{number}"


@dataclass(slots=True)
class Message:
    """One that is on its way."""

    sender: Talker
    target: Talker
    sent_at: float
    overtaken_at: float | None = None  # when the first later one was sent that has arrived

    @property
    def may_have_gone(self) -> bool:
        """Tell whether it may be lost because the service did not resume a session of its sender or its target.

        Messages of one client to another arrive in order, so a session that ends after a later message has arrived
        is no excuse.
        """
        return any(
            ended >= self.sent_at and (self.overtaken_at is None or began <= self.overtaken_at)
            for client in (self.sender, self.target)
            for began, ended in client.gaps
        )

    def __str__(self) -> str:
        around = [
            f"{client.name} without a session from {began - self.sent_at:+.2f} to {ended - self.sent_at:+.2f} s"
            for client in (self.sender, self.target)
            for began, ended in client.gaps
        ]
        overtaken = "" if self.overtaken_at is None else f"overtaken {self.overtaken_at - self.sent_at:+.2f} s; "
        return f"from {self.sender.name} to {self.target.name}; {overtaken}{', '.join(around) or 'no gaps'}"


class Account:
    """Every message of this process: whether it is under way, arrived, refused or lost."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        # By sender and target, then by number, oldest first.
        self._pairs: defaultdict[tuple[str, str], dict[int, Message]] = defaultdict(dict)
        self._told: dict[int, Message] = {}  # those whose sender was told that they may not arrive

    @property
    def on_their_way(self) -> dict[int, Message]:
        """Every message that has not arrived and that nobody was told of."""
        return {number: message for pair in self._pairs.values() for number, message in pair.items()}

    def sent(self, sender: Talker, target: Talker) -> int:
        """Enter a message and return its number."""
        self.counts["sent"] += 1
        number = self.counts["sent"]
        self._pairs[sender.name, target.name][number] = Message(sender, target, time.monotonic())
        return number

    def arrived(self, number: int, sender: str, by: Talker) -> None:
        """Tick a message off; count one that comes twice or overtakes an earlier one of its sender."""
        pair = self._pairs[sender, by.name]
        message = pair.pop(number, None) or self._told.pop(number, None)
        if message is None:
            self.counts["duplicates"] += 1
            return
        self.counts["arrived"] += 1
        self.counts["out_of_order"] += message.overtaken_at is not None
        for earlier, overtaken in pair.items():
            if earlier > number:
                break
            overtaken.overtaken_at = overtaken.overtaken_at or message.sent_at

    def told(self, number: int, sender: Talker, target: Talker) -> None:
        """Note that the sender was told: refused, or not known to have been delivered."""
        message = self._pairs[sender.name, target.name].pop(number, None)
        if message is not None:
            self._told[number] = message

    def refused(self, sender: Talker, target: str) -> None:
        """Note the refusal of a message whose number the service did not say: the oldest that it can be about."""
        pair = self._pairs[sender.name, target]
        if pair:
            number = next(iter(pair))
            self._told[number] = pair.pop(number)

    def close(self) -> dict[str, int]:
        """Return the totals. A message still on its way is lost unless its sender was told."""
        missing = self.on_their_way
        lost = {number: message for number, message in missing.items() if not message.may_have_gone}
        for number, message in list(lost.items())[:LINES_SHOWN]:
            print(f"lost: number {number}, {message}", file=sys.stderr)
        return {
            **{name: self.counts[name] for name in ("sent", "arrived", "duplicates", "out_of_order")},
            "told": len(self._told),
            "gone_with_a_session": len(missing) - len(lost),
            "lost": len(lost),
        }


class Talker(SignalClient):
    """One client of the SDK with its habits."""

    def __init__(self, url: str, number: int, account: Account, *, pause: float, room_pause: float) -> None:
        self.name = client_id(number)
        retry = RetryPolicy(base_delay=0.5, max_delay=5.0)
        super().__init__(url, self.name, TOKEN, retry=retry, connect_timeout=30.0, request_timeout=30.0)
        self._account = account
        self._pause = pause
        self._room_pause = room_pause
        self._room = f"soak-{number // GROUP}"
        self._is_in_room = False
        self._dropped_at: float | None = None
        self.gaps: list[tuple[float, float]] = []  # when there was no session, from loss to return

    def drop(self) -> bool:
        """Lose the connection silently, as a network does."""
        connection = self._link.connection  # no application can do this, hence no public way
        if connection is None or connection.is_closed or connection._transport is None:
            return False
        connection._transport.underlying_transport.abort()
        return True

    async def listen(self) -> None:
        """Take what comes, for ever."""
        counts = self._account.counts
        async for event in self:
            match event:
                case SignalReceived(sender=sender, data={"n": int(number)}):
                    self._account.arrived(number, sender, self)
                case ErrorReceived(error=error, target=target):
                    counts[f"error {error.code}"] += 1
                    if target is not None:
                        self._account.refused(self, target)
                case Disconnected(code=code, will_reconnect=will_reconnect):
                    counts[f"closed {code}"] += 1
                    counts["gave_up"] += not will_reconnect
                    self._dropped_at = time.monotonic()
                case Reconnected():
                    self._came_back(is_resumed=bool(getattr(event, "resumed", False)))

    def _came_back(self, *, is_resumed: bool) -> None:
        self._account.counts["resumed" if is_resumed else "not_resumed"] += 1
        if not is_resumed:
            now = time.monotonic()
            self.gaps.append((self._dropped_at or now, now))
            self._is_in_room = False

    async def talk(self, others: list[Talker], ending: asyncio.Event) -> None:
        """Send a message to a random other client, again and again."""
        while not await _over(ending, random.expovariate(1 / self._pause)):
            target = random.choice(others)
            number = self._account.sent(self, target)
            asks = number % ACK_ONE_OF == 0
            try:
                if await self.send_message(target.name, {"n": number, "text": "x" * 200}, ack=asks) == "offline":
                    self._account.told(number, self, target)
            except SignalManagerError as error:
                self._account.counts[f"send {error.code}"] += 1
                self._account.told(number, self, target)

    async def visit(self, ending: asyncio.Event) -> None:
        """Go into the group's room and out of it again."""
        while not await _over(ending, random.expovariate(1 / self._room_pause)):
            try:
                await (self._go_out() if self._is_in_room else self._go_in())
            except SignalManagerError as error:
                self._is_in_room = False
                self._account.counts[f"room {error.code}"] += 1

    async def _go_in(self) -> None:
        try:
            await self._request(RoomJoin(room_id=self._room, role="receiver"), RoomJoinAck, None)
        except SignalManagerError as error:
            if not isinstance(error, NotFoundError) and "closed" not in error.message:
                raise
            with suppress(ConflictError):  # another client was faster
                await self._request(RoomCreate(room_id=self._room, role="receiver"), RoomCreateAck, None)
                self._is_in_room = True
            return
        self._is_in_room = True
        self._account.counts["rooms_entered"] += 1

    async def _go_out(self) -> None:
        self._is_in_room = False
        await self._request(RoomLeave(room_id=self._room), RoomLeaveAck, None)
        self._account.counts["rooms_left"] += 1


async def _over(ending: asyncio.Event, pause: float) -> bool:
    """Wait for a while, or until the end, and tell which."""
    with suppress(TimeoutError):
        await asyncio.wait_for(ending.wait(), pause)
    return ending.is_set()


async def soak(
    *, port: int, first: int, count: int, seconds: float, drops: float, pause: float, room_pause: float
) -> None:
    """Run `count` clients for so long; `drops` is the share of them that loses its connection each second."""
    account = Account()
    url = f"ws://127.0.0.1:{port}"
    talkers = [
        Talker(url, number, account, pause=pause, room_pause=room_pause) for number in range(first, first + count)
    ]
    for start in range(0, count, AT_A_TIME):
        await asyncio.gather(*(talker.connect() for talker in talkers[start : start + AT_A_TIME]))
    _tell({"connected": count})
    await asyncio.to_thread(sys.stdin.readline)  # all processes begin together

    ending = asyncio.Event()
    listeners = [asyncio.create_task(talker.listen()) for talker in talkers]
    habits = []
    for index, talker in enumerate(talkers):
        group = talkers[index // GROUP * GROUP : index // GROUP * GROUP + GROUP]
        others = [other for other in group if other is not talker]
        if others:
            habits.append(asyncio.create_task(talker.talk(others, ending)))
        habits.append(asyncio.create_task(talker.visit(ending)))
    dropped = await _drop_some(talkers, seconds=seconds, share=drops)
    ending.set()
    await asyncio.gather(*habits)
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_LIMIT):
            while account.on_their_way:  # noqa: ASYNC110 - a benchmark may look again and again
                await asyncio.sleep(0.1)
    overflowed = sum(talker.dropped_events for talker in talkers)
    _tell({**account.close(), "drops": dropped, "overflowed": overflowed, "counts": account.counts})
    await asyncio.gather(*(talker.close() for talker in talkers), return_exceptions=True)
    for listener in listeners:
        listener.cancel()


async def _drop_some(talkers: list[Talker], *, seconds: float, share: float) -> int:
    """Let clients lose their connections for so long, and return how many did."""
    dropped, due = 0, 0.0
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        await asyncio.sleep(min(0.1, left))
        due += len(talkers) * share * 0.1
        while due >= 1:
            due -= 1
            dropped += random.choice(talkers).drop()
    return dropped


def _tell(facts: dict[str, object]) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    """Run clients for the soak."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak_load", description="The client process of benchmarks.soak."
    )
    for name, kind in (
        ("port", int),
        ("first", int),
        ("count", int),
        ("seconds", float),
        ("drops", float),
        ("pause", float),
        ("room-pause", float),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True)
    try:
        uvloop.run(soak(**vars(parser.parse_args())))
    except (SignalManagerError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
