"""Write the files, or with `--check` name those that are out of date and exit with 1."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.protocol import typescript
from tools.protocol.asyncapi import document
from tools.protocol.pages import with_tables
from tools.protocol.proto import schema
from tools.protocol.vectors import with_lists

_TOP = Path(__file__).parents[2]
_SDK = Path("sdk/js/src")
_PROTO = Path("src/signal_manager/protocol/codec/signal_manager.proto")

# Each file is made from what it holds now, since schemas pin numbers and pages have more than tables.
_MAKERS: dict[Path, Callable[[str], str]] = {
    _PROTO: schema,
    Path("docs/protocol.md"): with_tables,
    Path("docs/asyncapi.yaml"): lambda _: document(),
    Path("docs/vectors.json"): with_lists,
    _SDK / "messages.ts": lambda _: typescript.types(),
    _SDK / "rules.ts": lambda _: typescript.rules(),
    _SDK / "errors.ts": typescript.errors,
    _SDK / "closing.ts": typescript.close_codes,
}


def made(top: Path) -> dict[Path, str]:
    """Return the text that each generated file should have."""
    texts = {path: maker(_text(top / path)) for path, maker in _MAKERS.items()}
    return texts | _protobuf_module(texts[_PROTO])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _protobuf_module(schema_text: str) -> dict[Path, str]:
    """Return the modules that protoc makes of the schema."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / _PROTO.relative_to("src")
        source.parent.mkdir(parents=True)
        source.write_text(schema_text, encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={folder}"),
                *(f"--python_out={folder}", f"--pyi_out={folder}", str(source)),
            ],
            check=True,
        )
        return {
            Path("src") / each.relative_to(folder): each.read_text(encoding="utf-8")
            for each in sorted(source.parent.glob("*_pb2.py*"))
        }


def main() -> int:
    """Write, or compare."""
    stale = [path for path, text in made(_TOP).items() if _text(_TOP / path) != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path} is out of date: run `make protocol`")
        return int(bool(stale))
    for path, text in made(_TOP).items():
        if path in stale:
            (_TOP / path).write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
