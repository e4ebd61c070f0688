"""The bus of several nodes, over a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from signal_manager.bus.base import Delivery
from signal_manager.bus.nats import NatsBus
from signal_manager.bus.nats_link import NatsSecurity
from signal_manager.errors import ConfigurationError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.metrics import Metrics
from signal_manager.model import ClientId, NodeId
from signal_manager.testing.bus import BusContract, NodesContract, Phone, come, result_of
from signal_manager.testing.bus.fixtures import message
from tests.certificates import Authority
from tests.nats_accounts import Accounts
from tests.nats_server import NatsServer, free_port
from tests.waiting import until

A = ClientId("a")
# So long that whatever a test sees happened by itself and not because time was up.
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

    async def cut(self) -> None:
        await self.nats.kill()
        await until(lambda: not any(bus.is_connected for bus in self.buses))

    async def heal(self) -> None:
        await self.nats.start()
        await until(lambda: all(bus.is_connected for bus in self.buses))


async def test_a_signal_travels_as_the_bytes_that_it_came_in(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone = await come(there, A, Phone())
        later: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        here.forward(bytes(range(19)), A, "s", b'{"sdp": 1}', later.set_result)

        assert await later is Delivery.DELIVERED
        assert phone.relayed == [(bytes(range(19)), "s", b'{"sdp": 1}')]


async def test_what_nobody_waits_for_is_confirmed_too(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        await come(there, A, Phone())
        told: list[object] = []
        for _ in range(3):
            here.forward(bytes(range(19)), A, "s", b"{}", told.append, is_awaited=False)

        await until(lambda: told == [Delivery.DELIVERED] * 3)
        assert here._batches.buffered == 0


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
        number = there._link._numbers[there._named("n", "there")]
        there._link._by_number[number] = lambda message: None

        result = await result_of(here, A, message())

        assert isinstance(result, UnavailableError)
        assert len(phone.received) == 1


async def test_who_was_on_a_node_that_is_gone_is_offline_at_once(nats: NatsServer) -> None:
    async with node(nats, "here") as here:
        async with node(nats, "there") as there:
            await come(there, A, Phone())
            assert await result_of(here, A, message()) is Delivery.DELIVERED

        assert await result_of(here, A, message()) is Delivery.OFFLINE


async def test_what_waits_for_other_nodes_is_bounded(nats: NatsServer) -> None:
    async with node(nats, "here", max_buffered=10_000) as here, node(nats, "there") as there:
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

    with pytest.raises(ConfigurationError, match=f"nats-server --addr 127.0.0.1 --port {port}"):
        await bus.__aenter__()


async def test_noise_on_the_subjects_disturbs_nobody(nats: NatsServer) -> None:
    async with node(nats, "here") as here, node(nats, "there") as there:
        phone = await come(there, A, Phone())
        for subject in (there._named("n", "there"), there._named("c", A), "signal-manager.all"):
            for noise in (b"", b"\xff\xff", b"\x01" + bytes(20), b"\x01" + bytes(8) + b"\x01x\x09"):
                here._link.publish(subject, noise, here._reply_to("q99"))

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
