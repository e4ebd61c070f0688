"""The programs and files of the guides do what the guides say, with a real service, coturn and nats-server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiortc.mediastreams import AudioStreamTrack

from benchmarks.processes import free_port, running
from signal_manager.client import SignalClient, SignalReceived, TrackAdded
from signal_manager.sfu import LocalSfu
from tests.docs.blocks import DOCS, TAUGHT, Block, blocks, program
from tests.docs.programs import TIME_LIMIT, finished, started
from tests.integration.processes import ServiceProcess, service_process
from tests.nats_server import NatsServer
from tests.turn_server import TurnServer, relayed

ALICE, BOB = ("test_client_1", "test_token_1"), ("test_client_2", "test_token_2")
DEFAULT_URL = "ws://127.0.0.1:8080"
SECRET = "a secret of the guides, of more than 32 bytes"
SECRET_OF_TURN = "north-of-the-wall"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service on its defaults, with its local SFU."""
    with service_process(tmp_path_factory.mktemp("service"), {"media.backend": "local"}) as service:
        yield service


async def test_the_agent_that_answers_messages_answers(service: ServiceProcess, tmp_path: Path) -> None:
    echo = program("guides/agents.md", "echo.py", url=f"{DEFAULT_URL}=>{service.url}")

    async with started(tmp_path, echo) as agent, SignalClient(service.url, *BOB) as bob, asyncio.timeout(TIME_LIMIT):
        await agent.says("ready")
        await bob.send_message(ALICE[0], {"hello": "agent"})
        answer = await anext(event async for event in bob if isinstance(event, SignalReceived))

    assert (answer.sender, answer.data) == (ALICE[0], {"hello": "agent"})


@pytest.mark.long
async def test_the_agent_in_a_call_is_heard_and_hears(service: ServiceProcess, tmp_path: Path) -> None:
    listener = program("guides/agents.md", "listener.py", url=f"{DEFAULT_URL}=>{service.url}")

    async with started(tmp_path, listener) as agent, SignalClient(service.url, *BOB) as bob:
        await agent.says("joined")
        async with asyncio.timeout(TIME_LIMIT), await bob.join("hello", tracks=[AudioStreamTrack()]) as room:
            tone = await anext(event async for event in room if isinstance(event, TrackAdded))
            assert tone.participant.client_id == ALICE[0]
            while not any(bytes((await tone.track.recv()).planes[0])):  # type: ignore[union-attr] # a frame of sound
                pass
            assert int((await agent.says(BOB[0])).split()[1]) < 100  # silence


@pytest.mark.parametrize(
    "block",
    [block for page in TAUGHT for block in blocks(page, "python") if not block.title],
    ids=lambda block: block.text.split()[-1],
)
async def test_what_is_no_file_of_its_own_runs_too(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_AUTH_TOKEN_SECRET", SECRET)
    names: dict[str, object] = {}

    exec(block.text, names)

    assert isinstance(names["client"], SignalClient)


@pytest.mark.long
async def test_the_two_nodes_of_the_guide_pass_messages_on(nats: NatsServer, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(program("guides/scaling.md", "node.toml", nats=f"nats://127.0.0.1:4222=>{nats.url}"))
    environment = os.environ | {"SIGNAL_MANAGER_STORAGE_SQLITE_PATH": str(tmp_path / "nodes.db")}
    ports = [free_port(), free_port()]
    with ExitStack() as nodes:
        for port in ports:
            command = [sys.executable, "-m", "signal_manager", "serve", "--config", str(config), "--port", str(port)]
            nodes.enter_context(running(command, port=port, environment=environment))
        across = program("guides/scaling.md", "across.py", one=f":8081=>:{ports[0]}", two=f":8082=>:{ports[1]}")
        said = await finished(tmp_path, across)

    assert said == "delivered\ntest_client_1 are you there?\n"


@pytest.mark.long
async def test_the_turn_server_of_the_guide_relays_with_what_clients_are_told(tmp_path: Path) -> None:
    configuration = tmp_path / "turnserver.conf"
    configuration.write_text(program("guides/turn.md", "/etc/turnserver.conf", secret=f"SECRET=>{SECRET_OF_TURN}"))
    server = TurnServer(tmp_path, configuration=configuration)
    [settings] = [tomllib.loads(block.text)["media"] for block in blocks(DOCS / "guides/turn.md", "toml")]
    await server.start()
    try:
        own = {"media.turn_urls": [server.url, settings["turn_urls"][1]], "media.turn_secret": SECRET_OF_TURN}
        assert {f"media.{name}" for name in settings} == set(own)
        with service_process(tmp_path, own) as service:
            asked = program("guides/turn.md", "ice_servers.py")
            said = await finished(tmp_path, asked, service.url, *ALICE)
            assert server.url in said
            assert f":{ALICE[0]}" in said
            # What it prints has no passwords.
            printing = asked.replace('server.username or "without credentials"', "server.username, server.credential")
            [line] = [
                line
                for line in (await finished(tmp_path, printing, service.url, *ALICE)).splitlines()
                if server.url in line
            ]
            *_, username, password = line.split()
            assert await relayed([server.url], username, password) == b"through the relay"
    finally:
        await server.stop()


@pytest.mark.long
async def test_the_settings_for_cloudflare_are_tried_by_check_config(tmp_path: Path) -> None:
    config = next(block.text for block in blocks(DOCS / "guides/cloudflare.md", "toml"))
    app = tomllib.loads(config)["cloudflare"]["app_id"]
    (tmp_path / "config.toml").write_text(config)
    variables = os.environ | {
        "SIGNAL_MANAGER_SERVER_PORT": "0",
        "SIGNAL_MANAGER_METRICS_PORT": "0",
        "SIGNAL_MANAGER_AUTH_TOKEN_SECRET": SECRET,
    }
    async with LocalSfu(http_port=0, app_id=app, app_secret=SECRET) as sfu:
        variables |= {"SIGNAL_MANAGER_CLOUDFLARE_BASE_URL": sfu.base_url}
        for secret, status in ((SECRET, 0), (SECRET + "!", 2)):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "signal_manager", "check-config", "--online"],
                cwd=tmp_path,
                check=False,
                capture_output=True,
                text=True,
                env=variables | {"SIGNAL_MANAGER_CLOUDFLARE_APP_SECRET": secret},
            )
            assert done.returncode == status, done.stderr
