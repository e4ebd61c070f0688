"""REGISTER and UNREGISTER as records in storage, over real sockets."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from signal_manager.client import SignalClient
from signal_manager.errors import AuthenticationError, ConfigurationError, ConflictError, NotFoundError
from signal_manager.model import ClientId, ClientRecord, hash_token
from signal_manager.service.backends import storage_for
from signal_manager.service.config import Config
from signal_manager.storage.base import Storage
from tests.integration.conftest import Service, ServiceWith

ONE = ("test_client_1", "test_token_1")


@pytest.fixture
def database(tmp_path: Path) -> dict[str, str]:
    return {"storage.backend": "sqlite", "storage.sqlite_path": str(tmp_path / "signal.db")}


def storage_of(database: dict[str, str]) -> Storage:
    return storage_for(Config.model_validate({"storage": {"sqlite_path": database["storage.sqlite_path"]}}))


async def record_of(database: dict[str, str], client_id: str) -> ClientRecord | None:
    async with storage_of(database) as storage:
        return await storage.get_client(ClientId(client_id))


async def test_a_registration_survives_a_restart_and_goes_offline_with_its_client(
    service_with: ServiceWith, database: dict[str, str]
) -> None:
    service = await service_with(**database)
    async with SignalClient(service.url, *ONE) as client:
        await client.register(["chat"], {"name": "Ada"})
        online = await record_of(database, ONE[0])
        await service.server.stop()
    offline = await record_of(database, ONE[0])

    assert online is not None
    assert (online.status, online.capabilities, online.metadata) == ("online", ("chat",), {"name": "Ada"})
    assert online.auth_token == hash_token(ONE[1])
    assert offline is not None
    assert offline.expires_at is not None


async def test_unregistering_takes_the_record_away(service_with: ServiceWith, database: dict[str, str]) -> None:
    service = await service_with(**database)
    async with SignalClient(service.url, *ONE) as client:
        await client.register()
        await client.unregister()

        assert await record_of(database, ONE[0]) is None
        with pytest.raises(NotFoundError):
            await client.unregister()


async def test_a_record_of_another_token_is_409(service_with: ServiceWith, database: dict[str, str]) -> None:
    async with storage_of(database) as storage:
        await storage.put_client(ClientRecord(client_id=ClientId(ONE[0]), auth_token="another client's"))
    service = await service_with(**database)

    async with SignalClient(service.url, *ONE) as client:
        with pytest.raises(ConflictError):
            await client.register()


async def test_provisioned_records_authenticate_their_clients(
    service_with: ServiceWith, database: dict[str, str]
) -> None:
    async with storage_of(database) as storage:
        await storage.put_client(ClientRecord(client_id=ClientId("phone"), auth_token="secret"))
    with closing(sqlite3.connect(database["storage.sqlite_path"])) as connection, connection:
        connection.execute("UPDATE clients SET body = json_set(body, '$.auth_token', 'secret')")
    service = await service_with(**database, **{"auth.auth_method": "store"})

    async with SignalClient(service.url, "phone", "secret"):
        pass
    for client_id, token in (("phone", "wrong"), ("nobody", "secret"), ("phone", hash_token("secret")), ONE):
        with pytest.raises(AuthenticationError):
            await SignalClient(service.url, client_id, token).connect()

    record = await record_of(database, "phone")
    assert record is not None
    assert record.auth_token == hash_token("secret"), "rewritten at its first use"
    async with SignalClient(service.url, "phone", "secret") as client:
        await client.register()
        await client.unregister()
    async with SignalClient(service.url, "phone", "secret"):
        pass


async def test_relaying_goes_on_while_storage_is_away(service_with: ServiceWith, database: dict[str, str]) -> None:
    service: Service = await service_with(**database)
    Path(database["storage.sqlite_path"]).unlink()
    async with (
        SignalClient(service.url, *ONE) as one,
        SignalClient(service.url, "test_client_2", "test_token_2") as two,
    ):
        assert await one.send_message("test_client_2", "hello", ack=True) == "delivered"
        assert (await anext(aiter(two))) is not None


async def test_an_unknown_storage_is_explained() -> None:
    with pytest.raises(ConfigurationError, match="expected one of"):
        storage_for(Config.model_validate({"storage": {"backend": "papyrus"}}))
