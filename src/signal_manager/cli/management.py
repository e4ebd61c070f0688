"""`signal-manager rooms`, `clients`, `sessions`, `kick`, `close-room` and `set-metadata`: operate a running service.

`cli/main.py` mounts these commands. They call the management interface (`admin/api.py`) of a service on this machine or
another one.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from signal_manager.cli.terminal import ConfigOption, JsonOption, print_json, print_table, span, tell
from signal_manager.errors import ConfigurationError, SignalManagerError, error_from_wire
from signal_manager.observe.logs import escape_control_characters

if TYPE_CHECKING:
    import httpx

    from signal_manager.service.config import Config

__all__ = ["add_management_commands"]

REFUSED = 1  # the service refused the request
ANSWER_LIMIT = 15.0  # seconds; a page without matches costs the service twenty reads of its storage
LARGEST_PAGE = 500  # the largest page of the interface
# A client cannot connect to an address that means "all addresses".
_CALLED_AS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not listened on

UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="HTTP URL of the second port of a running service. [default: metrics.host and metrics.port]"
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", help="Bearer token of that port. [default: admin.token, also SIGNAL_MANAGER_ADMIN_TOKEN]"
    ),
]
ContainsOption = Annotated[str, typer.Option(metavar="TEXT", help="List only ids that contain this text.")]
LimitOption = Annotated[int, typer.Option(min=1, help="List at most this many.")]
AfterOption = Annotated[
    str | None, typer.Option(metavar="PLACE", help="Continue an earlier list at the place that it printed last.")
]
RoomArgument = Annotated[str, typer.Argument(metavar="ROOM", help="Room that is changed.")]
AllOption = Annotated[bool, typer.Option("--all", help="List all, without --limit.")]

# Heading → the field of its column.
Columns = Mapping[str, Callable[[dict[str, Any]], object]]


def add_management_commands(application: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (rooms, clients, sessions, kick, close_room, set_metadata):
        application.command(command.__name__.replace("_", "-"))(_on_service(command))


def _on_service(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's first parameter, the service, by the options that name a service."""
    hints = get_type_hints(command, include_extras=True)
    _, *own, as_json = [
        each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()
    ]
    naming = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in {"url": UrlOption, "token": TokenOption, "config": ConfigOption}.items()
    ]

    @functools.wraps(command)
    def run(*, url: str | None, token: str | None, config: Path | None, **given: Any) -> None:
        with _service(config, url, token) as service:
            command(service, **given)

    parameters = [*own, *naming, as_json]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def rooms(
    service: _Service,
    room: Annotated[
        str | None, typer.Argument(metavar="ROOM", help="Show only this room, with its members and their tracks.")
    ] = None,
    *,
    active: Annotated[
        bool | None, typer.Option("--active/--closed", help="List only open rooms, or only closed ones.")
    ] = None,
    contains: ContainsOption = "",
    limit: LimitOption = 100,
    after: AfterOption = None,
    everything: AllOption = False,
    as_json_text: JsonOption = False,
) -> None:
    """List the rooms of a running service, or show one.

    Examples:

    - `signal-manager rooms --active`
    - `signal-manager rooms lunch`
    - `signal-manager rooms --all --json | jq -r '.items[].room_id'`
    """
    if room is not None:
        shown = service.get(f"/rooms/{_name('ROOM', room)}")
        _show(shown, _ROOM, {"members": _MEMBERS}, as_json_text=as_json_text)
    else:
        query = {"is_active": active, "contains": contains, "after": after}
        _list(service, "rooms", query, _ROOMS, None if everything else limit, as_json_text=as_json_text)


def clients(
    service: _Service,
    client: Annotated[
        str | None, typer.Argument(metavar="CLIENT", help="Show only this client, with its sessions and tracks.")
    ] = None,
    *,
    connected: Annotated[
        bool | None,
        typer.Option("--connected/--not-connected", help="List only connected clients, or only the others."),
    ] = None,
    contains: ContainsOption = "",
    limit: LimitOption = 100,
    after: AfterOption = None,
    everything: AllOption = False,
    as_json_text: JsonOption = False,
) -> None:
    """List the clients of a running service, connected or in its records, or show one.

    Examples:

    - `signal-manager clients --connected --contains camera`
    - `signal-manager clients alice`
    """
    if client is not None:
        shown = service.get(f"/clients/{_name('CLIENT', client)}")
        _show(shown, _CLIENT, {"sessions": _SESSIONS, "tracks": _TRACKS}, as_json_text=as_json_text)
    else:
        query = {"is_connected": connected, "contains": contains, "after": after}
        _list(service, "clients", query, _CLIENTS, None if everything else limit, as_json_text=as_json_text)


def sessions(
    service: _Service,
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="Show only this session.")] = None,
    *,
    client: Annotated[str | None, typer.Option(metavar="ID", help="List only the sessions of this client.")] = None,
    contains: ContainsOption = "",
    limit: LimitOption = 100,
    after: AfterOption = None,
    everything: AllOption = False,
    as_json_text: JsonOption = False,
) -> None:
    """List the sessions of a running service, or show one.

    A session is a connection that has signed in, or one that was lost and may be resumed.

    Examples:

    - `signal-manager sessions --client alice`
    - `signal-manager sessions --url http://10.0.0.7:9090 --json`
    """
    if session is not None:
        _show(service.get(f"/sessions/{_name('SESSION', session)}"), _SESSIONS, {}, as_json_text=as_json_text)
    else:
        query = {"client_id": client, "contains": contains, "after": after}
        _list(service, "sessions", query, _SESSIONS, None if everything else limit, as_json_text=as_json_text)


def kick(
    service: _Service,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Client to disconnect.")],
    *,
    room: Annotated[
        str | None, typer.Option(metavar="ROOM", help="Only remove the client from this room; it stays connected.")
    ] = None,
    as_json_text: JsonOption = False,
) -> None:
    """Disconnect a client, or remove it from a room.

    A disconnected client is told not to reconnect by itself. Its token stays valid.

    Examples:

    - `signal-manager kick alice`
    - `signal-manager kick alice --room lunch`
    """
    name = _name("CLIENT", client)
    if room is None:
        done = service.post(f"/clients/{name}/disconnect")
        said = f"{name} disconnected, connections: {done.get('ended')}"
    else:
        done = service.post(f"/rooms/{_name('ROOM', room)}/participants/{name}/remove")
        said = f"{name} removed from room {room}"
    _print_done(done, said, as_json_text=as_json_text)


def close_room(
    service: _Service,
    room: RoomArgument,
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Reason that the members are told.")] = None,
    as_json_text: JsonOption = False,
) -> None:
    """Close a room and remove its members.

    Examples:

    - `signal-manager close-room lunch`
    - `signal-manager close-room lunch --reason 'the building closes at eight'`
    """
    name = _name("ROOM", room)
    done = service.post(f"/rooms/{name}/close", {} if reason is None else {"reason": reason})
    _print_done(done, f"room {name} closed", as_json_text=as_json_text)


def set_metadata(
    service: _Service,
    room: RoomArgument,
    metadata: Annotated[str, typer.Argument(metavar="JSON", help="JSON object that replaces the present metadata.")],
    *,
    member: Annotated[
        str | None, typer.Option(metavar="CLIENT", help="Replace the metadata of this member of the room instead.")
    ] = None,
    as_json_text: JsonOption = False,
) -> None:
    """Replace the metadata of a room or of one of its members.

    All members of the room are told.

    Examples:

    - `signal-manager set-metadata lunch '{"topic": "soup"}'`
    - `signal-manager set-metadata lunch '{"name": "Alice"}' --member alice`
    """
    name = _name("ROOM", room)
    path = f"/rooms/{name}" if member is None else f"/rooms/{name}/participants/{_name('CLIENT', member)}"
    try:
        wanted = json.loads(metadata)
    except ValueError as error:
        raise ConfigurationError(f"expected a JSON object as metadata: {error}") from error
    if not isinstance(wanted, dict):
        raise ConfigurationError(f"expected a JSON object as metadata, got {metadata[:40]}")
    done = service.patch(path, {"metadata": wanted})
    _print_done(
        done, f"metadata of {name if member is None else f'{member} in {name}'} replaced", as_json_text=as_json_text
    )


def _name(what: str, name: str) -> str:
    from signal_manager.model import NAME_RULE, is_valid_name

    # Other characters would change the meaning of the path.
    if not is_valid_name(name):
        raise ConfigurationError(f"expected {what} of {NAME_RULE}")
    return name


# -- the service -------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """The requested part of a list, and the cursor of the next page."""

    items: list[dict[str, Any]]
    next: str | None


class _Service:
    """The management interface of a running service.

    Every method raises ConfigurationError if the interface does not answer or refuses the token, and the service's own
    error otherwise.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """GET a path and return the response."""
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        return self._ask("GET", path, params=given)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """POST to a path and return the response."""
        return self._ask("POST", path, json=dict(body or {}))

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PATCH a path and return the response."""
        return self._ask("PATCH", path, json=dict(body))

    def list(self, path: str, query: Mapping[str, Any], *, limit: int | None) -> _Found:
        """Read a list to its end, or up to `limit` items."""
        items: list[dict[str, Any]] = []
        while True:
            wanted = LARGEST_PAGE if limit is None else min(LARGEST_PAGE, limit - len(items))
            page = self.get(path, {**query, "limit": wanted})
            items += page["items"]
            if page["next"] is None or len(items) == limit:
                return _Found(items, page["next"])
            query = {**query, "after": page["next"]}

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        import httpx

        where = str(self._http.base_url).rstrip("/")
        try:
            response = self._http.request(method, f"/api/v1{path}", **request)
            answer = response.json()
        except httpx.TimeoutException:
            raise ConfigurationError(f"{where} does not answer within {ANSWER_LIMIT:g} s") from None
        except httpx.TransportError as error:
            raise ConfigurationError(
                f"nothing answers at {where}: {error}; name a running service with --url"
            ) from None
        except ValueError:
            raise ConfigurationError(f"expected a signal-manager at {where}, got an answer that is not JSON") from None
        if response.is_success and isinstance(answer, dict):
            return answer
        message = answer.get("error_message") if isinstance(answer, dict) else None
        if not isinstance(message, str) or message == "Not Found":
            raise ConfigurationError(f"there is no management interface at {where}: see admin.enabled and metrics.port")
        if response.status_code == 401:
            raise ConfigurationError(
                f"not allowed at {where}: {message}; give it with --token or SIGNAL_MANAGER_ADMIN_TOKEN"
            )
        if response.status_code == 403:
            raise ConfigurationError(f"not allowed at {where}: {message}")
        raise error_from_wire(response.status_code, message)


@contextmanager
def _service(config: Path | None, url: str | None, token: str | None) -> Iterator[_Service]:
    """Connect to a service while the block lasts; print a refusal as one line and exit with status 1."""
    import httpx

    from signal_manager.service.config import Config, is_loopback, load

    # With both arguments the command needs no configuration on this machine.
    settings = load(config) if url is None or token is None else None
    where = url if url is not None else _configured_url(settings or Config())
    secret = token if token is not None else settings.admin.token.get_secret_value() if settings else ""
    if not (secret.isascii() and secret.isprintable()):
        raise ConfigurationError("--token or admin.token cannot be sent: expected printable ASCII characters")
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        base = httpx.URL(where)
        if base.scheme not in {"http", "https"} or not base.host:
            raise ConfigurationError("expected --url http://HOST:PORT of the service's second port (metrics.port)")
        # A proxy from the environment is for other machines.
        beyond = not is_loopback(base.host)
        with httpx.Client(base_url=base, headers=headers, timeout=ANSWER_LIMIT, trust_env=beyond) as http:
            yield _Service(http)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"--url is no address: {error}") from None
    except ConfigurationError:
        raise
    except SignalManagerError as error:
        tell("error:", "bold red", error.message)
        raise typer.Exit(REFUSED) from None


def _configured_url(settings: Config) -> str:
    if not (settings.metrics.enabled and settings.admin.enabled):
        raise ConfigurationError("metrics.enabled or admin.enabled is false: name the service with --url")
    if settings.metrics.port == 0:
        raise ConfigurationError("metrics.port is 0, so the port is unknown: name the service with --url")
    host = _CALLED_AS.get(settings.metrics.host, settings.metrics.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.metrics.port}"


# -- what a person reads -----------------------------------------------------------------------------------------


def _ago(key: str) -> Callable[[dict[str, Any]], object]:
    def text(item: dict[str, Any]) -> str | None:
        at = item.get(key)
        return f"{span(max(0.0, time.time() - at))} ago" if isinstance(at, int | float) else None

    return text


def _of(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda item: item.get(key)


_SESSIONS: Columns = {
    "client": _of("client_id"),
    "session": _of("session_id"),
    "state": lambda item: "away" if item.get("is_away") else "connected",
    "room": _of("room_id"),
    "address": _of("address"),
    "protocol": lambda item: f"{item.get('framing')} {item.get('encoding')}",
    "age": lambda item: span(item.get("age") or 0),
    "received": _of("received"),
    "sent": _of("sent"),
}
_CLIENTS: Columns = {
    "client": _of("client_id"),
    "connected": _of("is_connected"),
    "on record": _of("is_registered"),
    "room": _of("room_id"),
    "role": _of("role"),
    "last seen": _ago("last_seen_at"),
}
_CLIENT: Columns = {
    **_CLIENTS,
    "registered": _ago("registered_at"),
    "node": _of("node_id"),
    "capabilities": lambda item: ", ".join(item.get("capabilities") or ()),
}
_ROOMS: Columns = {
    "room": _of("room_id"),
    "state": lambda item: "active" if item.get("is_active") else f"closed: {item.get('close_reason')}",
    "participants": _of("participants"),
    "tracks": _of("tracks"),
    "created": _ago("created_at"),
    "changed": _ago("updated_at"),
}
_ROOM: Columns = {**_ROOMS, "most": _of("max_participants"), "sequence": _of("sequence")}
_TRACKS: Columns = {"track": _of("track_name"), "mid": _of("mid"), "kind": _of("kind")}
_MEMBERS: Columns = {
    "client": _of("client_id"),
    "role": _of("role"),
    "joined": _ago("joined_at"),
    "node": _of("node_id"),
    "tracks": lambda item: ", ".join(f"{each.get('track_name')}" for each in item.get("tracks") or ()),
}


def _print_done(done: dict[str, Any], said: str, *, as_json_text: bool) -> None:
    if as_json_text:
        print_json(done)
    else:
        print(said)


def _list(
    service: _Service, what: str, query: Mapping[str, Any], columns: Columns, limit: int | None, *, as_json_text: bool
) -> None:
    """Read the list of this name and print it."""
    found = service.list(f"/{what}", query, limit=limit)
    if as_json_text:
        print_json(found._asdict())
        return
    if found.items:
        print_table(list(columns), [_cells(item, columns) for item in found.items])
    else:
        tell("none:", "dim", f"no {what} like that")
    if found.next is not None:
        tell("more:", "dim", f"--after {found.next}, or --all")


def _show(item: dict[str, Any], columns: Columns, parts: Mapping[str, Columns], *, as_json_text: bool) -> None:
    """Print one object: its fields below each other, then a table for each list in it."""
    if as_json_text:
        print_json(item)
        return
    for name, text in zip(columns, _cells(item, columns), strict=True):
        print(f"{name:<14}{escape_control_characters(text)}")
    for key, part in parts.items():
        if item.get(key):
            print(f"\n{key}")
            print_table(list(part), [_cells(each, part) for each in item[key]])


def _cells(item: dict[str, Any], columns: Columns) -> list[str]:
    return [_cell(read(item)) for read in columns.values()]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)
