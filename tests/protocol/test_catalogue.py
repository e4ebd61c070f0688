"""The catalogue is whole, and what is derived from it fails where something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from signal_manager.gateway.dispatcher import check_handlers
from signal_manager.protocol.catalogue import ROOM_EVENTS, SIGNAL_TYPES, SPECS, Handling
from signal_manager.protocol.messages import MessageType, Peer, RoomEvent
from signal_manager.rooms.room_log import Happening
from tools.protocol.__main__ import made
from tools.protocol.asyncapi import document
from tools.protocol.proto import schema

_TOP = Path(__file__).parents[2]
_DISPATCHER = "src/signal_manager/gateway/dispatcher.py"


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
    stale = [str(path) for path, text in made(_TOP).items() if (_TOP / path).read_text(encoding="utf-8") != text]

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


@pytest.mark.long
def test_a_new_message_type_is_written_in_four_files(tmp_path: Path) -> None:
    """A struct, a row, a handler and a vector: everything else follows, in every payload type."""
    for folder in ("src", "tools", "docs", "sdk/js/src"):
        shutil.copytree(_TOP / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    changes = {
        "src/signal_manager/protocol/messages.py": [
            ("    ERROR = 0xFF\n", "    PARTICIPANT_POKE = 0x4E\n    PARTICIPANT_POKE_ACK = 0x4F\n    ERROR = 0xFF\n"),
            ("\nclass ErrorMessage(", _POKE),
        ],
        "src/signal_manager/protocol/catalogue.py": [
            ("    Peer,\n", "    ParticipantPoke,\n    ParticipantPokeAck,\n    Peer,\n"),
            (
                "        _told(MessageType.ERROR,",
                "        _request(MessageType.PARTICIPANT_POKE, ParticipantPoke, None),\n"
                "        _told(MessageType.PARTICIPANT_POKE_ACK, ParticipantPokeAck, None),\n"
                "        _told(MessageType.ERROR,",
            ),
        ],
        _DISPATCHER: [
            ("    MetadataUpdate,\n", "    MetadataUpdate,\n    ParticipantPoke,\n    ParticipantPokeAck,\n"),
            ("] = {\n    Register:", "] = {\n    ParticipantPoke: _poke,\n    Register:"),
            ("\n_HANDLERS:", "\n" + _HANDLER + "\n_HANDLERS:"),
        ],
        "docs/vectors.json": [('  "frames": [\n', '  "frames": [\n' + _VECTOR)],
    }
    for file, edits in changes.items():
        text = (tmp_path / file).read_text(encoding="utf-8")
        for before, after in edits:
            assert text.count(before) == 1, (file, before)
            text = text.replace(before, after)
        (tmp_path / file).write_text(text, encoding="utf-8")

    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'src'}{os.pathsep}{tmp_path}"}
    told = subprocess.run(
        [sys.executable, "-m", "tools.protocol"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    subprocess.run([sys.executable, "-c", _TRY], cwd=tmp_path, env=environment, check=True)

    assert len(changes) == 4
    written = set(re.findall(r"^wrote (.*)$", told.stdout, re.MULTILINE))
    assert written >= {"docs/protocol.md", "docs/asyncapi.yaml", "sdk/js/src/messages.ts", "sdk/js/src/rules.ts"}
    assert "PARTICIPANT_POKE: 0x4e" in (tmp_path / "sdk/js/src/messages.ts").read_text(encoding="utf-8")


_POKE = '''
class ParticipantPoke(Request, frozen=True, kw_only=True):
    """Ask for a member's attention."""

    room_id: Name
    force: Uint16 = 1


class ParticipantPokeAck(Message, frozen=True, kw_only=True):
    """The member has been poked."""

    status: StatusCode


class ErrorMessage('''

_HANDLER = """
async def _poke(router: Router, caller: Caller, request: ParticipantPoke) -> Message:
    return ParticipantPokeAck(status=200)

"""

_VECTOR = """    {
      "name": "participant poke",
      "framing": "json",
      "sent_by": "client",
      "canonical": false,
      "text": "{\\"type\\":\\"PARTICIPANT_POKE\\",\\"payload\\":{\\"room_id\\":\\"r\\"}}",
      "message": {"type": "PARTICIPANT_POKE"}
    },
"""

_TRY = """
import json, signal_manager
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.messages import MessageType, ParticipantPoke, PayloadType, Peer, Shape
import ROUTER

assert json.load(open("docs/vectors.json"))["frames"][0]["name"] == "participant poke"
poke = ParticipantPoke(room_id="r", force=3)
for payload_type in (PayloadType.JSON, PayloadType.CBOR, PayloadType.PROTOBUF):
    written, payload = encode_payload(poke, payload_type, Shape.PLAIN, sent_by=Peer.CLIENT)
    assert decode_payload(MessageType.PARTICIPANT_POKE, written, payload, sent_by=Peer.CLIENT).message == poke
""".replace("ROUTER", _DISPATCHER.removeprefix("src/").removesuffix(".py").replace("/", "."))
