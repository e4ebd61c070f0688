"""The documentation holds together: links, code, settings, commands, and what public names say of themselves."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from signal_manager import client
from signal_manager.cli.main import application
from signal_manager.observe.metrics import Metrics
from signal_manager.service.config import Config
from tests.docs.blocks import DOCS, TAUGHT, blocks
from tools.docs import pages
from tools.docs.public import undocumented

ROOT = DOCS.parent
SDK = ROOT / "sdk/js"
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = sorted(DOCS.rglob("*.md"))


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page as GitHub makes them."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_site_has_every_page() -> None:
    class Loader(yaml.SafeLoader):
        """Passes over what only MkDocs can read."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    listed = set(re.findall(r"[\w/-]+\.md", json.dumps(site["nav"])))

    written = {name_of(page) for page in PAGES if not name_of(page).startswith("adr/")}
    assert listed == written | set(pages.PAGES)


def test_every_public_name_of_the_python_sdk_says_something_and_is_in_the_reference() -> None:
    page = (DOCS / "reference/python.md").read_text()

    assert list(undocumented(client)) == []
    assert re.findall(r"^::: signal_manager\.client\.(\w+)$", page, re.MULTILINE)
    assert set(re.findall(r"^::: signal_manager\.client\.(\w+)$", page, re.MULTILINE)) == set(client.__all__)


def test_a_name_that_says_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "__all__", [*client.__all__, "silent"])
    monkeypatch.setattr(client, "silent", 1, raising=False)
    monkeypatch.setattr(client.SignalClient.close, "__doc__", None)

    assert list(undocumented(client)) == ["SignalClient.close", "silent"]


@pytest.mark.long
@pytest.mark.skipif(not (SDK / "node_modules/typedoc").exists(), reason="TypeDoc is not installed: make test-js")
def test_every_public_name_of_the_browser_sdk_says_something() -> None:
    """And every type that it uses can be imported."""
    done = subprocess.run(
        [str(shutil.which("npx")), "typedoc", "--emit", "none"], cwd=SDK, check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


# What the blocks of the browser SDK's README take for granted.
GLOBALS = """
declare const token: string;
declare const fetchToken: () => Promise<string>;
declare const client: import("{sdk}/src/index.js").SignalClient;
declare const room: import("{sdk}/src/index.js").Room;
declare const publication: import("{sdk}/src/index.js").Publication;
declare const camera: MediaStream;
declare const video: HTMLVideoElement;
declare const openMyTrack: () => Promise<MediaStreamTrack>;
"""


@pytest.mark.long
@pytest.mark.skipif(not (SDK / "node_modules/typescript").exists(), reason="TypeScript is not installed: make test-js")
def test_javascript_of_the_browser_sdk_s_readme_has_the_right_types(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "globals.d.ts").write_text(GLOBALS.replace("{sdk}", str(SDK)))
    found = blocks(SDK / "README.md", "js")
    for number, block in enumerate(found):
        text = re.sub(r'from "\./(\w[\w-]*)\.js"', rf'from "{SDK}/src/\1.js"', block.text)
        text = text.replace("/src/signal-manager.js", "/src/index.js")
        (tmp_path / f"block{number}.ts").write_text(f"{text}\nexport {{}};\n")
    options = {"noEmit": True, "strict": True, "target": "es2022", "module": "nodenext", "types": []}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))

    done = subprocess.run(
        [str(SDK / "node_modules/.bin/tsc"), "-p", str(tmp_path)], check=False, capture_output=True, text=True
    )

    assert found
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", TAUGHT, ids=name_of)
def test_python_is_python_and_its_imports_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for statement in ast.walk(ast.parse(block.text)):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                module = import_module(statement.module)
                assert all(hasattr(module, each.name) for each in statement.names), block.text


@pytest.mark.parametrize("page", TAUGHT, ids=name_of)
def test_settings_exist_and_agree(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(page, "toml"):
        Config.model_validate(tomllib.loads(block.text), context={"even_if_contradictory": True})


@pytest.mark.parametrize("page", [*TAUGHT, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    group: Any = typer.main.get_command(application)
    for block in blocks(page, "console"):
        for line in re.findall(r"(?:^\$ |\| |/|\()(signal-manager [a-z][^|;&)]*)", block.text, re.MULTILINE):
            words = line.split()
            command = group.commands[words[1]]
            options = {name for each in command.params for name in each.opts}
            used = {word.partition("=")[0] for word in words[2:] if word.startswith("-") and word != "-"}
            assert used <= options, line


def test_the_reference_is_made_from_what_there_is() -> None:
    commands, settings, metrics = pages.command_line(), pages.configuration(), pages.metrics()

    group: Any = typer.main.get_command(application)
    assert all(f"\n## signal-manager {name}\n" in commands for name in group.commands)
    assert "\n### signal-manager storage check\n" in commands
    assert "--ttl DURATION" in commands
    for section, field in Config.model_fields.items():
        assert f"\n## {section}\n" in settings
        kind: Any = field.annotation
        for key, each in kind.model_fields.items():
            assert each.description, f"{section}.{key}"
            assert f"| `{key}` |" in settings
    assert "| `port` | `8080` | Port to listen on; 0 lets the system choose one. |" in settings
    assert all(f"`{family.read().name}" in metrics for family in Metrics().families())
    assert "| `signal_manager_storage_calls_total` | counter | `operation`, `outcome` |" in metrics
    assert "`sfu_packets_forwarded_total`" in metrics


def test_make_docs_is_strict() -> None:
    """With `--quiet` MkDocs counts no warnings, and fails for none."""
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs:")[2].partition("\n\n")[0]
    [build] = [line for line in recipe.splitlines() if "mkdocs build" in line]

    assert "--strict" in build.split()
    assert not {"--quiet", "-q"} & set(build.split())
