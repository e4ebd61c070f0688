from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import SignalManagerError
from signal_manager.model import ClientRecord, NodeId
from signal_manager.storage.documents import (
    CLIENTS,
    TimeCursor,
    encode,
    member_nodes,
    readable,
    require_readable,
)
from signal_manager.testing.storage.fixtures import client, member, room


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'{"client_id": "a"}', "missing required field `auth_token`"),
        (b'{"client_id": "a", "auth_token": 5}', "got `int`"),
        (b'{"client_id": "b", "auth_token": ""}', "not the document's id"),
        (b'{"client_id": ', "truncated"),
        (b'{"client_id": "a", "auth_token": "\xff"}', "invalid start byte"),
        (
            b'{"client_id": "a", "auth_token": "", "metadata": {"x": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}}",
            "recursion",
        ),
        ({"client_id": "a"}, "missing required field `auth_token`"),
    ],
)
def test_a_damaged_record_is_reported_by_collection_id_and_reason(document: bytes, reason: str) -> None:
    with capture_logs() as logs:
        assert readable(CLIENTS, "a", document) is None

    (line,) = logs
    assert (line["log_level"], line["collection"], line["id"]) == ("warning", "clients", "a")
    assert reason in line["reason"]


def test_an_error_about_a_damaged_record_holds_none_of_its_contents() -> None:
    with capture_logs(), pytest.raises(SignalManagerError) as failed:
        require_readable(CLIENTS, "a", b'{"client_id": "a", "auth_token": ["secret"]}')

    assert str(failed.value) == "the record a in clients is damaged; the log says how"


def test_a_record_reads_back_from_its_text() -> None:
    record: ClientRecord = client("a", metadata={"x": [1, "ü"]}, capabilities=("audio",))

    assert require_readable(CLIENTS, "a", encode(record)) == record


def test_only_an_active_room_has_member_nodes() -> None:
    members = tuple(member(name, node_id=node) for name, node in (("a", "2"), ("b", "1"), ("c", None), ("d", "2")))

    assert member_nodes(room("r", participants=members)) == [NodeId("1"), NodeId("2")]
    assert member_nodes(room("r", participants=members, is_active=False)) == []


def test_a_time_cursor_is_text_and_back() -> None:
    cursor = TimeCursor(1_800_000_000.25, "a~b")

    assert TimeCursor.parse(str(cursor)) == cursor
