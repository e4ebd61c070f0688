"""What the service counts while real clients talk, read where Prometheus reads it."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from signal_manager.errors import ConfigurationError
from signal_manager.model import Caller
from signal_manager.records.registrations import Registrations
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.conftest import ServiceWith
from tests.integration.test_server import ONE, TWO, close_code, connect_frame, connected, frame, offer_frame
from tests.integration.v1_client import RawSocket
from tests.web import plain_http


class MetricsExposition:
    """What /metrics says, by name without the prefix and by label values."""

    def __init__(self, text: str) -> None:
        self._values = {
            (sample.name, *(value for name, value in sample.labels.items() if name != "le")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __getitem__(self, key: str | tuple[str, ...]) -> float:
        name, *labels = (key,) if isinstance(key, str) else key
        return self._values["signal_manager_" + name, *labels]


async def numbers(port: int) -> MetricsExposition:
    async with plain_http() as http:
        return MetricsExposition((await http.get(f"http://127.0.0.1:{port}/metrics", timeout=30)).text)


@pytest.fixture
def metrics_port(unused_tcp_port: int) -> int:
    return unused_tcp_port


@pytest.fixture
def settings(metrics_port: int) -> dict[str, object]:
    return {"metrics.enabled": True, "metrics.port": metrics_port}


async def test_connections_messages_errors_and_authentications_are_counted(
    service_with: ServiceWith, settings: dict[str, object], metrics_port: int
) -> None:
    service = await service_with(**settings)
    one, two = await connected(service, ONE), await connected(service, TWO)
    for number in range(65):
        await one.send(offer_frame(TWO[0], number))
        await two.recv()
    await one.send(offer_frame("nobody", 1))
    await one.recv()
    await one.send(frame(0x20, json.dumps({"capabilities": []}).encode()))
    await one.recv()
    refused = await connect(service.url, compression=None)
    await refused.send(connect_frame((ONE[0], "wrong")))
    await close_code(refused)
    await two.close()

    seen = await numbers(metrics_port)

    assert (seen["connections"], seen["clients"]) == (1, 1)
    assert seen["connections_opened_total"] == 3
    assert (seen["connections_closed_total", "client"], seen["connections_closed_total", "unauthenticated"]) == (1, 1)
    assert (seen["authentications_total", "accepted"], seen["authentications_total", "refused"]) == (2, 1)
    assert (seen["messages_received_total", "SIGNAL_OFFER"], seen["messages_received_total", "CONNECT"]) == (66, 3)
    assert (seen["messages_sent_total", "SIGNAL_OFFER"], seen["messages_sent_total", "CONNECT_ACK"]) == (65, 2)
    assert (seen["errors_sent_total", "404"], seen["errors_sent_total", "401"]) == (1, 1)
    assert seen["signals_relayed_total"] == 65
    assert seen["relay_seconds_count"] == 2, "the first and the sixty-fifth are timed"
    assert seen["storage_calls_total", "change_client", "answered"] == 1
    assert seen["received_bytes_total"] > 65 * len(offer_frame(TWO[0], 1))
    assert seen["sent_bytes_total"] > seen["received_bytes_total"], "each offer grows by its sender's name"
    await one.close()


async def test_signals_that_come_in_one_read_are_timed_until_they_are_written(
    service_with: ServiceWith, settings: dict[str, object], metrics_port: int
) -> None:
    service = await service_with(**settings)
    one, two = await connected(service, ONE), await connected(service, TWO)

    await asyncio.gather(*(one.send(offer_frame(TWO[0], number)) for number in range(130)))
    for _ in range(130):
        await two.recv()

    assert (await numbers(metrics_port))["relay_seconds_count"] == 3
    await one.close()
    await two.close()


async def test_bytes_of_fragments_are_counted_once_and_whole(
    service_with: ServiceWith, settings: dict[str, object], metrics_port: int
) -> None:
    service = await service_with(**settings)
    one = await connected(service, ONE)
    before = await numbers(metrics_port)
    message = frame(0x04, b'{"timestamp":7}')

    await one.send([message[:10], message[10:20], message[20:]])
    await one.recv()

    after = await numbers(metrics_port)
    assert after["received_bytes_total"] - before["received_bytes_total"] == len(message)
    assert after["messages_received_total", "HEARTBEAT"] == 1
    await one.close()


async def test_what_waits_is_told(
    service_with: ServiceWith, settings: dict[str, object], metrics_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, asked = asyncio.Event(), asyncio.Event()

    async def slow(self: Registrations, caller: Caller, **fields: object) -> None:
        asked.set()
        await release.wait()

    monkeypatch.setattr(Registrations, "register", slow)
    service = await service_with(**settings)
    one = await connected(service, ONE)
    _, half = await asyncio.open_connection("127.0.0.1", service.port)
    await one.send(frame(0x20, b"{}"))
    async with asyncio.timeout(20):
        await asked.wait()

    seen = await numbers(metrics_port)

    assert (seen["sessions"], seen["requests_pending"], seen["handshakes_pending"]) == (1, 1, 1)
    assert (seen["clients_behind"], seen["outbound_queue_bytes"]) == (0, 0)
    release.set()
    await one.recv()
    assert (await numbers(metrics_port))["requests_pending"] == 0
    half.close()
    await one.close()


async def test_bytes_that_wait_for_a_slow_client_are_told(
    service_with: ServiceWith, settings: dict[str, object], metrics_port: int
) -> None:
    # How much fits into the sockets before anything waits is the kernel's choice: no rate may end the sender before.
    service = await service_with(
        **settings, **{"server.outbound_queue_bytes": 100_000_000, "security.rate_limit_enabled": False}
    )
    one = await connected(service, ONE)
    async with RawSocket.open(service.port) as deaf:
        deaf.write_frame(2, connect_frame(TWO))
        while not (seen := await numbers(metrics_port))["clients_behind"]:
            for _ in range(20):
                await one.send(
                    frame(0x10, json.dumps({"target_client_id": TWO[0], "signal_data": "x" * 60_000}).encode())
                )

        assert seen["outbound_queue_bytes"] > 0
    await one.close()


async def test_readiness_is_red_before_the_service_listens_and_while_it_stops(
    service_with: ServiceWith, settings: dict[str, object], metrics_port: int
) -> None:
    service = await service_with(**settings)
    deaf = await connected(service, ONE)
    async with plain_http() as http:
        url = f"http://127.0.0.1:{metrics_port}/ready"
        serving = await http.get(url)
        stopping = asyncio.create_task(service.server.stop())
        await close_code(deaf)
        draining = await http.get(url)
        await stopping

    assert (serving.status_code, draining.status_code) == (200, 503)
    assert draining.json()["reasons"] == ["draining"]


async def test_a_taken_admin_port_keeps_the_service_from_starting(service_with: ServiceWith) -> None:
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    taken = listener.sockets[0].getsockname()[1]

    with pytest.raises(ConfigurationError, match="the port is taken"):
        await service_with(**{"metrics.enabled": True, "metrics.port": taken})
    listener.close()


async def test_without_the_second_port_the_service_runs_as_before() -> None:
    config = Config.model_validate(
        {"server": {"port": 0}, "storage": {"backend": "memory"}, "metrics": {"enabled": False}}
    )
    async with running(config) as server:
        assert server.port
