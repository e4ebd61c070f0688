"""Three distributions share the package `signal_manager`: which files each has, and what it may import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from signal_manager import __version__

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "signal_manager"
FOLDERS = {"signal-manager-client": "packages/client", "signal-manager": ".", "signal-manager-sfu": "packages/sfu"}


@cache
def project(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = tomllib.loads((ROOT / FOLDERS[name] / "pyproject.toml").read_text())
    return settings


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def parts(name: str) -> list[str]:
    """Return the files and folders of the source tree that a distribution of packages/ names."""
    return [each.removeprefix("src/") for each in project(name)["tool"]["hatch"]["build"]["only-include"]]


@cache
def owner(path: Path) -> str:
    """Return the distribution that has a file of the source tree."""
    text = path.relative_to(SOURCE.parent).as_posix()
    owners = [
        name
        for name in ("signal-manager-client", "signal-manager-sfu")
        if any(text == part or text.startswith(f"{part}/") for part in parts(name))
    ]
    assert len(owners) <= 1, f"{text} is in {owners}"
    return owners[0] if owners else "signal-manager"


def declared(name: str, *, with_extras: bool) -> set[str]:
    """Return what a distribution asks for, with its extras that of our own distributions too."""
    settings = project(name)["project"]
    found = {canonical(each) for each in settings["dependencies"]}
    if with_extras:
        extras = settings.get("optional-dependencies", {}).values()
        found |= {canonical(each) for group in extras for each in group} - {name}
        for each in found & set(FOLDERS) - {name, "signal-manager"}:
            found |= declared(each, with_extras=True)
    return found


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each module that a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text())
    later = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name, id(node) not in later) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "signal_manager":
            yield from ((f"signal_manager.{each.name}", id(node) not in later) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield node.module, id(node) not in later


@cache
def file_of(module: str) -> Path:
    path = SOURCE.parent / Path(*module.split("."))
    return next(
        each for each in (path.with_suffix(".py"), path / "__init__.py", SOURCE / "__init__.py") if each.exists()
    )


# Imported only where an extra asks for them.
OPTIONAL = {"client/ice_path.py", "client/media.py", "client/tracks.py", "cli/test_call.py", "storage/firestore.py"}
# What brings a package that has no entry of its own: aiortc's tracks give PyAV's frames.
BROUGHT = {
    "av": "aiortc",
    "google-api-core": "google-cloud-firestore",
    "google-auth": "google-cloud-firestore",
    "grpcio": "google-cloud-firestore",
    "opentelemetry-api": "opentelemetry-sdk",
    "pydantic-core": "pydantic",
    "signal-manager-client": "signal-manager",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_distribution_imports_what_it_declares(name: str) -> None:
    providers = packages_distributions()
    undeclared = []
    for path in SOURCE.rglob("*.py"):
        inside = path.relative_to(SOURCE).as_posix()
        # The contract suites are for authors of adapters, who bring pytest.
        if owner(path) != name or inside.startswith("testing/"):
            continue
        for module, is_at_once in imports(path):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names:
                continue
            allowed = {name} | declared(name, with_extras=not is_at_once or inside in OPTIONAL)
            needed = {owner(file_of(module))} if top == "signal_manager" else {*map(canonical, providers[top])}
            needed |= {BROUGHT[each] for each in needed & set(BROUGHT)}
            if not needed & allowed:
                undeclared.append(f"{inside}: {module}")
    assert undeclared == []


def test_the_client_never_reaches_into_the_service_or_the_sfu() -> None:
    for path in SOURCE.rglob("*.py"):
        if owner(path) == "signal-manager-client":
            for module, _ in imports(path):
                if module.partition(".")[0] == "signal_manager":
                    assert owner(file_of(module)) == "signal-manager-client", f"{path.name}: {module}"


def test_the_sfu_needs_two_modules_of_others() -> None:
    others = {
        module
        for path in (SOURCE / "sfu").rglob("*.py")
        for module, _ in imports(path)
        if module.startswith("signal_manager.") and not module.startswith("signal_manager.sfu")
    }

    assert others == {"signal_manager.asgi", "signal_manager.errors"}


def test_the_service_leaves_out_exactly_what_the_others_have() -> None:
    left_out = project("signal-manager")["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]

    assert {each.removeprefix("/src/") for each in left_out} == {
        part for name in ("signal-manager-client", "signal-manager-sfu") for part in parts(name)
    }


def test_every_part_that_is_named_exists() -> None:
    for name in ("signal-manager-client", "signal-manager-sfu"):
        assert all((SOURCE.parent / part).exists() for part in parts(name))


def test_the_distributions_ask_for_each_other_in_the_one_version() -> None:
    asked = {
        each
        for name in FOLDERS
        for each in re.findall(
            r'"(signal-manager[a-z-]*==[^"]+)"', (ROOT / FOLDERS[name] / "pyproject.toml").read_text()
        )
    }

    assert asked == {f"{name}=={__version__}" for name in FOLDERS}


@pytest.mark.parametrize("name", ["packages/client", "packages/sfu"])
def test_a_distribution_of_its_own_has_the_licence_and_the_source(name: str) -> None:
    assert (ROOT / name / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / name / "src").resolve() == ROOT / "src"
