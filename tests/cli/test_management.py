"""The commands that manage a running service, against the second port of one."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from signal_manager.cli import main as cli
from signal_manager.model import ClientId, SessionId
from tests.admin.fakes import FakeSession
from tests.admin.harness import AdminHarness, opened
from tests.rooms.harness import ROOM


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def admin_harness() -> AsyncIterator[AdminHarness]:
    async with opened() as admin_harness:
        yield admin_harness


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """Run the command line beside the service, whose log is kept out of it, in an empty folder without variables."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SIGNAL_MANAGER_"):
            monkeypatch.delenv(name)

    async def run(*arguments: str) -> Result:
        capsys.readouterr()
        status = await asyncio.to_thread(cli._exit_status, list(arguments))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    with capture_logs():
        yield run


def connect(admin_harness: AdminHarness, *names: str) -> list[FakeSession]:
    sessions = [FakeSession(ClientId(name), SessionId(f"session-of-{name}")) for name in names]
    admin_harness.live_sessions.connected += sessions
    return sessions


def assert_one_error(result: Result, status: int, *messages: str) -> None:
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for message in messages:
        assert message in result.err


async def test_sessions_are_a_table_for_people(admin_harness: AdminHarness, run: Run) -> None:
    _, bob = connect(admin_harness, "alice", "bob")
    bob.is_away = True

    status, out, err = await run("sessions", "--url", admin_harness.url)

    assert (status, err) == (0, "")
    head, *rows = (line.split() for line in out.splitlines())
    assert head == ["client", "session", "state", "room", "address", "protocol", "age", "received", "sent"]
    assert rows == [
        ["alice", "session-of-alice", "connected", "-", "192.0.2.7", "v1", "json", "1m", "3", "4"],
        ["bob", "session-of-bob", "away", "-", "192.0.2.7", "v1", "json", "1m", "3", "4"],
    ]


async def test_sessions_are_json_for_scripts(admin_harness: AdminHarness, run: Run) -> None:
    connect(admin_harness, "alice", "alina", "bob")

    found = json.loads((await run("sessions", "--url", admin_harness.url, "--contains", "ali", "--json")).out)
    one = json.loads((await run("sessions", "session-of-bob", "--url", admin_harness.url, "--json")).out)

    assert [item["client_id"] for item in found["items"]] == ["alice", "alina"]
    assert found["next"] is None
    assert one["client_id"] == "bob"


async def test_a_list_goes_on_where_it_ended(admin_harness: AdminHarness, run: Run) -> None:
    connect(admin_harness, *"abcde")

    first = await run("sessions", "--url", admin_harness.url, "--limit", "2")
    place = first.err.removeprefix("more: --after ").split(",")[0]
    rest = await run("sessions", "--url", admin_harness.url, "--after", place)

    assert [line.split()[0] for line in (first.out + rest.out).splitlines()] == [
        "client", "a", "b", "client", "c", "d", "e",
    ]  # fmt: skip
    assert rest.err == ""


async def test_pages_that_hold_little_are_followed(
    admin_harness: AdminHarness, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.admin.lists._READS", 1)
    monkeypatch.setattr("signal_manager.cli.management.LARGEST_PAGE", 2)
    for number in range(7):
        await admin_harness.harness.register(f"client-{number}")

    found = await run("clients", "--url", admin_harness.url, "--contains", "-6", "--json")
    everybody = await run("clients", "--url", admin_harness.url, "--all", "--json")

    assert [item["client_id"] for item in json.loads(found.out)["items"]] == ["client-6"]
    assert len(json.loads(everybody.out)["items"]) == 7


async def test_clients_and_rooms_are_filtered_by_their_state(admin_harness: AdminHarness, run: Run) -> None:
    await admin_harness.harness.register("away")
    connect(admin_harness, "here")
    await admin_harness.harness.client("alice").create()
    await admin_harness.harness.client("carol").create("over")
    await admin_harness.harness.rooms.close((await admin_harness.harness.room("over")).room_id, "lunch")

    assert (await run("clients", "--url", admin_harness.url, "--connected")).out.splitlines()[1].split()[0] == "here"
    assert "here" not in (await run("clients", "--url", admin_harness.url, "--not-connected")).out
    assert ROOM in (await run("rooms", "--url", admin_harness.url, "--active")).out
    assert "closed: lunch" in (await run("rooms", "--url", admin_harness.url, "--closed")).out


async def test_nothing_to_list_is_said_beside_the_result(admin_harness: AdminHarness, run: Run) -> None:
    assert await run("rooms", "--url", admin_harness.url) == (0, "", "none: no rooms like that\n")


async def test_a_room_is_shown_with_who_is_in_it(admin_harness: AdminHarness, run: Run) -> None:
    await admin_harness.harness.client("alice").create()
    await admin_harness.harness.settled()

    out = (await run("rooms", ROOM, "--url", admin_harness.url)).out

    assert out.splitlines()[0].split() == ["room", ROOM]
    assert out.splitlines()[-1].split()[:2] == ["alice", "sender"]
    assert out.splitlines()[-1].split()[-1] == "camera"


async def test_a_client_is_shown_with_its_sessions(admin_harness: AdminHarness, run: Run) -> None:
    await admin_harness.harness.register("alice")
    connect(admin_harness, "alice")

    out = (await run("clients", "alice", "--url", admin_harness.url)).out

    assert "connected     yes\n" in out
    assert "session-of-alice" in out


async def test_a_client_is_kicked(admin_harness: AdminHarness, run: Run) -> None:
    alice, bob = connect(admin_harness, "alice", "bob")

    assert await run("kick", "alice", "--url", admin_harness.url) == (0, "alice disconnected, connections: 1\n", "")
    assert (alice.is_evicted, bob.is_evicted) == (True, False)
    assert json.loads((await run("kick", "bob", "--url", admin_harness.url, "--json")).out) == {"ended": 1}


async def test_a_client_is_taken_out_of_a_room_and_the_room_closed(admin_harness: AdminHarness, run: Run) -> None:
    alice, bob = admin_harness.harness.client("alice"), admin_harness.harness.client("bob")
    await alice.create()
    await bob.join()

    kicked = await run("kick", "alice", "--room", ROOM, "--url", admin_harness.url)
    closed = await run("close-room", ROOM, "--reason", "lunch", "--url", admin_harness.url)

    assert kicked.out == f"alice removed from room {ROOM}\n"
    assert closed.out == f"room {ROOM} closed\n"
    await admin_harness.harness.settled()
    assert bob.told("participant_left", of="alice")
    assert (bob.events[-1].event, bob.events[-1].reason) == ("room_closed", "lunch")


async def test_metadata_of_a_room_and_of_a_member_are_replaced(admin_harness: AdminHarness, run: Run) -> None:
    alice = admin_harness.harness.client("alice")
    await alice.create()

    of_room = await run("set-metadata", ROOM, '{"topic": "soup"}', "--url", admin_harness.url)
    of_member = await run("set-metadata", ROOM, '{"name": "Al"}', "--member", "alice", "--url", admin_harness.url)

    assert of_room.out == f"metadata of {ROOM} replaced\n"
    assert of_member.out == f"metadata of alice in {ROOM} replaced\n"
    room = await admin_harness.harness.room()
    assert (room.metadata["topic"], room.participants[0].metadata) == ("soup", {"name": "Al"})


async def test_what_the_service_refuses_is_one_line_and_status_1(admin_harness: AdminHarness, run: Run) -> None:
    for arguments, message in {
        ("kick", "nobody"): "client nobody is not connected",
        ("clients", "nobody"): "no such client: nobody",
        ("rooms", "nowhere"): "no such room: nowhere",
        ("sessions", "none"): "no such session: none",
        ("close-room", "nowhere"): "nowhere",
        ("rooms", "--after", "x" * 301): "after",
    }.items():
        assert_one_error(await run(*arguments, "--url", admin_harness.url), 1, message)


async def test_the_token_comes_from_the_option_or_the_configuration(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with opened(token="let me in") as admin_harness:
        connect(admin_harness, "alice")
        refused = await run("sessions", "--url", admin_harness.url)
        by_option = await run("sessions", "--url", admin_harness.url, "--token", "let me in")
        monkeypatch.setenv("SIGNAL_MANAGER_ADMIN_TOKEN", "let me in")
        by_variable = await run("sessions", "--url", admin_harness.url)
        monkeypatch.delenv("SIGNAL_MANAGER_ADMIN_TOKEN")
        file = tmp_path / "its.toml"
        file.write_text(f'[metrics]\nport = {admin_harness.server.port}\n[admin]\ntoken = "let me in"\n')
        by_file = await run("sessions", "--config", str(file))

    assert_one_error(refused, 2, "not allowed", "--token", "SIGNAL_MANAGER_ADMIN_TOKEN")
    assert by_option.out == by_variable.out == by_file.out
    assert "alice" in by_option.out


async def test_a_service_that_does_not_run_is_told_so(run: Run, unused_tcp_port: int) -> None:
    result = await run("rooms", "--url", f"http://127.0.0.1:{unused_tcp_port}")

    assert_one_error(result, 2, f"nothing answers at http://127.0.0.1:{unused_tcp_port}", "--url")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"SSH-2.0-nonsense\r\n"])
async def test_another_program_at_the_address_is_told_so(run: Run, answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert_one_error(await run("rooms", "--url", f"http://127.0.0.1:{port}"), 2, f"at http://127.0.0.1:{port}")


async def test_a_wrong_path_is_no_interface(admin_harness: AdminHarness, run: Run) -> None:
    assert_one_error(await run("rooms", "--url", f"{admin_harness.url}/elsewhere"), 2, "no management interface")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rooms", "--url", "ws://127.0.0.1:8080"), "http://HOST:PORT"),
        (("rooms", "--url", "127.0.0.1"), "http://HOST:PORT"),
        (("rooms", "--url", "http://[::1"), "--url"),
        (("rooms", "--url", "http://127.0.0.1:99999999"), "--url"),
        (("rooms", "--url", "http://127.0.0.1:1", "--token", "a\nb"), "--token"),
        (("rooms", "--url", "http://127.0.0.1:1", "--token", "ü"), "--token"),
        (("kick", "../rooms"), "CLIENT"),
        (("close-room", ".."), "ROOM"),
        (("set-metadata", "lunch", "soup"), "expected a JSON object as metadata"),
        (("set-metadata", "lunch", "[]"), "expected a JSON object as metadata"),
        (("rooms", "--limit", "0"), "--limit"),
    ],
)
async def test_what_a_person_did_wrong_is_one_line_and_status_2(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    assert_one_error(await run(*arguments), 2, message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[admin]\nenabled = false", "admin.enabled"),
        ("[metrics]\nenabled = false", "metrics.enabled"),
        ("[metrics]\nport = 0", "metrics.port is 0"),
    ],
)
async def test_a_configuration_without_the_interface_asks_for_an_address(
    run: Run, tmp_path: Path, settings: str, message: str
) -> None:
    (tmp_path / "config.toml").write_text(settings)

    assert_one_error(await run("rooms"), 2, message, "--url")


async def test_a_service_that_listens_everywhere_is_called_on_this_machine(
    admin_harness: AdminHarness, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(
        f'[metrics]\nhost = "0.0.0.0"\nport = {admin_harness.server.port}\n[admin]\ntoken = "any"\n'
    )

    assert (await run("rooms")).status == 0


@pytest.mark.parametrize("command", ["rooms", "clients", "sessions", "kick", "close-room"])
async def test_help_teaches_by_examples(run: Run, command: str) -> None:
    status, out, err = await run(command, "--help")

    assert (status, err) == (0, "")
    assert f"signal-manager {command}" in out.split("Examples", 1)[1]


async def test_what_a_peer_chose_cannot_command_the_terminal(admin_harness: AdminHarness, run: Run) -> None:
    (session,) = connect(admin_harness, "alice")
    session.address = "evil\x1b[2J\nalice"

    for arguments in (("sessions",), ("sessions", "session-of-alice")):
        out = (await run(*arguments, "--url", admin_harness.url)).out
        assert "evil\\x1b[2J\\nalice" in out
        assert "\x1b" not in out


def test_any_answer_of_a_strange_service_can_be_shown() -> None:
    from signal_manager.cli import management as commands

    strange: list[dict[str, Any]] = [{}, {"age": None, "is_active": None, "tracks": None, "created_at": "never"}]
    for columns in (commands._SESSIONS, commands._CLIENT, commands._ROOM, commands._MEMBERS, commands._TRACKS):
        for item in strange:
            assert all(isinstance(cell, str) for cell in commands._cells(item, columns))
