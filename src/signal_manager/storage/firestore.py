"""A store that several nodes share: Google Firestore, which may also hold documents of the original service.

A change of a document is a read and a commit. The commit fails if another writer was faster; the change is then retried
after a random pause. That costs two round trips and no lock; a transaction would cost three and block other writers.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, assert_never
from weakref import WeakValueDictionary

import google.auth
import grpc.aio
import msgspec
from google.api_core import exceptions as google_errors
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1 import AsyncClient, AsyncDocumentReference, FieldFilter
from google.cloud.firestore_v1.base_document import DocumentSnapshot
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcAsyncIOTransport
from google.oauth2.service_account import Credentials

from signal_manager.errors import ConfigurationError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.model import Room, SavedSession
from signal_manager.storage.base import Page
from signal_manager.storage.documents import (
    NODES,
    Change,
    Changed,
    Condition,
    Equals,
    HasMemberOn,
    Kind,
    RecordT,
    TimeCursor,
    UpTo,
    encode,
    member_nodes,
    readable,
    require_readable,
)
from signal_manager.storage.records import RecordStorage

__all__ = ["FirestoreStorage"]

EMULATOR_HOST = "FIRESTORE_EMULATOR_HOST"

FIRESTORE_MOVED = (
    "this version of google-cloud-firestore keeps its transport elsewhere than in AsyncClient._firestore_api_internal, "
    "so it cannot be used; install an older one, and see docs/upstream.md"
)

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    # gRPC's default pause between attempts to reconnect grows to two minutes, which is too long after an outage.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

# Conflicts with other nodes: the pause before a further attempt is random up to 20 ms, 40 ms, … 640 ms.
ATTEMPTS = 12
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.64

# Errors of the first read for wrong settings. FailedPrecondition: the database is in Datastore mode.
REFUSALS = (
    google_errors.Unauthenticated,
    google_errors.PermissionDenied,
    google_errors.NotFound,
    google_errors.InvalidArgument,
    google_errors.FailedPrecondition,
)

# Errors of a commit whose document has changed since it was read. NotFound: it was deleted.
CONFLICTS = (
    google_errors.Aborted,
    google_errors.AlreadyExists,
    google_errors.FailedPrecondition,
    google_errors.NotFound,
)

# Documents of the original service to read at once.
ORIGINALS_PAGE = 300

# Firestore's own limits for metadata kept as a map: 20 levels, of which a member's takes three; integers of
# 64 bits; names of 1500 bytes; 40,000 index entries in a document, several for each value.
MAX_DEPTH = 16
MAX_INTEGER = 2**63 - 1
MAX_NAME = 1500
MAX_VALUES = 1000
# The last day that a Firestore timestamp can name.
LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class FirestoreStorage(RecordStorage):
    """Implement `Storage` in a Firestore database, or its emulator where `FIRESTORE_EMULATOR_HOST` is set.

    Args:
        project: the Google Cloud project's id.
        database: the database's name.
        credentials_path: a service account's key file; empty for the environment's default credentials.
        collection_prefix: put before every collection's name.
        operation_timeout: seconds after which an operation is given up.
    """

    def __init__(
        self,
        *,
        project: str,
        database: str = "(default)",
        credentials_path: str = "",
        collection_prefix: str = "",
        operation_timeout: float = 5.0,
    ) -> None:
        super().__init__(operation_timeout=operation_timeout)
        self._project = project
        self._database = database
        self._credentials_path = credentials_path
        self._prefix = collection_prefix
        self._client: AsyncClient
        self._channel: grpc.aio.Channel
        # Changes of one document in this process take turns, so that conflicts come from other nodes only.
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        if not self._project:
            raise ConfigurationError("firestore.project_id is empty, expected the id of a Google Cloud project")
        if "/" in self._prefix:
            raise ConfigurationError(f"firestore.collection_prefix is {self._prefix!r}, expected no slash in it")
        # In a thread, because the search for default credentials may call Google's metadata server.
        self._client, credentials = await asyncio.to_thread(self._make_client)
        if not hasattr(self._client, "_firestore_api_internal"):
            raise ConfigurationError(FIRESTORE_MOVED)
        self._channel = _open_channel(credentials)
        transport = FirestoreGrpcAsyncIOTransport(channel=self._channel)
        # Without a channel the client would open one on first use, with options that cannot be chosen.
        self._client._firestore_api_internal = FirestoreAsyncClient(transport=transport)
        try:
            await self._probe()
        except BaseException:
            await self._channel.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    def _make_client(self) -> tuple[AsyncClient, Any]:
        credentials: Any = None
        try:
            if EMULATOR_HOST in os.environ:
                pass  # it takes everyone
            elif self._credentials_path:
                credentials = Credentials.from_service_account_file(self._credentials_path)  # type: ignore[no-untyped-call]  # google-auth has no annotations
            else:
                credentials, _ = google.auth.default(scopes=AsyncClient.SCOPE)
            return AsyncClient(project=self._project, credentials=credentials, database=self._database), credentials
        except OSError as error:
            raise ConfigurationError(
                f"firestore.credentials_path {self._credentials_path!r} cannot be read: {error.strerror}"
            ) from error
        except (GoogleAuthError, ValueError) as error:
            raise ConfigurationError(
                "Firestore's credentials cannot be used: firestore.credentials_path is "
                f"{self._credentials_path!r}, expected a service account's key file ({_first_line(error)})"
            ) from error

    async def _probe(self) -> None:
        """Read one document, which may be missing, to detect wrong settings at the start."""
        try:
            await self._bounded(self._reference(NODES, "start").get(retry=None, timeout=self._operation_timeout))
        except google_errors.GoogleAPIError as error:
            # gRPC reports credentials that cannot be renewed as an unavailable service, with this in its message.
            if isinstance(error, REFUSALS) or "from plugin failed" in str(error):
                raise ConfigurationError(
                    f"Firestore refuses project {self._project!r}, database {self._database!r} "
                    f"with the credentials given: {_first_line(error)}"
                ) from error
            raise _translated(error) from error

    async def originals(self, collection: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield the id and the fields of every document in a collection of the original service.

        Raises:
            UnavailableError: Firestore fails.
        """
        query: Any = self._client.collection(collection).order_by("__name__").limit(ORIGINALS_PAGE)
        page = query
        while True:
            with _translating():
                snapshots = await page.get(retry=None, timeout=self._operation_timeout)
            for snapshot in snapshots:
                yield snapshot.id, _plain(snapshot.to_dict())
            if len(snapshots) < ORIGINALS_PAGE:
                return
            page = query.start_after([snapshots[-1].id])

    # The five operations. The client library's retries are off: they ignore our time limits, and repeat a commit whose
    # answer was lost.

    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        return _record(kind, await self._get_snapshot(kind, key))

    async def _change(self, kind: Kind[RecordT], key: str, change: Change[RecordT]) -> Changed[RecordT]:
        turn = self._turns.setdefault((kind.collection, key), asyncio.Lock())
        async with turn:
            for attempt in range(ATTEMPTS):
                snapshot = await self._get_snapshot(kind, key)
                before = _record(kind, snapshot)
                after = change(before)
                if after == before or await self._commits(kind, snapshot, after):
                    return Changed(before, after)
                # The pause spreads load and guards no secret, so any random number will do.
                await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)))  # noqa: S311
        raise UnavailableError(
            f"cannot change {key} in {kind.collection}: {ATTEMPTS} attempts failed, other writers were faster"
        )

    async def _commits(self, kind: Kind[RecordT], snapshot: DocumentSnapshot[Any], after: RecordT | None) -> bool:
        """Write or remove the document; return False if it has changed since it was read."""
        batch = self._client.batch()
        reference = self._reference(kind, snapshot.id)
        if snapshot.exists:
            unchanged = self._client.write_option(last_update_time=snapshot.update_time)
            if after is None:
                batch.delete(reference, option=unchanged)
            else:
                # `update` instead of `set` keeps fields that other tools added.
                batch.update(reference, _fields(kind, after), option=unchanged)
        elif after is not None:
            batch.create(reference, _fields(kind, after))
        try:
            await batch.commit(retry=None, timeout=self._operation_timeout)
        except CONFLICTS:
            return False
        except google_errors.GoogleAPIError as error:
            raise _translated(error) from error
        return True

    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        batch = self._client.batch()
        for record in records:
            batch.set(self._reference(kind, kind.key_of(record)), _fields(kind, record))
        with _translating():
            await batch.commit(retry=None, timeout=self._operation_timeout)

    async def _remove(self, kind: Kind[Any], keys: Sequence[str]) -> None:
        batch = self._client.batch()
        for key in keys:
            batch.delete(self._reference(kind, key))
        with _translating():
            await batch.commit(retry=None, timeout=self._operation_timeout)

    async def _select(self, kind: Kind[RecordT], condition: Condition, after: str | None, limit: int) -> Page[RecordT]:
        query = self._query(kind, condition, after).limit(limit + 1)
        with _translating():
            snapshots = await query.get(retry=None, timeout=self._operation_timeout)
        following = None
        if len(snapshots) > limit:
            last = snapshots[limit - 1]
            following = last.id
            if isinstance(condition, UpTo):
                following = str(TimeCursor(at=_plain(last.get(condition.field)), key=last.id))
        records = (readable(kind, snapshot.id, _document(snapshot)) for snapshot in snapshots[:limit])
        return Page(tuple(record for record in records if record is not None), following)

    def _query(self, kind: Kind[Any], condition: Condition, after: str | None) -> Any:
        """Return the query for a page; it needs only the single-field indexes that Firestore makes by itself."""
        query: Any = self._client.collection(self._prefix + kind.collection)
        match condition:
            case None:
                pass
            case Equals(field, value):
                query = query.where(filter=FieldFilter(field, "==", value))
            case HasMemberOn(node_id):
                query = query.where(filter=FieldFilter("participant_nodes", "array_contains", node_id))
            case UpTo(field, at):
                query = query.where(filter=FieldFilter(field, "<=", _time(field, at))).order_by(field)
            case _:
                assert_never(condition)
        query = query.order_by("__name__")
        if after is None:
            return query
        if isinstance(condition, UpTo):
            start = TimeCursor.parse(after)
            return query.start_after([_time(condition.field, start.at), start.key])
        return query.start_after([after])

    def _reference(self, kind: Kind[Any], key: str) -> AsyncDocumentReference:
        return self._client.collection(self._prefix + kind.collection).document(key)

    async def _get_snapshot(self, kind: Kind[Any], key: str) -> DocumentSnapshot[Any]:
        with _translating():
            return await self._reference(kind, key).get(retry=None, timeout=self._operation_timeout)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except google_errors.GoogleAPIError as error:
        raise _translated(error) from error


def _translated(error: google_errors.GoogleAPIError) -> SignalManagerError:
    # The output of `_fields` is well formed, so Firestore can refuse only its size.
    if isinstance(error, google_errors.InvalidArgument):
        return TooLargeError(f"Firestore cannot hold the record: {_first_line(error)}")
    return UnavailableError(f"Firestore failed: {type(error).__name__}")


def _open_channel(credentials: Any) -> grpc.aio.Channel:
    emulator = os.environ.get(EMULATOR_HOST)
    if emulator:
        return grpc.aio.insecure_channel(emulator, options=CHANNEL_OPTIONS)
    return FirestoreGrpcAsyncIOTransport.create_channel(credentials=credentials, options=CHANNEL_OPTIONS)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _record(kind: Kind[RecordT], snapshot: DocumentSnapshot[Any]) -> RecordT | None:
    return require_readable(kind, snapshot.id, _document(snapshot)) if snapshot.exists else None


def _fields(kind: Kind[RecordT], record: RecordT) -> dict[str, Any]:
    """Return the document's fields: JSON except for times of expiry, bytes, and metadata that a map cannot hold."""
    fields: dict[str, Any] = msgspec.json.decode(encode(record))
    if fields.get("expires_at") is not None:
        fields["expires_at"] = _time("expires_at", fields["expires_at"])
    if isinstance(record, Room):
        fields["participant_nodes"] = member_nodes(record)
    if isinstance(record, SavedSession):
        fields["state"] = record.state
    for holder in (fields, *fields.get("participants", ())):
        if "metadata" in holder and not _fits(holder["metadata"], MAX_DEPTH, [MAX_VALUES]):
            holder["metadata"] = encode(holder["metadata"]).decode()
    return fields


def _document(snapshot: DocumentSnapshot[Any]) -> dict[str, Any]:
    """Return the record's fields as `_fields` got them, unless a person has edited the document."""
    document: dict[str, Any] = _plain(snapshot.to_dict())
    members = document.get("participants")
    for holder in (document, *(members if isinstance(members, list) else ())):
        if isinstance(holder, dict) and isinstance(holder.get("metadata"), str):
            with suppress(msgspec.DecodeError):
                holder["metadata"] = msgspec.json.decode(holder["metadata"])
    return document


def _fits(value: Any, depth: int, values_left: list[int]) -> bool:
    """Tell whether Firestore can hold metadata as a map: within the limits above, and no array directly in an array."""
    values_left[0] -= 1
    if depth == 0 or values_left[0] < 0:
        return False
    match value:
        case dict():
            return all(_is_name(name) and _fits(item, depth - 1, values_left) for name, item in value.items())
        case list():
            return all(not isinstance(item, list) and _fits(item, depth - 1, values_left) for item in value)
        case int():
            return -MAX_INTEGER - 1 <= value <= MAX_INTEGER
        case _:
            return True


def _is_name(name: str) -> bool:
    return 0 < len(name.encode()) <= MAX_NAME and not (name.startswith("__") and name.endswith("__"))


def _plain(value: Any) -> Any:
    """Return the value with seconds since the epoch in place of timestamps."""
    match value:
        case datetime():
            return value.timestamp()
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case _:
            return value


def _time(field: str, seconds: float) -> datetime | float:
    """Return a time in its stored form: `expires_at` is a timestamp, because Firestore's TTL policies need one."""
    return datetime.fromtimestamp(min(seconds, LAST_TIME), UTC) if field == "expires_at" else seconds
