"""What clients put on record."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import ConflictError, NotFoundError
from signal_manager.model import Caller, ClientId, ClientRecord, Identity, NodeId, SessionId, hash_token
from signal_manager.records.registrations import Registrations
from signal_manager.storage.base import ClientChange
from signal_manager.storage.memory import MemoryStorage

NODE = NodeId("n")
A = ClientId("a")
NOW = 1000.0


def caller(token: str = "t", *, session: str = "s", signed: bool = False) -> Caller:
    identity = Identity(client_id=A, expires_at=NOW + 60 if signed else None)
    return Caller(identity, SessionId(session), hash_token(token))


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def registrations(storage: MemoryStorage) -> Registrations:
    return Registrations(storage=storage, node_id=NODE, offline_ttl=100, clock=lambda: NOW)


@pytest.fixture
def keeping(storage: MemoryStorage) -> Registrations:
    return Registrations(storage=storage, node_id=NODE, keeps_records=True, clock=lambda: NOW)


async def register(registrations: Registrations, by: Caller, **metadata: str) -> None:
    await registrations.register(by, capabilities=["chat"], metadata=metadata)


async def test_a_registration_is_a_record_with_the_tokens_hash(
    storage: MemoryStorage, registrations: Registrations
) -> None:
    await register(registrations, caller(), name="Ada")

    record = await storage.get_client(A)

    assert record == ClientRecord(
        client_id=A,
        auth_token=hash_token("t"),
        session_id=SessionId("s"),
        capabilities=("chat",),
        metadata={"name": "Ada"},
        status="online",
        registered_at=NOW,
        last_seen_at=NOW,
        node_id=NODE,
    )


async def test_registering_again_updates_the_record(storage: MemoryStorage, registrations: Registrations) -> None:
    await register(registrations, caller(), name="Ada")
    await register(registrations, caller(session="s2"), name="Grace")

    record = await storage.get_client(A)

    assert record is not None
    assert (record.metadata, record.session_id) == ({"name": "Grace"}, "s2")


async def test_a_record_of_another_token_is_a_conflict(storage: MemoryStorage, registrations: Registrations) -> None:
    await register(registrations, caller())

    with pytest.raises(ConflictError):
        await register(registrations, caller("other"))
    with pytest.raises(ConflictError):
        await registrations.unregister(caller("other"))


async def test_a_signed_token_may_be_a_new_one_each_time(storage: MemoryStorage, registrations: Registrations) -> None:
    await register(registrations, caller("jwt-1", signed=True))
    await register(registrations, caller("jwt-2", signed=True))

    record = await storage.get_client(A)

    assert record is not None
    assert record.auth_token == hash_token("jwt-2")


async def test_unregistering_removes_the_record(storage: MemoryStorage, registrations: Registrations) -> None:
    await register(registrations, caller())

    await registrations.unregister(caller())

    assert await storage.get_client(A) is None
    with pytest.raises(NotFoundError):
        await registrations.unregister(caller())


async def test_a_record_that_authenticates_its_client_outlives_its_registration(
    storage: MemoryStorage, keeping: Registrations
) -> None:
    await storage.put_client(ClientRecord(client_id=A, auth_token="t"))
    await register(keeping, caller())
    await keeping.end_session(caller())
    ended = await storage.get_client(A)
    await register(keeping, caller())

    await keeping.unregister(caller())

    assert ended is not None
    assert ended.expires_at is None
    assert await storage.get_client(A) == ClientRecord(client_id=A, auth_token=hash_token("t"))


async def test_the_end_of_a_session_leaves_the_record_for_a_while(
    storage: MemoryStorage, registrations: Registrations
) -> None:
    await register(registrations, caller())

    await registrations.end_session(caller())

    record = await storage.get_client(A)
    assert record is not None
    assert (record.status, record.session_id, record.node_id, record.expires_at) == ("offline", None, None, NOW + 100)


async def test_the_late_end_of_an_older_session_changes_nothing(
    storage: MemoryStorage, registrations: Registrations
) -> None:
    await register(registrations, caller(session="old"))
    await register(registrations, caller(session="new"))

    await registrations.end_session(caller(session="old"))
    await registrations.end_session(caller(session="never registered"))

    record = await storage.get_client(A)
    assert record is not None
    assert record.status == "online"


async def test_the_end_of_a_node_ends_the_sessions_it_had(storage: MemoryStorage, registrations: Registrations) -> None:
    for number in range(250):
        await storage.put_client(
            ClientRecord(client_id=ClientId(f"c{number}"), auth_token="", status="online", node_id=NodeId("gone"))
        )
    await register(registrations, caller())

    assert await registrations.end_node(NodeId("gone")) == 250

    assert not (await storage.list_clients(node_id=NodeId("gone"))).items
    mine = await storage.get_client(A)
    assert mine is not None
    assert mine.status == "online"


async def test_a_session_that_ends_while_it_registers_is_offline_whichever_is_written_first() -> None:
    storage = SlowToChange()
    registrations = Registrations(storage=storage, node_id=NODE, offline_ttl=100, clock=lambda: NOW)

    registering = asyncio.ensure_future(register(registrations, caller()))
    await storage.asked.wait()
    await registrations.end_session(caller())
    storage.may_change.set()
    await registering

    record = await storage.get_client(A)
    assert record is not None
    assert (record.status, record.session_id, record.expires_at) == ("offline", None, NOW + 100)


class SlowToChange(MemoryStorage):
    """A store whose first change is overtaken by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_change = asyncio.Event()

    async def change_client(self, client_id: ClientId, change: ClientChange) -> ClientRecord | None:
        if not self.asked.is_set():
            self.asked.set()
            await self.may_change.wait()
        return await super().change_client(client_id, change)


# -- sessions that move ----------------------------------------------------------------------------------------------


async def test_a_session_that_comes_from_elsewhere_brings_its_record_here(
    storage: MemoryStorage, registrations: Registrations
) -> None:
    another = Registrations(storage=storage, node_id=NodeId("another"), clock=lambda: NOW)
    await register(another, caller())
    moved = another.disown(SessionId("s"))

    await registrations.adopt(caller())
    await another.end_session(caller())  # it is none of its business any more

    record = await storage.get_client(A)
    assert record is not None
    assert (moved, another.disown(SessionId("s"))) == (True, False)
    assert (record.status, record.node_id, record.expires_at) == ("online", NODE, None)
    assert registrations.is_registered(SessionId("s"))


async def test_a_record_that_is_offline_since_the_last_start_is_online_again(
    storage: MemoryStorage, registrations: Registrations
) -> None:
    await register(registrations, caller())
    await registrations.end_session(caller())

    await registrations.adopt(caller(session="s"))

    record = await storage.get_client(A)
    assert record is not None
    assert (record.status, record.session_id, record.expires_at) == ("online", "s", None)


async def test_a_session_that_comes_back_takes_no_record_from_a_newer_one(
    storage: MemoryStorage, registrations: Registrations
) -> None:
    await register(registrations, caller(session="newer"))

    await registrations.adopt(caller(session="older"))

    record = await storage.get_client(A)
    assert record is not None
    assert record.session_id == "newer"


async def test_a_record_that_was_removed_meanwhile_stays_removed(
    storage: MemoryStorage, registrations: Registrations, keeping: Registrations
) -> None:
    await registrations.adopt(caller())
    assert await storage.get_client(A) is None
    provisioned = ClientRecord(client_id=A, auth_token="t")
    await storage.put_client(provisioned)

    await keeping.adopt(caller())

    record = await storage.get_client(A)
    assert record is not None
    assert record.status != "online"
