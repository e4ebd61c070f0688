"""Every module has a test file of its own, in the same place below tests/."""

from __future__ import annotations

from pathlib import Path

_TESTS = Path(__file__).parent
_SOURCES = _TESTS.parent / "src/signal_manager"


def _modules() -> set[str]:
    return {
        str(path.relative_to(_SOURCES))
        for path in _SOURCES.rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"} and "_pb2" not in path.name and "testing" not in path.parts
    }


def _has_tests(module: str) -> bool:
    return (_TESTS / module).with_name(f"test_{Path(module).name}").exists()


def test_a_module_has_a_test_file_of_its_own() -> None:
    assert {module for module in _modules() if not _has_tests(module)} == set()
