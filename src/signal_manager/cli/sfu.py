"""`signal-manager sfu`: the local SFU alone, as an offline stand-in for Cloudflare Realtime.

`cli/main.py` mounts this command; `sfu/` is the SFU.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signal_manager.cli.terminal import print_json
from signal_manager.errors import ConfigurationError
from signal_manager.observe import logs

if TYPE_CHECKING:
    import asyncio

    from signal_manager.sfu import LocalSfu
    from signal_manager.sfu.workers import Workers

__all__ = ["sfu", "work"]

_WORK = "from signal_manager.cli.sfu import work; work()"
# The exit status for a wrong command line, and for a worker that cannot run with its settings.
_WRONG = 2
# Also the default of `media.sfu_max_packets_per_second`; docs/local-sfu.md has the measurement behind it.
DEFAULT_PACKETS = 15_000

# Neither a well-known port nor one of the service's own.
DEFAULT_PORT = 8787


def sfu(
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address of the HTTP port and of the media port.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of HTTP; 0 picks a free one.")] = DEFAULT_PORT,
    udp_port: Annotated[int, typer.Option(min=0, max=65535, help="UDP port of all media; 0 picks a free one.")] = 0,
    public_address: Annotated[
        list[str] | None,
        typer.Option(metavar="IP", help="Address to offer to clients; may be repeated. [default: that of --host]"),
    ] = None,
    app_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the app in every URL. [default: a random one]")
    ] = None,
    app_secret: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET", envvar="SFU_APP_SECRET", help="Bearer token of the app. [default: a random one]"
        ),
    ] = None,
    faults: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with faults to play; see docs/local-sfu.md.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that forward media, each on a core of its own.")
    ] = 1,
    max_packets_per_second: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Packets per second that each process forwards before it refuses new tracks."
        ),
    ] = DEFAULT_PACKETS,
    as_json_text: Annotated[
        bool, typer.Option("--json", help="Print the URL and the credentials as JSON, for programs.")
    ] = False,
) -> None:
    """Run a local SFU with Cloudflare Realtime's HTTP interface until SIGTERM or Ctrl-C.

    The SFU forwards real media, for development and tests on one machine. Give a client of Cloudflare Realtime the base
    URL that the command prints. The root of the same port is a status page.

    Examples:

    - `signal-manager sfu`
    - `signal-manager sfu --port 8787 --faults faults.toml`
    - `signal-manager sfu --workers 4`
    """
    import asyncio
    import secrets
    import signal

    import uvloop

    secret = app_secret or secrets.token_hex(32)
    order = {
        "host": host,
        "udp_port": udp_port,
        "public_addresses": tuple(public_address or ()),
        "app_id": app_id or secrets.token_hex(16),
        "app_secret": secret,
        "faults": None if faults is None else str(faults.absolute()),
        "max_packets_per_second": max_packets_per_second,
    }
    local: LocalSfu | Workers
    if workers > 1:
        _check(order)
        local = _front(order, count=workers, host=host, port=port, udp_port=udp_port)
    else:
        local = _local_sfu(order, http_port=port)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with local:
            # A secret from the command line is known already, so it is not printed.
            shown = {"base_url": local.base_url, "app_id": local.app_id}
            shown |= {"app_secret": secret} if app_secret is None else {}
            if as_json_text:
                print_json(shown)
            else:
                for name, value in shown.items():
                    print(f"{name:<12}{value}", flush=True)
            await stop.wait()

    written = logs.configure(level="info")
    try:
        uvloop.run(run())
    finally:
        written.close()


def work() -> None:
    """Run one worker with the settings from standard input, until that is closed."""
    import asyncio
    import signal
    import threading

    import uvloop

    order = json.loads(sys.stdin.readline())
    local = _local_sfu(order, http_port=0, http_host="127.0.0.1", prefix=_rtc().prefix_of(order["index"]))

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        threading.Thread(target=_wait_for_end, args=(loop, stop), daemon=True).start()
        async with local:
            print(local.base_url, flush=True)
            await stop.wait()

    written = logs.configure(level="info")
    try:
        uvloop.run(run())
    except ConfigurationError as error:
        print(f"signal-manager: {error.message}", file=sys.stderr)
        sys.exit(_WRONG)
    finally:
        written.close()


def _wait_for_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop the worker when its front has ended for any reason."""
    sys.stdin.read()
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)


def _rtc() -> ModuleType:
    """Import the module of the workers, which is in the distribution signal-manager-sfu.

    Raises:
        ConfigurationError: the distribution is not installed.
    """
    try:
        from signal_manager.sfu import workers
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name != "signal_manager.sfu" and name.startswith("signal_manager"):
            raise
        raise ConfigurationError("`sfu` needs the local SFU: pip install 'signal-manager[sfu]'") from None
    return workers


def _local_sfu(order: dict[str, Any], **more: Any) -> LocalSfu:
    """Build an SFU in this process."""
    _rtc()
    from signal_manager.sfu import LocalSfu, SfuSettings

    faults = None
    if order["faults"] is not None:
        from signal_manager.sfu.faults import load_faults

        faults = load_faults(Path(order["faults"]))
    return LocalSfu(
        host=order["host"],
        udp_port=order["udp_port"],
        public_addresses=tuple(order["public_addresses"]),
        app_id=order["app_id"],
        app_secret=order["app_secret"],
        faults=faults,
        settings=SfuSettings(max_packets_per_second=order["max_packets_per_second"]),
        **more,
    )


def _check(order: dict[str, Any]) -> None:
    """Check the settings before any worker starts, so that a mistake is reported once."""
    _rtc()
    if order["faults"] is not None:
        from signal_manager.sfu.faults import load_faults

        load_faults(Path(order["faults"]))


def _front(order: dict[str, Any], *, count: int, host: str, port: int, udp_port: int) -> Workers:
    front: Workers = _rtc().Workers(
        [sys.executable, "-c", _WORK], count=count, order=order, host=host, port=port, udp_port=udp_port
    )
    return front
