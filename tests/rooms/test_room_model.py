"""Membership as a state machine: five clients do anything in any order, several of them at once.

After every step each member's picture of the room, made of its ACK and the events since, is the record in storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from signal_manager.errors import ConflictError, InvalidRequestError, NotFoundError
from signal_manager.model import Room, RoomId
from signal_manager.protocol.messages import Member, RoomCreateAck, RoomJoinAck, RoomLeaveAck
from tests.rooms.harness import ROOM, SOON, Client, RoomHarness

NAMES = ("alice", "bob", "carol", "dave", "eve")
ACTIONS = ("create", "join", "join as receiver", "leave", "lose", "publish", "close", "pull", "away", "back")
AWAY = "(away)"

Picture = dict[str, frozenset[str]]  # who is there, what can be pulled from them, and whether they are away

steps = st.tuples(st.sampled_from(NAMES), st.sampled_from(ACTIONS))


def picture_of(members: list[Member]) -> Picture:
    return {
        member.client_id: frozenset(track.track_name for track in member.tracks or ())
        | ({AWAY} if member.away else frozenset())
        for member in members
    }


def picture_in(room: Room) -> Picture:
    return {
        member.client_id: frozenset(track.track_name for track in member.tracks)
        | ({AWAY} if member.away else frozenset())
        for member in room.participants
    }


class RoomModel(RuleBasedStateMachine):
    """A harness with its own event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.run_in_loop(self.open())

    def run_in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, SOON))

    async def open(self) -> None:
        self.harness = RoomHarness()
        await self.harness.rooms.__aenter__()
        self.clients: dict[str, Client] = {name: self.harness.client(name) for name in NAMES}
        self.welcomes: dict[str, RoomCreateAck | RoomJoinAck] = {}  # of those who are in
        self.published = 0
        self.sessions = 0

    async def act(self, name: str, action: str) -> None:
        client = self.clients[name]
        try:
            match action:
                case "create":
                    self.welcomes[name] = await client.create()
                case "join":
                    self.welcomes[name] = await client.join()
                case "join as receiver":
                    self.welcomes[name] = welcome = await client.join(role="receiver")
                    if welcome.requires_renegotiation:
                        await client.answer()
                case "leave":
                    assert isinstance(await client.leave(), RoomLeaveAck)
                    self.welcomes.pop(name, None)
                case "lose":
                    client.lose_connection()
                    self.welcomes.pop(name, None)
                    self.sessions += 1
                    self.clients[name] = self.harness.client(name, session=f"{name} {self.sessions}")
                    self.clients[name].seen_before = client.seen_before
                case "publish":
                    self.published += 1
                    await client.publish(f"p{self.published}")
                case "close":
                    await client.close("0")
                case "away" | "back":
                    self.harness.rooms.set_away(client.caller.session_id, is_away=action == "away")
                case "pull":
                    ack = await client.pull(NAMES[0])
                    if ack.requires_renegotiation:
                        await client.answer()
        except (InvalidRequestError, NotFoundError, ConflictError):
            pass  # not what can be done now

    @rule(step=steps)
    def one_does_something(self, step: tuple[str, str]) -> None:
        self.run_in_loop(self.act(*step))

    @rule(together=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ACTIONS), min_size=2))
    def several_do_something_at_once(self, together: dict[str, str]) -> None:
        async def act() -> None:
            await asyncio.gather(*(self.act(name, action) for name, action in together.items()))

        self.run_in_loop(act())

    @invariant()
    def everybody_sees_what_is_stored(self) -> None:
        self.run_in_loop(self.check())

    async def check(self) -> None:
        await self.harness.settled()
        room = await self.harness.storage.get_room(RoomId(ROOM))
        stored = picture_in(room) if room is not None and room.is_active else {}
        assert set(stored) == set(self.welcomes)
        for name, welcome in self.welcomes.items():
            assert room is not None
            picture = picture_of(welcome.participants)
            sequence = welcome.sequence
            for event in self.clients[name].events:
                assert event.sequence == sequence + 1
                sequence += 1
                assert event.participant is not None
                if event.event == "participant_left":
                    del picture[event.participant.client_id]
                else:
                    picture |= picture_of([event.participant])
            assert (picture, sequence) == (stored, room.sequence)

    def teardown(self) -> None:
        self.run_in_loop(self.end())
        self.loop.close()

    async def end(self) -> None:
        for client in self.clients.values():
            client.lose_connection()
        await self.harness.settled()
        assert self.harness.sfu.open_tracks == set()
        assert await self.harness.ledger() == set()
        await self.harness.rooms.__aexit__(None, None, None)


RoomModel.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRoomModel = RoomModel.TestCase
