"""The catalogue is whole, and what is derived from it fails where something is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from signal_manager.protocol.catalogue import ROOM_EVENTS, SIGNAL_TYPES, SPECS, Handling
from signal_manager.protocol.messages import MessageType, Peer, RoomEvent
from signal_manager.rooms.chronicle import Happening
from signal_manager.router import check_handlers
from tools.protocol.__main__ import made
from tools.protocol.asyncapi import document
from tools.protocol.proto import schema


def test_every_message_type_has_a_row() -> None:
    assert set(SPECS) == set(MessageType)


def test_every_request_has_an_answer_that_the_service_sends() -> None:
    for spec in SPECS.values():
        if spec.handling is Handling.REQUEST:
            assert spec.answered_by is not None
            assert SPECS[spec.answered_by].sent_by is Peer.SERVICE


def test_signals_are_a_run_of_bytes_as_the_relay_path_assumes() -> None:
    assert sorted(SIGNAL_TYPES) == list(range(min(SIGNAL_TYPES), max(SIGNAL_TYPES) + 1))


def test_a_request_without_a_handler_is_refused() -> None:
    with pytest.raises(TypeError, match=r"requests without a handler: .*RoomJoin"):
        check_handlers(SPECS.values(), {})


def test_a_handler_without_a_request_is_refused() -> None:
    requests = {spec.struct for spec in SPECS.values() if spec.handling is Handling.REQUEST}

    with pytest.raises(TypeError, match="no requests: RoomEvent, TokenRenew"):
        check_handlers(SPECS.values(), requests | {RoomEvent})


def test_the_service_tells_the_room_events_that_are_documented() -> None:
    assert set(get_args(Happening)) == set(ROOM_EVENTS)


def test_what_follows_from_the_catalogue_is_up_to_date() -> None:
    top = Path(__file__).parents[2]

    stale = [str(path) for path, text in made(top).items() if (top / path).read_text(encoding="utf-8") != text]

    assert stale == [], "run `make protocol`"


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    whole = yaml.safe_load(document())

    references = set(re.findall(r"\$ref: '#/([^']+)'", document()))

    for reference in references:
        part = whole
        for step in reference.split("/"):
            part = part[step]
    assert {each["action"] for each in whole["operations"].values()} == {"send", "receive"}


def test_a_protobuf_number_is_never_given_twice() -> None:
    present = "message TrackMid {\n  optional string name = 1;\n  optional string mid = 3;\n}\n"

    assert "message TrackMid {\n  reserved 1;\n  optional string mid = 3;\n}" in schema(present)
    assert "message TrackMid {\n  reserved 1;\n  optional string mid = 3;\n}" in schema(schema(present))
