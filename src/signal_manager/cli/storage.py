"""`signal-manager storage`: check the store, export it, and import into it.

`cli/main.py` mounts these commands; `storage/transfer.py` does the work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from signal_manager.cli.terminal import Commands, ConfigOption, JsonOption, print_json, tell, warn
from signal_manager.errors import ConfigurationError

if TYPE_CHECKING:
    from signal_manager.service.config import Config
    from signal_manager.storage.base import Storage
    from signal_manager.storage.transfer import Checked, Imported, TakenOver

__all__ = ["storage_commands"]

# Lines between two updates of the progress on a terminal.
PROGRESS_EVERY = 1000
INCOMPLETE = 1  # the import skipped lines

storage_commands = Commands(help="Check, export or import the store.", no_args_is_help=True)

ToFileOption = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="File to write. [default: standard output]")
]
FromFileOption = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="File to read. [default: standard input]")
]


SourceOption = Annotated[
    Literal["original"] | None,
    typer.Option(
        "--from", metavar="SOURCE", help='"original" imports from the original service\'s Firestore database.'
    ),
]


@storage_commands.command("check")
def check_storage(config: ConfigOption = None, as_json_text: JsonOption = False) -> None:
    """Write, read and remove one record in the store, and print the milliseconds that each step took.

    Examples:

    - `signal-manager storage check`
    - `signal-manager storage check --config production.toml --json`
    """
    import asyncio

    from signal_manager.service.config import load
    from signal_manager.storage.transfer import check

    settings = load(config)

    async def run() -> Checked:
        async with _storage(settings) as storage:
            return await check(storage)

    checked = asyncio.run(run())
    times = {name: round(seconds * 1000, 2) for name, seconds in checked._asdict().items()}
    if as_json_text:
        print_json({"backend": settings.storage.backend, "milliseconds": times})
        return
    print(f"storage {settings.storage.backend} works")
    for name, milliseconds in times.items():
        print(f"{name:<8}{milliseconds:>9.2f} ms")


@storage_commands.command("export")
def export_storage(config: ConfigOption = None, file: ToFileOption = None) -> None:
    """Export clients, rooms and the ledger of media as JSON lines.

    The service may run meanwhile.

    Examples:

    - `signal-manager storage export > store.jsonl`
    - `signal-manager storage export --config old.toml | signal-manager storage import --config new.toml`
    """
    import asyncio

    from signal_manager.service.config import load
    from signal_manager.storage.transfer import export_lines

    settings = load(config)

    async def run(out: BinaryIO) -> int:
        written = 0
        async with _storage(settings) as storage:
            async for line in export_lines(storage):
                out.write(line)
                written += 1
                _show_progress("exported", written)
        return written - 1

    with _opened(file, "wb") as out:
        count = asyncio.run(run(out))
        out.flush()
    tell("exported:", "green", f"{count} records")


@storage_commands.command("import")
def import_storage(
    config: ConfigOption = None,
    file: FromFileOption = None,
    source: SourceOption = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Store the records, do not only count them; needs --from original.")
    ] = False,
    as_json_text: JsonOption = False,
) -> int:
    """Import an export into the store.

    A record replaces the one with the same id, so a second import changes nothing.

    With `--from original` the command counts the rooms and clients that the original service has in the Firestore
    database of [firestore]. With `--apply` it also stores them, except those whose id the store has already.

    Exits with 1 if lines or documents were left out; each of them is reported.

    Examples:

    - `signal-manager storage import < store.jsonl`
    - `signal-manager storage import --config firestore.toml --file store.jsonl`
    - `signal-manager storage import --from original --config config.toml`
    """
    import asyncio

    from signal_manager.service.config import load
    from signal_manager.storage.transfer import import_lines

    settings = load(config)
    if source is not None:
        if file is not None:
            raise ConfigurationError("--from original reads Firestore, expected no --file")
        return _take_over(settings, apply=apply, as_json_text=as_json_text)
    if apply:
        raise ConfigurationError("--apply goes only with --from original")

    async def run(lines: BinaryIO) -> Imported:
        async with _storage(settings) as storage:
            return await import_lines(storage, _lines(lines))

    with _opened(file, "rb") as lines:
        imported = asyncio.run(run(lines))
    counts = {"clients": imported.clients, "rooms": imported.rooms, "media": imported.media}
    if as_json_text:
        bad_lines = [bad._asdict() for bad in imported.bad_lines]
        print_json({**counts, "rejected": imported.rejected, "bad_lines": bad_lines})
    else:
        for bad in imported.bad_lines:
            warn(f"line {bad.number} left out: {bad.reason}")
        if imported.rejected > len(imported.bad_lines):
            warn(f"and {imported.rejected - len(imported.bad_lines)} more lines")
        print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return INCOMPLETE if imported.rejected else 0


def _take_over(settings: Config, *, apply: bool, as_json_text: bool) -> int:
    import asyncio

    from signal_manager.service import backends
    from signal_manager.storage.original import CLIENTS_COLLECTION, ROOMS_COLLECTION
    from signal_manager.storage.transfer import take_over

    async def run() -> TakenOver:
        async with backends.original_store_for(settings) as theirs, _storage(settings) as storage:
            return await take_over(
                theirs.originals(ROOMS_COLLECTION),
                theirs.originals(CLIENTS_COLLECTION),
                storage,
                apply=apply,
                now=time.time(),
            )

    taken = asyncio.run(run())
    if as_json_text:
        print_json({**taken._asdict(), "applied": apply})
    else:
        for each in taken.unreadable:
            warn(f"left out: {each}")
        verb = "taken over" if apply else "found"
        print(f"{taken.rooms} rooms ({taken.open_rooms} open) and {taken.clients} clients {verb}, {taken.kept} kept")
        if not apply:
            tell("note:", "yellow", "nothing was stored; repeat with --apply to take them over")
    return INCOMPLETE if taken.unreadable else 0


def _storage(settings: Config) -> Storage:
    from signal_manager.service import backends

    return backends.storage_for(settings)


def _opened(file: Path | None, mode: str) -> BinaryIO:
    try:
        # Close a duplicate of the descriptor, so that standard input and output stay open.
        opened = open(file or (0 if mode == "rb" else 1), mode, closefd=file is not None)  # noqa: SIM115
    except OSError as error:
        raise ConfigurationError(f"cannot open {file}: {error.strerror}") from None
    return opened  # type: ignore[return-value]  # the mode is a binary one


async def _lines(file: BinaryIO) -> AsyncIterator[bytes]:
    """Yield the lines of a file. Blocking reads are fine, because nothing else runs in this process."""
    for number, line in enumerate(file, 1):
        yield line
        _show_progress("imported", number)


def _show_progress(verb: str, count: int) -> None:
    if count % PROGRESS_EVERY == 0 and sys.stderr.isatty():
        tell(f"{verb}:", "dim", f"{count} records so far")
