"""Three nodes as processes under load, and what happens to messages when a node, NATS or the network fails.

Every client sends numbered signals to all others and asks for acknowledgements; afterwards everything is counted:
no signal arrives twice or out of order, and the sender of a signal that did not arrive was told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from websockets.exceptions import ConnectionClosed

from tests.integration.processes import ServiceProcess, service_process
from tests.integration.test_nodes import log_in
from tests.integration.v1_client import Client, connect
from tests.nats_server import NatsServer
from tests.waiting import until

pytestmark = pytest.mark.long

LIMIT = 30.0
NAMES = ("ann", "ben", "cat", "dan", "eve", "fay")
# Signals of one client that may be unanswered: enough to keep the nodes busy, few enough to end soon.
WINDOW = 20


class Talker:
    """A client that sends to all others as fast as it is answered, and keeps account."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self.sent = 0
        self.asked: dict[UUID, tuple[str, int]] = {}  # not answered yet
        self.refused: dict[str, set[int]] = defaultdict(set)  # by target
        self.delivered: dict[str, set[int]] = defaultdict(set)
        self.heard: dict[str, list[int]] = defaultdict(list)  # by sender
        self.is_cut_off = False
        self.is_talking = True

    async def talk(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while self.is_talking:
                for target in NAMES:
                    if target != self.name and len(self.asked) < WINDOW:
                        self.sent += 1
                        fields = {"target_client_id": target, "signal_data": self.sent, "ack": True}
                        self.asked[await self.client.send("SIGNAL_MESSAGE", fields)] = (target, self.sent)
                await asyncio.sleep(0.002)

    async def listen(self) -> None:
        while True:
            try:
                received = self.client._unwrap(await self.client.websocket.recv())
            except ConnectionClosed:
                self.is_cut_off = True
                return
            if received.type == "SIGNAL_MESSAGE":
                self.heard[received.fields["sender_client_id"]].append(received.fields["signal_data"])
            elif received.type in {"SIGNAL_ACK", "ERROR"}:
                target, number = self.asked.pop(received.id)
                answers = self.delivered if received.type == "SIGNAL_ACK" else self.refused
                answers[target].add(number)
                assert received.type == "SIGNAL_ACK" or received.error_code in {404, 503}, received


class Talk:
    """All talkers, two at each node."""

    def __init__(self, talkers: list[Talker]) -> None:
        self.talkers = talkers

    def heard(self) -> int:
        return sum(len(numbers) for talker in self.talkers for numbers in talker.heard.values())

    async def go_on(self) -> None:
        """Wait until much more has been heard."""
        enough = self.heard() + 300
        await until(lambda: self.heard() > enough, limit=LIMIT)

    async def until_all_hear_all(self) -> None:
        """Wait until every pair of clients that are there hears each other again."""
        there = [talker for talker in self.talkers if not talker.is_cut_off]
        before = {(one.name, other.name): len(one.heard[other.name]) for one in there for other in there}
        await until(
            lambda: all(
                len(one.heard[other.name]) > before[one.name, other.name]
                for one in there
                for other in there
                if one is not other
            ),
            limit=LIMIT,
        )

    async def end(self) -> None:
        for talker in self.talkers:
            talker.is_talking = False
        await until(lambda: not any(talker.asked for talker in self.talkers if not talker.is_cut_off), limit=LIMIT)

    def check(self) -> None:
        """Count: nothing twice, nothing out of order, nothing lost without a word."""
        by_name = {talker.name: talker for talker in self.talkers}
        for talker in self.talkers:
            for sender, numbers in talker.heard.items():
                assert numbers == sorted(set(numbers)), f"{sender} to {talker.name}: {numbers}"
            if talker.is_cut_off:
                continue
            for target, delivered in talker.delivered.items():
                lost = delivered - set(by_name[target].heard[talker.name])
                # What a node has written to the socket of a client that is cut off in this moment is delivered.
                assert not lost or by_name[target].is_cut_off, f"{talker.name} to {target}: {sorted(lost)}"


@contextlib.asynccontextmanager
async def talking(nodes: list[ServiceProcess]) -> AsyncIterator[Talk]:
    async with AsyncExitStack() as stack:
        talkers = []
        for place, name in enumerate(NAMES):
            client = await stack.enter_async_context(connect(nodes[place % len(nodes)].url, "signal-manager.v2"))
            await log_in(client, name)
            talkers.append(Talker(name, client))
        tasks = [asyncio.create_task(work) for talker in talkers for work in (talker.listen(), talker.talk())]
        try:
            talk = Talk(talkers)
            yield talk
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def nodes(nats: NatsServer, tmp_path: Path) -> Iterator[list[ServiceProcess]]:
    with ExitStack() as stack:
        started = []
        for number in range(3):
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            settings = {
                "bus.backend": "nats",
                "bus.nats_url": nats.url,
                "bus.node_id": f"node-{number}",
                "storage.backend": "sqlite",
                "storage.sqlite_path": str(tmp_path / "shared.db"),
                "auth.api_keys": [f"{name}:t" for name in NAMES],
                "security.rate_limit_enabled": False,
            }
            started.append(stack.enter_context(service_process(folder, settings)))
        yield started


async def test_nodes_and_nats_may_die_under_load_and_every_message_is_accounted_for(
    nodes: list[ServiceProcess], nats: NatsServer
) -> None:
    async with talking(nodes) as talk:
        await talk.until_all_hear_all()

        await nats.kill()
        await until(lambda: any(talker.refused for talker in talk.talkers), limit=LIMIT)
        await talk.go_on()  # those of one node still talk
        await nats.start()
        await talk.until_all_hear_all()

        os.kill(nodes[2].pid, signal.SIGKILL)
        await until(lambda: sum(talker.is_cut_off for talker in talk.talkers) == 2, limit=LIMIT)
        await talk.until_all_hear_all()
        await talk.go_on()
        await talk.end()

        talk.check()
        assert sum(talker.is_cut_off for talker in talk.talkers) == 2


class Island:
    """A network namespace with two cables to this one: for clients, and for NATS, which can be cut."""

    clients = ("10.231.77.1", "10.231.77.2")
    nats = ("10.231.78.1", "10.231.78.2")

    def __init__(self) -> None:
        self.name = f"sm{os.getpid()}"

    def __enter__(self) -> Island:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("no network namespaces: they need root and iproute2")
        if subprocess.run(["ip", "netns", "add", self.name], capture_output=True, check=False).returncode:
            pytest.skip("no network namespaces in this sandbox: ip netns add fails")
        for letter, (here, there) in (("c", self.clients), ("n", self.nats)):
            ours, theirs = f"{self.name}{letter}", f"{self.name}{letter}x"
            self._ip(f"link add {ours} type veth peer name {theirs} netns {self.name}")
            self._ip(f"addr add {here}/30 dev {ours}")
            self._ip(f"link set {ours} up")
            self._ip(f"-n {self.name} addr add {there}/30 dev {theirs}")
            self._ip(f"-n {self.name} link set {theirs} up")
        return self

    def __exit__(self, *_: object) -> None:
        for letter in "cn":
            subprocess.run(["ip", "link", "del", f"{self.name}{letter}"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def cut(self) -> None:
        self._ip(f"link set {self.name}n down")

    def heal(self) -> None:
        self._ip(f"link set {self.name}n up")

    def _ip(self, arguments: str) -> None:
        made = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, check=False)
        if made.returncode:
            self.__exit__()
            pytest.skip(f"no cables between network namespaces: {made.stderr.strip()}")


async def test_a_network_that_is_cut_and_heals_loses_nothing_without_a_word(tmp_path: Path) -> None:
    with Island() as island:
        server = NatsServer(host=island.nats[0])
        await server.start()
        settings = {
            "server.host": "0.0.0.0",
            "bus.backend": "nats",
            "bus.nats_url": server.url,
            "storage.backend": "sqlite",
            "storage.sqlite_path": str(tmp_path / "shared.db"),
            "auth.api_keys": [f"{name}:t" for name in NAMES],
            "auth.token_secret": "s" * 40,
            "security.rate_limit_enabled": False,
        }
        try:
            with ExitStack() as stack:
                nodes = []
                for number, (host, prefix) in enumerate(
                    [("127.0.0.1", []), (island.clients[1], ["ip", "netns", "exec", island.name])]
                ):
                    folder = tmp_path / f"node-{number}"
                    folder.mkdir()
                    own = settings | {"bus.node_id": f"node-{number}"}
                    nodes.append(stack.enter_context(service_process(folder, own, host=host, prefix=prefix)))
                async with talking(nodes) as talk:
                    await talk.until_all_hear_all()
                    island.cut()
                    await until(lambda: any(talker.refused for talker in talk.talkers), limit=LIMIT)
                    await talk.go_on()
                    island.heal()
                    await talk.until_all_hear_all()
                    await talk.end()

                    talk.check()
                    assert not any(talker.is_cut_off for talker in talk.talkers)
        finally:
            await server.kill()
