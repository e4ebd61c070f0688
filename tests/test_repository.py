"""What surrounds the code fits together: versions, links, workflows, decisions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuzz.targets import TARGETS
from signal_manager import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
HOME = "https://github.com/signal-manager/signal-manager"
LINK = re.compile(r"\]\(([^)\s]+)\)")

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")


def test_every_package_has_the_one_version() -> None:
    package = json.loads((ROOT / "sdk/js/package.json").read_text())

    assert package["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_both_packages_say_where_they_come_from_and_have_the_licence() -> None:
    package = json.loads((ROOT / "sdk/js/package.json").read_text())

    for folder in (".", "packages/client", "packages/sfu"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        assert all(url.startswith(HOME) for url in project["urls"].values())
    assert package["homepage"].startswith(HOME)
    assert package["repository"] == {"type": "git", "url": f"git+{HOME}.git", "directory": "sdk/js"}
    assert (ROOT / "sdk/js/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    "name", ["README.md", "sdk/js/README.md", "packages/client/README.md", "packages/sfu/README.md"]
)
def test_a_page_that_registries_show_has_absolute_links_and_they_lead_somewhere(name: str) -> None:
    links = LINK.findall((ROOT / name).read_text())

    assert links
    for link in links:
        assert link.startswith(("https://", "#")), link
        found = re.match(rf"{HOME}/(?:blob|tree)/main/([^#?]+)", link)
        assert found is None or (ROOT / found[1]).exists(), link


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "docs/adr/README.md"])
def test_other_pages_link_to_what_is_there(name: str) -> None:
    page = ROOT / name

    for link in LINK.findall(page.read_text()):
        if not link.startswith("https://"):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_decision_is_listed_and_says_what_it_costs() -> None:
    folder = ROOT / "docs/adr"
    listed = LINK.findall((folder / "README.md").read_text())

    records = sorted(path.name for path in folder.glob("0*.md"))
    assert listed == records
    assert len(records) >= 10
    for name in records:
        headings = re.findall(r"^## (.+)$", (folder / name).read_text(), re.MULTILINE)
        assert headings == ["Situation", "Decision", "What it costs", "What was looked at instead"], name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_no_more_than_it_says(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for name, job in workflow["jobs"].items() if name not in PUBLISHING)


# They only upload what another job has built.
PUBLISHING = {"python", "npm", "notes"}


def test_every_target_is_fuzzed_every_night() -> None:
    assert workflow("fuzz")["jobs"]["fuzz"]["strategy"]["matrix"]["target"] == list(TARGETS)


def test_every_supported_python_is_tested_and_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))

    assert workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


def test_a_release_is_what_was_checked_and_needs_no_token() -> None:
    jobs = workflow("release")["jobs"]

    assert any("make release-check" in step.get("run", "") for step in jobs["build"]["steps"])
    for name, needs in (("python", ["build", "wheels"]), ("npm", "build")):
        assert jobs[name]["needs"] == needs
        assert jobs[name]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_documentation_is_published_as_it_is_built_strictly() -> None:
    jobs = workflow("pages")["jobs"]

    assert any("make docs" in step.get("run", "") for step in jobs["build"]["steps"])
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


@pytest.mark.parametrize(
    "name",
    [
        ".github/dependabot.yml",
        ".pre-commit-config.yaml",
        *(f".github/ISSUE_TEMPLATE/{each}.yml" for each in ("bug", "config", "feature")),
    ],
)
def test_other_settings_of_the_repository_are_yaml(name: str) -> None:
    assert yaml.safe_load((ROOT / name).read_text())


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = ("ruff", "mypy", "lint-imports", "codespell", "python")
    entries = {hook["entry"].split()[0] for hook in hooks}
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]

    assert {f".venv/bin/{tool}" for tool in tools} <= entries
    assert all(f"$(BIN)/{tool}" in recipe for tool in tools)


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_finds_nothing() -> None:
    ended = subprocess.run(
        ["actionlint", "-color=false", *map(str, WORKFLOWS)], check=False, cwd=ROOT, capture_output=True, text=True
    )

    assert ended.returncode == 0, ended.stdout


def test_the_sdk_s_old_entry_points_are_the_new_ones() -> None:
    """Tools that do not read `exports` find the same files by folders of the same names."""
    package = json.loads((ROOT / "sdk/js/package.json").read_text())

    assert package["main"] == package["exports"]["."]["default"]
    assert package["types"] == package["exports"]["."]["types"]
    for name in ("devices", "direct", "speakers", "stats"):
        stub = json.loads((ROOT / f"sdk/js/{name}/package.json").read_text())
        assert name in package["files"]
        assert f"./{stub['main'].removeprefix('../')}" == package["exports"][f"./{name}"]["default"]
        assert f"./{stub['types'].removeprefix('../')}" == package["exports"][f"./{name}"]["types"]


def workflow(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    return content
