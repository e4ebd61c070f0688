"""The tutorial, step by step: its token endpoint, its page in Chromium, and its program, in one call."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from benchmarks.processes import running
from tests.docs.blocks import program
from tests.docs.programs import started
from tests.e2e.conftest import CHROMIUM
from tests.e2e.service import TIME_LIMIT, context_of, free_ports

PAGE = "tutorial.md"
DEFAULT_URL = "ws://127.0.0.1:8080"
SECRET = {"SIGNAL_MANAGER_AUTH_TOKEN_SECRET": "what openssl rand prints, for this test alone"}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Step 1: the service, with a secret and nothing else that is set but its ports and its file."""
    port, admin_port = free_ports(2)
    own = {
        "SIGNAL_MANAGER_METRICS_PORT": str(admin_port),
        "SIGNAL_MANAGER_STORAGE_SQLITE_PATH": str(tmp_path_factory.mktemp("service") / "service.db"),
    }
    command = [sys.executable, "-m", "signal_manager", "serve", "--port", str(port)]
    with running(command, port=port, environment=os.environ | SECRET | own):
        yield f"ws://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path], url: str) -> Path:
    """Steps 2 to 4: the folder that the reader makes."""
    folder = tmp_path_factory.mktemp("call")
    for file in bundles:
        shutil.copy(file, folder)
    (folder / "index.html").write_text(program(PAGE, "index.html", service=f"{DEFAULT_URL}=>{url}"))
    return folder


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[str]:
    """Step 5: the token endpoint, which serves the page."""
    [port] = free_ports(1)
    file = folder / "token_server.py"
    file.write_text(program(PAGE, "token_server.py", port=f"PORT = 8000=>PORT = {port}"))
    start = f"import os, runpy; os.chdir({str(folder)!r}); runpy.run_path('token_server.py', run_name='__main__')"
    with running([sys.executable, "-c", start], port=port, environment=os.environ | SECRET):
        yield f"http://127.0.0.1:{port}"


@pytest_asyncio.fixture(loop_scope="module")
async def visitors(browser: Browser, home: str) -> AsyncIterator[dict[str, Page]]:
    """Alice and Bob, each in a window of their own, in the call."""
    async with AsyncExitStack() as windows:
        pages = {}
        for name in ("alice", "bob"):
            context = await context_of(browser)
            windows.push_async_callback(context.close)
            page = pages[name] = await context.new_page()
            await page.goto(home)
            await page.fill("#name", name)
            await page.click("text=Join")
        yield pages


async def sees(page: Page, name: str) -> None:
    """Wait until pictures of a member have come."""
    playing = f"document.querySelector('[data-name={name}] video')?.currentTime > 0.2"
    await page.wait_for_function(playing, timeout=TIME_LIMIT * 1000)


@pytest.mark.long
async def test_two_windows_and_a_program_meet(visitors: dict[str, Page], folder: Path, url: str) -> None:
    alice, bob = visitors["alice"], visitors["bob"]
    for page in (alice, bob):
        await page.wait_for_function("document.querySelector('#state').textContent === 'in the kitchen'")
        for name in visitors:
            await sees(page, name)

    doorkeeper = program(PAGE, "doorkeeper.py", service=f"{DEFAULT_URL}=>{url}")
    async with started(folder, doorkeeper, environment=SECRET) as program_at_the_door:
        await program_at_the_door.says("at the door")
        await program_at_the_door.says("bob sends video")
        await bob.close(run_before_unload=True)
        await program_at_the_door.says("bob left")
    await alice.wait_for_function("!document.querySelector('[data-name=bob]')")


@pytest.mark.long
async def test_the_endpoint_gives_tokens_and_the_page_and_nothing_else(home: str) -> None:
    async with httpx.AsyncClient(base_url=home, trust_env=False) as http:
        assert (await http.post("/token", content="alice")).json()["token"].count(".") == 2
        assert (await http.post("/token", content="../alice")).status_code == 403
        assert (await http.post("/", content="alice")).status_code == 403
        assert (await http.get("/signal-manager.js")).status_code == 200
        for path in ("/token_server.py", "/%2e%2e/", "/..%2f..%2fetc/passwd"):
            assert (await http.get(path)).status_code == 404
