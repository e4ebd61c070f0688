"""Write the files, or with `--check` name those that are out of date and exit with 1."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tools.protocol import typescript
from tools.protocol.asyncapi import document
from tools.protocol.pages import with_tables
from tools.protocol.proto import schema
from tools.protocol.vectors import with_lists

_TOP = Path(__file__).parents[2]
_SDK = Path("sdk/js/src")
_PROTO = Path("src/signal_manager/protocol/codec/signal_manager.proto")

# What protoc writes refuses a runtime older than protoc, and one two major versions newer: it does not run with
# each version that other packages ask for. This one uses public names alone, the same in all of them.
_MODULE = '''"""The messages of signal_manager.proto, for protobuf 5 and newer. `make protocol` writes this file."""
from google.protobuf import descriptor_pool, message_factory

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
%s
)
globals().update(
    {name: message_factory.GetMessageClass(message) for name, message in DESCRIPTOR.message_types_by_name.items()}
)
'''

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
    """Return the Protobuf module of the schema, and its types as protoc writes them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / _PROTO.relative_to("src")
        source.parent.mkdir(parents=True)
        source.write_text(schema_text, encoding="utf-8")
        described = Path(folder) / "described"
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={folder}"),
                *(f"--descriptor_set_out={described}", f"--pyi_out={folder}", str(source)),
            ],
            check=True,
        )
        (file,) = FileDescriptorSet.FromString(described.read_bytes()).file
        stub = source.with_name("signal_manager_pb2.pyi")
        stub_path = Path("src") / stub.relative_to(folder)
        return {
            stub_path: stub.read_text(encoding="utf-8"),
            stub_path.with_suffix(".py"): _MODULE % _literal(file.SerializeToString(deterministic=True)),
        }


def _literal(data: bytes) -> str:
    """Return `data` as lines of bytes, so that a change of the schema is a change of few lines."""
    return "\n".join(f"    {data[start : start + 48]!r}" for start in range(0, len(data), 48))


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
