"""Compile the modules that every message passes: each module of `src` with a `.pxd` file beside it.

The `.py` file is the source of both forms; the `.pxd` file gives its classes C types. `hatch_build.py` compiles for a
wheel. Here it is done in place, for a checkout:

- `python -m tools.compiled build` (`make compiled`) puts an extension module beside each of them, which Python prefers.
- `python -m tools.compiled remove` (`make pure`) takes them away.
- `python -m tools.compiled refresh` does one of the two if the extension modules are older than their sources.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["NotCompiledError", "build", "built_against", "extension_modules", "is_stale", "main", "modules", "remove"]

ROOT = Path(__file__).resolve().parents[1]
# picows' declarations are part of what is compiled.
_PICOWS = "picows"
_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX") or ".so"


class NotCompiledError(Exception):
    """Cython, picows or a C compiler is missing; the message is one for a person."""


def modules(source: Path = ROOT / "src") -> list[Path]:
    """Return the modules that are compiled, as paths below `source`."""
    return sorted(path.with_suffix(".py").relative_to(source) for path in source.rglob("*.pxd"))


def extension_modules(source: Path = ROOT / "src") -> list[Path]:
    """Return the extension modules below `source`, of any Python."""
    return [path for module in modules(source) for path in (source / module).parent.glob(f"{module.stem}.*.so")]


def built_against() -> str:
    """Return picows as a requirement: the compiled form fits the layout of this version alone."""
    return f"{_PICOWS}=={version(_PICOWS)}"


def build(source: Path, target: Path) -> list[Path]:
    """Compile all modules; return the extension modules as paths below `target`.

    Raises:
        NotCompiledError: something that this takes is missing, or the compiler failed.
    """
    try:
        from Cython.Build import cythonize  # noqa: PLC0415 - only here, so that everything else works without
        from setuptools import Distribution, Extension  # noqa: PLC0415
        from setuptools.errors import BaseError, CCompilerError  # noqa: PLC0415
    except ImportError as error:
        raise NotCompiledError(f"{error.name} is not installed") from error
    found = importlib.util.find_spec(_PICOWS)
    if found is None or found.origin is None:
        raise NotCompiledError(f"{_PICOWS} is not installed")
    names = modules(source)
    extensions = [
        Extension(".".join(name.with_suffix("").parts), [str(source / name)], extra_compile_args=["-O3", "-g0"])
        for name in names
    ]
    with TemporaryDirectory() as scratch:
        try:
            distribution = Distribution(
                {
                    "name": "signal-manager-compiled",
                    "ext_modules": cythonize(
                        extensions,
                        include_path=[str(source), str(Path(found.origin).parents[1])],
                        build_dir=f"{scratch}/c",
                        language_level=3,
                        # Both forms treat arguments alike: annotations are not checked, and indexes are.
                        compiler_directives={"annotation_typing": False},
                        quiet=True,
                    ),
                }
            )
            command = distribution.get_command_obj("build_ext")
            command.build_lib, command.build_temp = str(target), f"{scratch}/o"
            command.ensure_finalized()
            command.run()
        except (BaseError, CCompilerError, OSError) as error:
            raise NotCompiledError(
                str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            ) from error
    return [name.with_name(f"{name.stem}{_SUFFIX}") for name in names]


def remove(source: Path = ROOT / "src") -> bool:
    """Remove the extension modules below `source`; return whether there were any."""
    there = extension_modules(source)
    for path in there:
        path.unlink()
    return bool(there)


def is_stale(source: Path = ROOT / "src") -> bool:
    """Return whether there are extension modules, and some are missing or older than what they are made from."""
    there = extension_modules(source)
    if not there:
        return False
    names = modules(source)
    wanted = {source / name.with_name(f"{name.stem}{_SUFFIX}") for name in names}
    sources = [source / name for name in names]
    newest = max(path.stat().st_mtime for each in sources for path in (each, each.with_suffix(".pxd")))
    return set(there) != wanted or min(path.stat().st_mtime for path in there) < newest


def _refresh() -> str | None:
    if not is_stale():
        return None
    remove()
    try:
        build(ROOT / "src", ROOT / "src")
    except NotCompiledError as error:
        return f"the compiled form was older than its sources and is removed: {error}"
    return "the compiled form was older than its sources and is built again"


def main(arguments: Sequence[str]) -> str | None:
    """Do what the command says; return what went wrong, for `sys.exit`."""
    match arguments:
        case ["build"]:
            remove()
            try:
                build(ROOT / "src", ROOT / "src")
            except NotCompiledError as error:
                return f"not compiled, pure Python runs: {error}"
            print(f"{len(modules())} modules are compiled; `make pure` removes the compiled form")
        case ["remove"]:
            print("the compiled form is removed" if remove() else "there is no compiled form")
        case ["refresh"]:
            if (said := _refresh()) is not None:
                print(said)
        case _:
            return "usage: python -m tools.compiled build|remove|refresh"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
