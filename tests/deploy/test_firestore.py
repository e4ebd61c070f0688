"""The files under deploy/firestore fit the queries and the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from signal_manager.storage.documents import KINDS

DIRECTORY = Path(__file__).parents[2] / "deploy" / "firestore"


def overrides() -> dict[tuple[str, str], Any]:
    content = json.loads((DIRECTORY / "firestore.indexes.json").read_text())
    assert content["indexes"] == []
    return {(each["collectionGroup"], each["fieldPath"]): each for each in content["fieldOverrides"]}


def test_every_record_that_expires_has_a_ttl_policy() -> None:
    expiring = {(kind.collection, "expires_at") for kind in KINDS if "expires_at" in kind.indexed}

    assert {place for place, each in overrides().items() if each.get("ttl")} == expiring


def test_no_field_that_is_searched_has_lost_its_index() -> None:
    for (collection, field), override in overrides().items():
        (kind,) = (kind for kind in KINDS if kind.collection == collection)
        assert field in {each.name for each in msgspec.structs.fields(kind.record)}
        assert bool(override["indexes"]) == (field in kind.indexed)


def test_the_firebase_command_line_is_pointed_at_the_file() -> None:
    content = json.loads((DIRECTORY / "firebase.json").read_text())

    assert (DIRECTORY / content["firestore"]["indexes"]).exists()
