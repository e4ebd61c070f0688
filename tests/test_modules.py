"""Every module has a test file of its own, in the same place below tests/, or stands in a list that only shrinks."""

from __future__ import annotations

from pathlib import Path

_TESTS = Path(__file__).parent
_SOURCES = _TESTS.parent / "src/signal_manager"

# Modules that other test files test, most of them through the service. Take a line out with its new test file.
_WITHOUT = {
    "admin/application.py",
    "admin/cluster.py",
    "admin/lists.py",
    "admin/tokens.py",
    "admin/views.py",
    "bus/base.py",
    "protocol/close_codes.py",
    "protocol/messages.py",
}


def _modules() -> set[str]:
    return {
        str(path.relative_to(_SOURCES))
        for path in _SOURCES.rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"} and "_pb2" not in path.name and "testing" not in path.parts
    }


def _has_tests(module: str) -> bool:
    return (_TESTS / module).with_name(f"test_{Path(module).name}").exists()


def test_a_module_has_a_test_file_of_its_own() -> None:
    assert {module for module in _modules() if not _has_tests(module)} - _WITHOUT == set()


def test_the_list_of_modules_without_one_only_shrinks() -> None:
    assert {module for module in _WITHOUT if module not in _modules() or _has_tests(module)} == set()
