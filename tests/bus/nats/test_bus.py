"""The bus of several nodes, over a real nats-server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from signal_manager.bus.base import Delivery, Exceptional
from signal_manager.bus.nats import link as nats_link
from signal_manager.bus.nats import peers
from signal_manager.bus.nats.bus import NatsBus
from signal_manager.bus.nats.link import NatsLink, NatsSecurity
from signal_manager.bus.nats.protocol import Arrival, Parser
from signal_manager.bus.nats.questions import Claim, Compare, Hello, Here, Query, Where
from signal_manager.bus.nats.questions import encode as encode_question
from signal_manager.errors import (
    ConfigurationError,
    InvalidRequestError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.model import ClientId, NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.framing import HEAD
from signal_manager.testing.bus import Phone, come, result_of
from signal_manager.testing.bus.fixtures import message
from tests.certificates import Authority
from tests.contracts.bus_contract import BusContract, NodesContract
from tests.nats_accounts import Accounts
from tests.nats_server import NatsServer, free_port
from tests.waiting import until

A = ClientId("a")
# Longer than any test, so that no time limit causes what a test sees.
NEVER = 60.0


def node(server: NatsServer, name: str, *, timeout: float = NEVER, max_buffered: int = 2**26) -> NatsBus[Phone]:
    return NatsBus(
        node_id=NodeId(name),
        url=server.url,
        batch_timeout=timeout,
        question_timeout=timeout,
        max_buffered=max_buffered,
    )


class TestNatsBus(BusContract, NodesContract):
    """The whole contract."""

    @pytest.fixture
    async def here(self, nats: NatsServer) -> AsyncIterator[NatsBus[Phone]]:
        self.nats = nats
        async with node(nats, "here") as bus:
            self.buses = [bus]
            yield bus

    @pytest.fixture
    async def there(self, here: NatsBus[Phone], nats: NatsServer) -> AsyncIterator[NatsBus[Phone]]:
        async with node(nats, "there") as bus:
            self.buses.append(bus)
            yield bus

    @pytest.fixture
    async def third(self, nats: NatsServer) -> AsyncIterator[NatsBus[Phone]]:
        async with node(nats, "third") as bus:
            yield bus

    @pytest.fixture(autouse=True)
    def _missed_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers, "_HELLO", 0.5)

    def another(self, name: str) -> NatsBus[Phone]:
        return node(self.nats, name)

    async def cut(self) -> None:
        await self.nats.kill()
        await until(lambda: not any(bus.is_connected for bus in self.buses))

    async def heal(self) -> None:
        await self.nats.start()
        await until(lambda: all(bus.is_connected for bus in self.buses))


class Caller:
    """A sender that remembers what it was told."""

    def __init__(self, client_id: str = "s") -> None:
        self.client_id = ClientId(client_id)
        self.tales: list[tuple[int, str, bool, Delivery | SignalManagerError]] = []

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        self.tales.append((head[0], target, wants_ack, result))

    @property
    def results(self) -> dict[int, Delivery | SignalManagerError]:
        """The outcome of each signal that it was told, by number."""
        return {number: result for number, _, _, result in self.tales}


def head_of(number: int) -> bytes:
    return bytes((number, *range(1, HEAD)))


def forward(
    bus: NatsBus[Phone],
    sender: Caller,
    *numbers: int,
    target: str = A,
    wants_ack: bool = False,
    is_alone: bool = False,
    padding: int = 0,
) -> None:
    for number in numbers:
        body = b"[%d]" % number + b" " * padding
        bus.forwarder.forward(sender, target, head_of(number), body, wants_ack=wants_ack, is_alone=is_alone)


def arrived(phone: Phone) -> list[int]:
    return [head[0] for head, _, _ in phone.relayed]


async def test_signals_travel_as_the_bytes_that_they_came_in(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone, caller = await come(there, A, Phone()), Caller()
        forward(here, caller, 1, wants_ack=True)  # waits until it is known where the client is
        await until(lambda: bool(caller.tales))

        forward(here, caller, 2, 3, wants_ack=True)

        await until(lambda: len(caller.tales) == 3)
        assert caller.tales == [(number, A, True, Delivery.DELIVERED) for number in (1, 2, 3)]
        assert phone.relayed == [(head_of(number), "s", b"[%d]" % number) for number in (1, 2, 3)]
        assert not here.forwarder.is_waiting


async def test_who_does_not_want_to_know_is_not_told_of_what_arrived(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone, caller = await come(there, A, Phone()), Caller()
        assert await result_of(here, A, message()) is Delivery.DELIVERED

        forward(here, caller, 1, 2)
        assert here.forwarder.is_waiting

        await until(lambda: not here.forwarder.is_waiting)
        assert caller.tales == []
        assert arrived(phone) == [1, 2]
        assert here.forwarder.buffered == 0


async def test_signals_that_want_an_answer_and_others_keep_their_order(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone, first, second = await come(there, A, Phone()), Caller("s1"), Caller("s2")
        assert await result_of(here, A, message()) is Delivery.DELIVERED

        forward(here, first, 1, 2)
        forward(here, first, 3, wants_ack=True)
        forward(here, second, 4, 5)
        here.send(A, message("between"))
        forward(here, second, 6)

        await until(lambda: len(phone.relayed) == 6)
        assert arrived(phone) == [1, 2, 3, 4, 5, 6]
        assert [sender for _, sender, _ in phone.relayed] == ["s1"] * 3 + ["s2"] * 3
        await until(lambda: not here.forwarder.is_waiting)
        assert (first.results, second.results) == ({3: Delivery.DELIVERED}, {})


async def test_of_signals_that_left_together_each_is_told_by_itself_what_became_of_it(nats: NatsServer) -> None:
    class Picky(Phone):
        """Refuses signals by their number."""

        def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
            super().relay(sender, [each for each in signals if each[0][0] not in fates])
            return [(place, fates[head[0]]) for place, (head, _) in enumerate(signals) if head[0] in fates]

    fates: dict[int, Delivery | SignalManagerError] = {2: TooLargeError("too large"), 5: Delivery.QUEUED}
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone, caller, other = await come(there, A, Picky()), Caller(), Caller("s2")
        await come(there, ClientId("b"), Phone())
        for name in (A, ClientId("b")):
            assert await result_of(here, name, message()) is Delivery.DELIVERED

        forward(here, other, 9, target="b")
        forward(here, caller, 1, 2, 3, 5)
        forward(here, other, 10, target="b", wants_ack=True)

        await until(lambda: not here.forwarder.is_waiting)
        assert arrived(phone) == [1, 3]
        assert isinstance(caller.results[2], TooLargeError)
        assert caller.results[5] is Delivery.QUEUED
        assert {caller.results[number] for number in (1, 3)} == {Delivery.DELIVERED}
        assert other.results == {10: Delivery.DELIVERED}


async def test_signals_follow_a_client_that_moves_on_in_their_order(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there, node(nats, "third") as third:
        former, caller = await come(there, A, Phone()), Caller()
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        there.detach(A, former)
        forward(here, caller, 1, 2, 3)
        phone = await come(third, A, Phone())

        await until(lambda: len(phone.relayed) == 3 or len(caller.tales) == 3)
        forward(here, caller, 4, 5)

        await until(lambda: not here.forwarder.is_waiting)
        assert arrived(phone) == sorted(arrived(phone))
        undelivered = {number for number, result in caller.results.items() if result is not Delivery.DELIVERED}
        assert undelivered | set(arrived(phone)) == {1, 2, 3, 4, 5}
        assert not undelivered & set(arrived(phone))


async def test_signals_to_nobody_are_told_so_one_by_one(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone, caller = await come(there, A, Phone()), Caller()
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        there.detach(A, phone)

        forward(here, caller, 1, 2)

        await until(lambda: len(caller.tales) == 2)
        assert caller.results == {1: Delivery.OFFLINE, 2: Delivery.OFFLINE}
        assert not here.forwarder.is_waiting
        with pytest.raises(InvalidRequestError, match="no name"):
            forward(here, caller, 3, target="no name")


async def test_signals_that_nobody_confirms_are_told_lost_one_by_one(nats: NatsServer) -> None:
    async with node(nats, "here", timeout=0.2) as here, node(nats, "there") as there:
        await come(there, A, Phone())
        caller = Caller()
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        subscriptions = there._link._subscriptions
        subscriptions.by_number[subscriptions._numbers[there._subjects.batches("there")]] = lambda message: None

        forward(here, caller, 1, 2)

        await until(lambda: len(caller.tales) == 2)
        assert all(isinstance(result, UnavailableError) for result in caller.results.values())
        assert not here.forwarder.is_waiting


async def test_a_signal_without_company_leaves_at_once_and_many_leave_together(nats: NatsServer) -> None:
    metrics = Metrics()
    async with (
        NatsBus[Phone](node_id=NodeId("here"), url=nats.url, metrics=metrics) as here,
        node(nats, "there") as there,
    ):
        phone, caller = await come(there, A, Phone()), Caller()
        assert await result_of(here, A, message()) is Delivery.DELIVERED

        def batches() -> int:
            return metrics.bus_batches.by_label()["out"]

        before = batches()
        forward(here, caller, 0, is_alone=True)
        assert batches() == before + 1
        forward(here, caller, *range(1, 200), is_alone=True)
        assert batches() < before + 100

        await until(lambda: not here.forwarder.is_waiting)
        assert arrived(phone) == list(range(200))
        forward(here, caller, 200, is_alone=True)
        await until(lambda: len(phone.relayed) == 201)
        before = batches()
        forward(here, caller, 201, is_alone=True)
        assert batches() == before + 1


async def test_a_run_of_signals_is_bounded(nats: NatsServer) -> None:
    async with node(nats, "here", max_buffered=300_000) as here, node(nats, "there") as there:
        phone, caller = await come(there, A, Phone()), Caller()
        assert await result_of(here, A, message()) is Delivery.DELIVERED

        with pytest.raises(UnavailableError, match="too much waits"):
            forward(here, caller, *range(99), padding=10_000)

        await until(lambda: not here.forwarder.is_waiting)
        assert arrived(phone) == list(range(len(phone.relayed)))
        assert 20 < len(phone.relayed) < 30
        with pytest.raises(TooLargeError):
            forward(here, caller, 1, padding=2_000_000)


async def test_a_message_for_several_clients_of_a_node_is_sent_there_once(nats: NatsServer) -> None:
    metrics = Metrics()
    async with (
        NatsBus[Phone](node_id=NodeId("here"), url=nats.url, metrics=metrics) as here,
        node(nats, "there") as there,
    ):
        phones = [await come(there, ClientId(name), Phone()) for name in "abc"]
        for name in "abc":
            assert await result_of(here, ClientId(name), message()) is Delivery.DELIVERED
        before = metrics.bus_bytes.by_label()["out"]
        told: list[object] = []
        same, message_id = message("x" * 1000), bytes(16)
        for name in "abc":
            here.send(ClientId(name), same, message_id, outcome=told.append)

        await until(lambda: told == [Delivery.DELIVERED] * 3)
        assert {phone.received[-1] for phone in phones} == {phones[0].received[-1]}
        assert 1000 < metrics.bus_bytes.by_label()["out"] - before < 1500


async def test_a_node_that_does_not_answer_is_not_waited_for_without_end(nats: NatsServer) -> None:
    async with node(nats, "here", timeout=0.2) as here, node(nats, "there") as there:
        phone = await come(there, A, Phone())
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        subscriptions = there._link._subscriptions
        subscriptions.by_number[subscriptions._numbers[there._subjects.batches("there")]] = lambda message: None

        result = await result_of(here, A, message())

        assert isinstance(result, UnavailableError)
        assert len(phone.received) == 1


async def test_who_was_on_a_node_that_is_gone_is_offline_at_once(nats: NatsServer) -> None:
    async with node(nats, "here") as here:
        async with node(nats, "there") as there:
            await come(there, A, Phone())
            assert await result_of(here, A, message()) is Delivery.DELIVERED

        assert await result_of(here, A, message()) is Delivery.OFFLINE


async def test_a_client_is_found_though_its_former_node_is_slowly_forgotten(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there, node(nats, "third") as third:
        subject = there._subjects.client(A)
        there._link.subscribe(subject, partial(there._answers.take, A))  # as nats-server still believes
        await there._link.flush()
        told: list[Delivery | SignalManagerError] = []
        here.send(A, message(), outcome=told.append)
        await asyncio.sleep(0.1)
        assert told == []

        there._link.unsubscribe(subject)
        await come(third, A, Phone())

        await until(lambda: told == [Delivery.DELIVERED])


async def test_what_waits_for_other_nodes_is_bounded(nats: NatsServer) -> None:
    async with node(nats, "here", max_buffered=11_000) as here, node(nats, "there") as there:
        phone = await come(there, A, Phone())
        told: list[Delivery | SignalManagerError] = []
        for _ in range(9):
            here.send(A, message("x" * 1000), outcome=told.append)

        with pytest.raises(UnavailableError, match="too much waits"):
            here.send(A, message("x" * 1000))

        await until(lambda: len(told) == len(phone.received) > 0)
        assert await result_of(here, A, message("x" * 1000)) is Delivery.DELIVERED


async def test_a_message_that_nats_cannot_carry_is_refused(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        await come(there, A, Phone())

        assert isinstance(await result_of(here, A, message("x" * 2_000_000)), TooLargeError)
        assert await result_of(here, A, message("x" * 1_000_000)) is Delivery.DELIVERED
        assert {await result_of(here, A, message("x" * 700_000)) for _ in range(3)} == {Delivery.DELIVERED}


async def test_a_node_id_that_is_in_use_is_refused(nats: NatsServer) -> None:
    async with node(nats, "here"):
        with pytest.raises(ConfigurationError, match="in use by another node"):
            await node(nats, "here").__aenter__()


async def test_without_nats_server_the_error_tells_how_to_start_one() -> None:
    port = free_port()
    bus: NatsBus[Phone] = NatsBus(node_id=NodeId("n"), url=f"nats://127.0.0.1:{port}")

    with pytest.raises(UnavailableError, match=f"nats-server --addr 127.0.0.1 --port {port}"):
        await bus.__aenter__()


@contextmanager
def hung(count: int) -> Iterator[list[str]]:
    """Listen as nats-servers do that take connections and say nothing."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        yield [f"nats://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]


async def test_servers_of_a_cluster_that_hang_do_not_keep_a_node_from_starting(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_link, "CONNECT_TIMEOUT", 0.5)
    with hung(2) as urls:
        for _ in range(4):  # in any order
            bus: NatsBus[Phone] = NatsBus(node_id=NodeId("n"), url=",".join((*urls, nats.url)))
            async with bus:
                assert bus.is_connected


async def test_a_cluster_that_is_out_of_reach_is_no_mistake_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_link, "CONNECT_TIMEOUT", 0.2)
    with hung(2) as urls, pytest.raises(UnavailableError, match="nor do the other 1"):
        await NatsBus[Phone](node_id=NodeId("n"), url=",".join(urls)).__aenter__()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
async def test_systemd_starts_a_node_again_that_found_no_nats_but_none_that_may_not_in(
    tmp_path: Path, workers: int
) -> None:
    """Exit status 1 is tried again, 2 is not (deploy/systemd)."""
    secured = NatsServer(NatsServer.config(tmp_path, "authorization { token: secret }"))
    await secured.start()
    file = tmp_path / "config.toml"

    def status(url: str) -> int:
        file.write_text(
            f'[server]\nport = 0\nworkers = {workers}\n[bus]\nbackend = "nats"\nnats_url = "{url}"\n'
            '[metrics]\nenabled = false\n[media]\nbackend = "none"\n'
            f'[storage]\nsqlite_path = "{tmp_path}/a.db"\n'
        )
        command = [sys.executable, "-m", "signal_manager", "serve", "--config", str(file)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.returncode

    try:
        with hung(1) as urls:
            assert await asyncio.to_thread(status, urls[0]) == 1
        assert await asyncio.to_thread(status, f"nats://127.0.0.1:{free_port()}") == 1
        assert await asyncio.to_thread(status, f"nats://wrong@127.0.0.1:{secured.port}") == 2
    finally:
        await secured.kill()


async def test_noise_on_the_subjects_disturbs_nobody(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone = await come(there, A, Phone())
        for subject in (there._subjects.batches("there"), there._subjects.client(A), "signal-manager.all"):
            for noise in (b"", b"\xff\xff", b"\x01" + bytes(20), b"\x01" + bytes(8) + b"\x01x\x09"):
                here._link.publish(subject, noise, here._subjects.reply_to("q99"))

        assert await result_of(here, A, message()) is Delivery.DELIVERED
        assert len(phone.received) == 1


@pytest.mark.parametrize("secret", ["user:pass%40word", "a-token"])
async def test_nats_may_ask_who_it_is(tmp_path: Path, secret: str) -> None:
    user, _, password = secret.partition(":")
    rule = f"user: {user}, password: pass@word" if password else f"token: {user}"
    server = NatsServer(NatsServer.config(tmp_path, f"authorization {{ {rule} }}"))
    await server.start()
    try:
        url = f"nats://{secret}@127.0.0.1:{server.port}"
        async with NatsBus[Phone](node_id=NodeId("n"), url=url) as bus:
            assert bus.is_connected
        with pytest.raises(ConfigurationError, match="refuses this node") as caught:
            await NatsBus[Phone](node_id=NodeId("n"), url=url.replace(user, "wrong")).__aenter__()
        assert "wrong" not in str(caught.value)
    finally:
        await server.kill()


async def test_nats_may_ask_for_credentials_that_its_operator_has_given_out(tmp_path: Path) -> None:
    accounts = Accounts()
    server = NatsServer(NatsServer.config(tmp_path, accounts.configuration()))
    await server.start()
    known, stranger = (each.write_credentials(tmp_path / name) for each, name in ((accounts, "a"), (Accounts(), "b")))
    try:
        async with NatsBus[Phone](node_id=NodeId("n"), url=server.url, security=_credentials(known)) as bus:
            assert bus.is_connected
        for wrong in (_credentials(stranger), None):
            with pytest.raises(ConfigurationError, match="nats_credentials_path"):
                await NatsBus[Phone](node_id=NodeId("n"), url=server.url, security=wrong).__aenter__()
    finally:
        await server.kill()


def _credentials(path: Path) -> NatsSecurity:
    return NatsSecurity(credentials_path=str(path))


def strange_messages() -> list[bytes]:
    """What another node might write, with text that is no text, and questions that are none."""
    known = [
        Where(),
        Claim("them", "i", 9e9, b"nonsense"),
        Compare("them", "i", 9e9),
        Query(b"nonsense"),
        Hello("them", is_new=True),
        Here("them"),
    ]
    return [
        *(encode_question(each) for each in known),
        *(encode_question(each).replace(b"them", b"\xff\xfe\xfd\xfc") for each in known),
        b"",
        b"\x81\xa4type\xa4\xff\xff\xff\xff",
        b"\x91" * 5000,
        bytes(range(256)),
    ]


async def test_what_makes_no_sense_from_elsewhere_costs_a_node_nothing(
    nats: NatsServer,
) -> None:
    """Questions without a reply subject, text that is no UTF-8, subjects too: the connection stays, and the client."""
    async with node(nats, "here") as bus:
        phone = Phone()
        bus.attach(A, phone)
        lost: list[None] = []
        bus._link.on_down = lambda: lost.append(None)
        subjects = [*bus._link._subscriptions]
        with capture_logs() as lines:
            async with NatsLink(nats.url, name="stranger") as stranger:
                for subject in subjects:
                    for payload in strange_messages():
                        assert stranger.publish(subject.replace("*", "x").replace(">", "x"), payload)
                await stranger.flush()
            await bus._link.flush()

        assert (bus.is_connected, lost) == (True, [])
        assert bus.subscribers.get(A) is phone
        assert not [line for line in lines if line.get("exc_info")]


def test_a_subject_that_is_no_text_is_read_all_the_same() -> None:
    taken = Parser().feed(b"MSG a.\xff 1 r.\xff 2\r\nhi\r\nHMSG a.\xff 1 r.\xff 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")

    assert taken == [Arrival(b"1", "a.\ufffd", "r.\ufffd", b"hi")] * 2


async def test_nothing_is_sent_that_nats_server_would_not_take(nats: NatsServer) -> None:
    """nats-server ends the connection of a node that sends too much: no client must be able to bring that about."""
    async with node(nats, "here", timeout=0.5) as here, node(nats, "there", timeout=0.5) as there:
        there.attach(A, Phone())
        lost: list[None] = []
        here._link.on_down = lambda: lost.append(None)

        await here.claim(A, "i" * 2_000_000)
        assert not here._link.publish("", b"a question's answer, to nobody")
        await here._link.flush()

        assert (here.is_connected, lost) == (True, [])
        assert here._link.publish("somewhere", bytes(here._link.max_payload))
        await here._link.flush()
        assert (here.is_connected, lost) == (True, [])


async def test_nats_may_ask_for_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("server")
    server = NatsServer(("--tls", "--tlscert", str(certificate.certificate), "--tlskey", str(certificate.key)))
    await server.start()
    url = f"tls://127.0.0.1:{server.port}"
    try:
        async with NatsBus[Phone](
            node_id=NodeId("n"), url=url, security=NatsSecurity(ca_path=str(authority.path))
        ) as bus:
            assert bus.is_connected
        with pytest.raises(ConfigurationError, match="no TLS"):
            await NatsBus[Phone](node_id=NodeId("n"), url=url).__aenter__()
    finally:
        await server.kill()
