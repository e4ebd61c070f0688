"""`signal-manager sfu`: the local SFU alone, for people who want Cloudflare Realtime offline.

`cli.py` mounts this command; `media/sfu/` is the SFU.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from pathlib import Path
from typing import Annotated

import typer

from signal_manager import logs
from signal_manager.errors import ConfigurationError
from signal_manager.terminal import print_json

__all__ = ["sfu"]

# 127.0.0.1:8787 is nobody's well-known port, and not the service's own.
DEFAULT_PORT = 8787


def sfu(
    *,
    host: Annotated[str, typer.Option(help="Address of the HTTP port and of the media port.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0 is any.")] = DEFAULT_PORT,
    udp_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of all media; 0 is any.")] = 0,
    public_address: Annotated[
        list[str] | None, typer.Option(metavar="IP", help="Offer this address to clients; may be repeated.")
    ] = None,
    app_id: Annotated[str | None, typer.Option(metavar="ID", help="The app in every URL; otherwise made up.")] = None,
    app_secret: Annotated[
        str | None,
        typer.Option(metavar="SECRET", envvar="SFU_APP_SECRET", help="The bearer token; otherwise made up."),
    ] = None,
    faults: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of what goes wrong on purpose: docs/local-sfu.md.")
    ] = None,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print where it is as JSON, for programs.")] = False,
) -> None:
    """Run a local SFU that speaks Cloudflare Realtime's HTTP interface, until SIGTERM or Ctrl-C.

    It forwards real media, for development and tests on one machine. Point a client of Cloudflare Realtime at the base
    URL that it prints; a status page is at the root of the same port.

    Examples:

    - `signal-manager sfu`
    - `signal-manager sfu --port 8787 --faults faults.toml`
    """
    try:
        from signal_manager.media.sfu import LocalSfu  # noqa: PLC0415 - needs an optional dependency
        from signal_manager.media.sfu.faults import load_faults  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("signal_manager"):
            raise
        raise ConfigurationError("`sfu` needs WebRTC in Python: pip install 'signal-manager[rtc]'") from None
    local = LocalSfu(
        host=host,
        http_port=port,
        udp_port=udp_port,
        public_addresses=tuple(public_address or ()),
        app_id=app_id,
        app_secret=app_secret or secrets.token_hex(32),
        faults=load_faults(faults) if faults is not None else None,
    )

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with local:
            # A secret that was given is known to whoever gave it.
            shown = {"base_url": local.base_url, "app_id": local.app_id}
            shown |= {"app_secret": local.app_secret} if app_secret is None else {}
            if as_json_text:
                print_json(shown)
            else:
                for name, value in shown.items():
                    print(f"{name:<12}{value}", flush=True)
            await stop.wait()

    written = logs.configure(level="info")
    try:
        asyncio.run(run())
    finally:
        written.close()
