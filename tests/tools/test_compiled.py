"""The compiled form is made from the same modules, and passes the same tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest

from tools import compiled
from tools.compiled import NotCompiledError

ROOT = Path(__file__).parents[2]
# What meets a signal on its way, over real sockets, and the protocol.
TESTS = [
    "tests/protocol",
    "tests/gateway",
    "tests/observe",
    *(
        f"tests/integration/test_{name}.py"
        for name in ("abuse", "limits", "relay_cost", "resume", "server", "slow_consumers")
    ),
]


def test_every_declaration_has_its_module() -> None:
    names = compiled.modules()

    assert Path("signal_manager/gateway/connection.py") in names
    assert [name for name in names if not (ROOT / "src" / name).is_file()] == []


def test_what_is_compiled_is_stale_once_its_source_has_changed(tmp_path: Path) -> None:
    for suffix in (".py", ".pxd"):
        (tmp_path / f"module{suffix}").touch()
    assert not compiled.is_stale(tmp_path), "nothing is compiled"
    extension = tmp_path / f"module{compiled._SUFFIX}"
    extension.touch()
    now = extension.stat().st_mtime
    assert not compiled.is_stale(tmp_path)

    os.utime(tmp_path / "module.pxd", (now + 1, now + 1))

    assert compiled.is_stale(tmp_path)
    assert compiled.remove(tmp_path)
    assert not extension.exists()
    assert not compiled.remove(tmp_path)


def test_without_cython_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Cython.Build", None)

    with pytest.raises(NotCompiledError, match="not installed"):
        compiled.build(tmp_path, tmp_path)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_without_a_working_compiler_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module.py").write_text("x = 1\n")
    (tmp_path / "module.pxd").write_text("cdef int x\n")
    monkeypatch.setenv("CC", "false")

    with pytest.raises(NotCompiledError):
        compiled.build(tmp_path, tmp_path)


@pytest.mark.long
def test_the_compiled_form_passes_the_tests_of_what_it_is_made_from(tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    try:
        compiled.build(source, source)
    except NotCompiledError as error:
        pytest.skip(f"not compiled: {error}")

    tests = run(
        [sys.executable, "-m", "pytest", "-m", "not long", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        check=False,
    )

    assert tests.returncode == 0, tests.stdout[-5000:]
    assert "form: compiled" in tests.stdout
