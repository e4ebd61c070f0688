from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import msgspec
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.firestore_v1 import AsyncClient
from structlog.testing import capture_logs

from signal_manager.adapters import load_adapter
from signal_manager.errors import ConfigurationError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.model import ClientId, ClientRecord, RoomId, SavedSession, SessionId
from signal_manager.storage import firestore
from signal_manager.storage.base import Storage
from signal_manager.storage.firestore import EMULATOR_HOST, FirestoreStorage
from signal_manager.testing.storage.fixtures import NOW, client, entry, member, room
from tests.contracts.storage_contract import StorageContract
from tests.storage.conftest import Emulator

A = ClientId("a")
R = RoomId("r")


class TestFirestoreStorage(StorageContract):
    """Two handles are two nodes. The emulator settles a conflict slowly, so few writers contend."""

    writers = 3

    @pytest.fixture
    async def storage(self, prefix: str) -> AsyncIterator[FirestoreStorage]:
        async with opened(prefix) as storage:
            yield storage

    @pytest.fixture
    async def other(self, storage: Storage, prefix: str) -> AsyncIterator[FirestoreStorage]:
        async with opened(prefix) as other:
            yield other

    async def plant(self, storage: Storage, collection: str, key: str, document: dict[str, Any]) -> None:
        assert isinstance(storage, FirestoreStorage)
        fields = dict(document)
        if "expires_at" in fields:
            fields["expires_at"] = datetime.fromtimestamp(fields["expires_at"], UTC)
        await raw(storage, collection, key).set(fields)


@pytest.fixture
def prefix(emulator_host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a prefix of the test's own, in an emulator that all tests share."""
    monkeypatch.setenv(EMULATOR_HOST, emulator_host)
    return f"t{uuid4().hex[:12]}-"


@pytest.fixture
async def store(prefix: str) -> AsyncIterator[FirestoreStorage]:
    async with opened(prefix) as storage:
        yield storage


def opened(prefix: str, **settings: Any) -> FirestoreStorage:
    # The emulator needs seconds for its first answers on a busy machine.
    return FirestoreStorage(**{"project": "test", "collection_prefix": prefix, "operation_timeout": 20.0, **settings})


def raw(storage: FirestoreStorage, collection: str, key: str) -> Any:
    return storage._client.collection(storage._prefix + collection).document(key)


async def fields(storage: FirestoreStorage, collection: str, key: str) -> dict[str, Any]:
    document: dict[str, Any] = (await raw(storage, collection, key).get()).to_dict()
    return document


# Documents


async def test_a_room_document_has_the_field_names_of_the_original_s_readme_and_ours(store: FirestoreStorage) -> None:
    await store.create_room(
        room("r", metadata={"created_at": NOW}, participants=(member("a", node_id="n"),), expires_at=NOW + 0.25)
    )

    document = await fields(store, "rooms", "r")

    original = {"room_id", "app_id", "sender_client_id", "receiver_client_id", "session_id", "metadata", "is_active"}
    ours = {"participants", "sequence", "max_participants", "updated_at", "expires_at", "closed_at", "close_reason"}
    assert set(document) == original | ours | {"participant_nodes"}
    assert document["expires_at"] == datetime(2027, 1, 15, 8, 0, 0, 250_000, UTC)
    assert document["metadata"] == {"created_at": NOW}
    assert document["participant_nodes"] == ["n"]


async def test_a_client_document_has_the_field_names_of_the_original_s_readme_and_ours(store: FirestoreStorage) -> None:
    await store.put_client(client("a", auth_token="secret", expires_at=NOW))

    document = await fields(store, "clients", "a")

    original = {"client_id", "auth_token", "room_id", "role", "session_id", "capabilities", "metadata"}
    assert set(document) == original | {"tracks", "status", "registered_at", "last_seen_at", "expires_at", "node_id"}
    assert document["expires_at"] == datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
    assert "secret" not in str(document)


async def test_a_saved_session_s_state_is_stored_as_bytes(store: FirestoreStorage) -> None:
    session = SavedSession(session_id=SessionId("s"), client_id=A, state=b"\x00\xff", expires_at=NOW)
    await store.save_sessions([session])

    assert (await fields(store, "saved_sessions", "s"))["state"] == b"\x00\xff"


@pytest.mark.parametrize(
    "metadata",
    [
        {"matrix": [[1]]},
        {"": 1},
        {"__name__": 1},
        {"n": 2**63},
        {"k" * 1501: 1},
        {f"k{n}": n for n in range(1001)},
        json.loads('{"a":' * 17 + "1" + "}" * 17),
    ],
    ids=["arrays in arrays", "empty name", "reserved name", "integer", "long name", "many values", "depth"],
)
async def test_metadata_that_firestore_cannot_hold_as_a_map_is_kept_as_text(
    store: FirestoreStorage, metadata: dict[str, Any]
) -> None:
    await store.create_room(room("r", metadata=metadata, participants=(member("a", metadata=metadata),)))

    document = await fields(store, "rooms", "r")

    assert json.loads(document["metadata"]) == json.loads(document["participants"][0]["metadata"]) == metadata
    assert await store.get_room(R) == room(
        "r", metadata=metadata, participants=(member("a", metadata=metadata),), sequence=1
    )


@pytest.mark.parametrize(
    "document",
    [
        {"room_id": "r", "is_active": True, "metadata": "not {json"},
        {"room_id": "r", "is_active": True, "metadata": "[1]"},
        {"room_id": "r", "is_active": True, "participants": "a"},
        {"room_id": "r", "is_active": True, "participants": ["a", {"metadata": "{}"}]},
        {"room_id": "r", "is_active": True, "expires_at": "tomorrow"},
    ],
)
async def test_a_document_edited_into_nonsense_is_damaged(store: FirestoreStorage, document: dict[str, Any]) -> None:
    await raw(store, "rooms", "r").set(document)

    with capture_logs() as logs, pytest.raises(SignalManagerError, match="damaged"):
        await store.get_room(R)
    with capture_logs():
        assert await store.list_rooms() == ((), None)
    assert (logs[0]["collection"], logs[0]["id"]) == ("rooms", "r")


async def test_timestamps_that_a_person_entered_are_read_as_seconds(store: FirestoreStorage) -> None:
    time = datetime.fromtimestamp(NOW, UTC)
    await raw(store, "rooms", "r").set(
        {"room_id": "r", "is_active": True, "updated_at": time, "metadata": {"created_at": time, "list": [time]}}
    )

    assert await store.get_room(R) == room("r", updated_at=NOW, metadata={"created_at": NOW, "list": [NOW]})


async def test_fields_that_another_tool_added_survive_our_changes(store: FirestoreStorage) -> None:
    await store.create_room(room("r", metadata={"x": 1, "y": 2}))
    await raw(store, "rooms", "r").update({"billing": "paid"})

    await store.change_room(R, lambda present: msgspec.structs.replace(present, metadata={"x": 3}))

    document = await fields(store, "rooms", "r")
    assert (document["billing"], document["metadata"]) == ("paid", {"x": 3})


async def test_an_expiry_past_the_last_day_is_stored_as_the_last_day(store: FirestoreStorage) -> None:
    await store.put_client(client("a", expires_at=1e15))

    assert (await fields(store, "clients", "a"))["expires_at"] == datetime(9999, 12, 31, tzinfo=UTC)


async def test_a_record_larger_than_a_document_may_be_is_too_large(store: FirestoreStorage) -> None:
    big = client("a", metadata={"filling": ["x" * 10_000] * 110})

    with pytest.raises(TooLargeError):
        await store.put_client(big)
    with pytest.raises(TooLargeError):
        await store.change_client(A, lambda _present: big)

    assert await store.get_client(A) is None


async def test_sessions_too_large_to_save_are_named_and_the_others_saved(store: FirestoreStorage) -> None:
    sessions = [
        SavedSession(session_id=SessionId(f"s{n}"), client_id=A, state=b"x" * size, expires_at=NOW)
        for n, size in enumerate((10, 1_100_000, 20))
    ]

    assert await store.save_sessions(sessions) == ("s1",)

    assert await store.take_session(SessionId("s0"), now=0) == sessions[0]
    assert await store.take_session(SessionId("s1"), now=0) is None
    assert await store.take_session(SessionId("s2"), now=0) == sessions[2]


# Places


async def test_collections_carry_the_prefix(store: FirestoreStorage, prefix: str) -> None:
    await store.put_client(client("a"))

    document = await AsyncClient(project="test").collection(f"{prefix}clients").document("a").get()
    assert document.exists


async def test_a_named_database_is_a_store_of_its_own(store: FirestoreStorage, prefix: str) -> None:
    async with opened(prefix, database="signal-manager-service-db") as named:
        await named.put_client(client("a"))

        assert await named.get_client(A) == client("a")
    assert await store.get_client(A) is None


async def test_the_adapter_is_found_by_its_name() -> None:
    assert load_adapter("storage", "firestore") is FirestoreStorage


# Conflicts, outages, refusals


async def test_changes_give_up_when_others_are_always_faster(
    store: FirestoreStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firestore, "ATTEMPTS", 2)
    await store.put_client(client("a"))
    snapshot = store._get_snapshot

    async def outpaced(*arguments: Any) -> Any:
        read = await snapshot(*arguments)
        await raw(store, "clients", "a").update({"status": uuid4().hex})
        return read

    monkeypatch.setattr(store, "_get_snapshot", outpaced)

    with pytest.raises(UnavailableError, match="2 attempts failed"):
        await store.change_client(A, lambda _present: client("a", role="sender"))


async def test_a_change_that_finds_its_record_gone_meanwhile_starts_again(
    store: FirestoreStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_client(client("a"))
    snapshot = store._get_snapshot
    seen: list[ClientRecord | None] = []

    async def outpaced(*arguments: Any) -> Any:
        read = await snapshot(*arguments)
        await raw(store, "clients", "a").delete()
        return read

    def change(present: ClientRecord | None) -> ClientRecord | None:
        seen.append(present)
        return None if present is None else client("a", role="sender")

    monkeypatch.setattr(store, "_get_snapshot", outpaced)

    assert await store.change_client(A, change) is None
    assert seen == [client("a"), None]


@pytest.mark.long
async def test_an_outage_is_unavailable_in_time_and_over_without_a_restart(
    emulator_to_stop: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMULATOR_HOST, emulator_to_stop.host)
    async with opened("", operation_timeout=20.0) as store:
        await store.put_client(client("a"))
        calls: list[Callable[[], Any]] = [
            lambda: store.get_client(A),
            lambda: store.put_client(client("b")),
            store.list_rooms,
            lambda: store.update_client(A, status="online"),
            lambda: store.add_media(entry("e")),
            lambda: store.confirm_media(["e"]),  # type: ignore[list-item]  # a literal
        ]

        await asyncio.to_thread(emulator_to_stop.stop)
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
        await asyncio.to_thread(emulator_to_stop.start)
        async with asyncio.timeout(60):
            await recovered(store)
            await store.create_client(client("c"))

    assert {type(outcome) for outcome in outcomes} == {UnavailableError}
    assert all(isinstance(outcome, UnavailableError) and outcome.may_retry for outcome in outcomes)


async def recovered(store: FirestoreStorage) -> None:
    """Call as a client that was told to retry does, until that works."""
    while True:
        try:
            await store.get_client(A)
        except UnavailableError:
            await asyncio.sleep(0.1)
        else:
            return


async def test_a_service_that_never_answers_is_unavailable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(EMULATOR_HOST, f"127.0.0.1:{silent.getsockname()[1]}")

        with pytest.raises(UnavailableError):
            async with opened("", operation_timeout=0.3):
                pass


class Refusing(grpc.GenericRpcHandler):
    """A Firestore that answers every call with one status, over real gRPC."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self._code = code
        self._message = message

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def refuse(_request: bytes, context: Any) -> AsyncIterator[bytes]:
            await context.abort(self._code, self._message)
            yield b""

        return grpc.unary_stream_rpc_method_handler(refuse)


async def refused(monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode, message: str) -> SignalManagerError:
    """Return the error with which opening a store fails where Firestore answers like this."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Refusing(code, message),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv(EMULATOR_HOST, f"127.0.0.1:{port}")
    try:
        with pytest.raises(SignalManagerError) as failed:
            async with opened("", project="wrong", database="other"):
                pass
    finally:
        await server.stop(None)
    return failed.value


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "Missing or insufficient permissions."),
        (grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials."),
        (grpc.StatusCode.NOT_FOUND, "The database other does not exist for project wrong\nsee the console"),
        (grpc.StatusCode.FAILED_PRECONDITION, "The database is in Datastore Mode"),
        (grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: invalid_grant"),
    ],
)
async def test_wrong_settings_are_refused_with_one_line(
    monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode, message: str
) -> None:
    error = await refused(monkeypatch, code, message)

    assert isinstance(error, ConfigurationError)
    assert "project 'wrong', database 'other'" in str(error)
    assert message.splitlines()[0] in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    ],
)
async def test_a_failing_service_is_unavailable(monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode) -> None:
    error = await refused(monkeypatch, code, "try again")

    assert isinstance(error, UnavailableError)
    assert str(error).startswith("Firestore failed: ")


async def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigurationError) as failed:
        async with opened("", **settings):
            pass
    assert "\n" not in str(failed.value)
    return str(failed.value)


async def test_an_empty_project_is_refused() -> None:
    assert (await refusal(project="")).startswith("firestore.project_id is empty")


async def test_a_prefix_with_a_slash_is_refused() -> None:
    assert "collection_prefix" in await refusal(collection_prefix="a/b")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        ("not json", "expected a service account's key file"),
        ("{}", "expected a service account's key file"),
        ('{"type": "service_account", "private_key": "x", "client_email": "a@b", "token_uri": "x"}', "expected"),
    ],
    ids=["missing", "no JSON", "another file", "a broken key"],
)
async def test_a_wrong_credentials_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, expected: str
) -> None:
    monkeypatch.delenv(EMULATOR_HOST, raising=False)
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)

    line = await refusal(credentials_path=str(path))

    assert expected in line
    assert str(path) in line


async def test_no_credentials_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (EMULATOR_HOST, "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))

    assert "Firestore's credentials cannot be used" in await refusal()


async def test_without_an_emulator_the_channel_leads_to_google(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client_of_emulator = AsyncClient(project="test")
    monkeypatch.delenv(EMULATOR_HOST)

    channel = firestore._open_channel(client_of_emulator)

    assert channel.get_state() is grpc.ChannelConnectivity.IDLE
    await channel.close()


def test_a_client_has_the_private_names_that_the_adapter_uses() -> None:
    credentials, transport = AnonymousCredentials(), object()  # type: ignore[no-untyped-call]
    client = AsyncClient(project="test", credentials=credentials)
    client._firestore_api_internal = transport

    assert (client._credentials, client._firestore_api) == (credentials, transport), (
        f"google-cloud-firestore {version('google-cloud-firestore')} no longer has what storage/firestore.py takes "
        "from inside it. Look whether docs/upstream.md's proposal came true, and use that; or else adapt the module."
    )


def test_nothing_but_the_adapter_imports_google() -> None:
    code = "import sys, signal_manager.storage.sqlite.adapter; sys.exit('google.cloud' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Documents of the original service


ORIGINAL_ROOM = {
    "id": "c0ffee00-0000-4000-8000-000000000001",
    "room_id": "r",
    "app_id": "app",
    "created_at": "2026-01-02T03:04:05.678901234Z",
    "status": "Pending",
    "sender_client_id": "a",
    "session_id": "s",
    "metadata": {"title": "t"},
    "record_created_at": "2026-01-02T03:04:06Z",
}
ORIGINAL_CLIENT = {
    "id": "c0ffee00-0000-4000-8000-000000000002",
    "client_id": "a",
    "room_id": "r",
    "role": "Sender",
    "session_id": "s",
    "joined_at": "2026-01-02T03:04:05Z",
    "status": "Connected",
    "metadata": None,
    "record_created_at": "2026-01-02T03:04:05Z",
}


async def test_documents_of_the_original_service_are_read_and_changed_where_they_are_met(
    store: FirestoreStorage,
) -> None:
    await raw(store, "rooms", "r").set(ORIGINAL_ROOM)
    await raw(store, "clients", "a").set(ORIGINAL_CLIENT)

    with capture_logs() as logs:
        room_found, client_found = await store.get_room(R), await store.get_client(A)
        listed = await store.list_rooms(), await store.list_clients()
        changed = await store.change_room(R, lambda present: present and msgspec.structs.replace(present, metadata={}))

    assert room_found is not None
    assert (room_found.is_active, room_found.session_id, room_found.metadata["title"]) == (True, "s", "t")
    assert room_found.metadata["created_at"] == 1767323045678
    assert client_found is not None
    assert (client_found.auth_token, client_found.role, client_found.metadata) == ("", "sender", {})
    assert [page.items for page in listed] == [(room_found,), (client_found,)]
    assert changed is not None
    assert await store.get_room(R) == changed
    assert (await fields(store, "rooms", "r"))["record_created_at"] == ORIGINAL_ROOM["record_created_at"]
    assert logs == []


async def test_all_documents_of_a_collection_of_the_original_are_found(
    store: FirestoreStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firestore, "ORIGINALS_PAGE", 2)
    for number in range(4):
        await raw(store, "webrtc_rooms", f"r{number}").set({**ORIGINAL_ROOM, "room_id": f"r{number}"})

    found = [document async for document in store.originals(f"{store._prefix}webrtc_rooms")]

    assert found == [(f"r{number}", {**ORIGINAL_ROOM, "room_id": f"r{number}"}) for number in range(4)]


def test_the_client_keeps_its_transport_where_the_adapter_puts_it() -> None:
    assert hasattr(AsyncClient, "_firestore_api_internal"), firestore.FIRESTORE_MOVED


async def test_a_client_that_keeps_its_transport_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR_HOST, "127.0.0.1:1")
    monkeypatch.delattr("google.cloud.firestore_v1.base_client.BaseClient._firestore_api_internal")

    with pytest.raises(ConfigurationError, match=r"docs/upstream\.md"):
        await FirestoreStorage(project="test").__aenter__()
