"""The field tables of Cloudflare Realtime's HTTP interface as data, and a check of JSON against them.

Both sides are held to them: what our client sends and what the local SFU replies. A shape lists its fields; "!" after
a name says that it must be there, and "…" allows fields that are not documented.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class OneOf(NamedTuple):
    """One of some literal values."""

    values: tuple[Any, ...]


class ListOf(NamedTuple):
    """A list of one kind, with at least and at most so many items."""

    item: Any
    least: int = 0
    most: int = 64


Shape = dict[str, Any]

ANY_DESCRIPTION: Shape = {"type!": OneOf(("offer", "answer")), "sdp!": str}
OFFER: Shape = {"type!": OneOf(("offer",)), "sdp!": str}
ANSWER: Shape = {"type!": OneOf(("answer",)), "sdp!": str}
ERROR: Shape = {"errorCode": str, "errorDescription": str}
ORDERING = OneOf(("none", "asciibetical"))
LOCATION = OneOf(("local", "remote"))
SIMULCAST: Shape = {"preferredRid": str, "priorityOrdering": ORDERING, "ridNotAvailable": ORDERING}
TRACK: Shape = {
    "location": LOCATION,
    "mid": str,
    "sessionId": str,
    "trackName": str,
    "bidirectionalMediaStream": bool,
    "kind": OneOf(("audio", "video")),
    "simulcast": SIMULCAST,
}
LOCAL_TRACK: Shape = TRACK | {"location!": OneOf(("local",)), "mid!": str, "trackName!": str}
REMOTE_TRACK: Shape = TRACK | {"location!": OneOf(("remote",)), "sessionId!": str, "trackName!": str}
TRACK_REPLY: Shape = TRACK | ERROR
CHANNEL: Shape = {
    "location": LOCATION,
    "sessionId": str,
    "dataChannelName": str,
    "ordered": bool,
    "maxRetransmits": int,
    "maxPacketLifeTime": int,
    "waitForAck": bool,
    "canReply": bool,
}
CHANNEL_REPLY: Shape = CHANNEL | {"id": int} | ERROR

NO_BODY = None
# The fields of sessions/new's own error are undocumented as a refusal, so that replies may carry them anywhere.
REFUSAL: Shape = {"errorCode!": str, "errorDescription!": str, "…": True}

REQUESTS: dict[str, list[Shape | None]] = {
    "sessions_new": [NO_BODY],
    "session_get": [NO_BODY],
    "tracks_new": [
        {"sessionDescription!": OFFER, "tracks!": ListOf(LOCAL_TRACK, 1)},
        {"sessionDescription!": OFFER, "autoDiscover!": OneOf((True,))},
        {"tracks!": ListOf(REMOTE_TRACK, 1)},
    ],
    "renegotiate": [{"sessionDescription!": ANSWER}],
    "tracks_close": [
        {"tracks!": ListOf({"mid!": str}, 1), "force!": OneOf((True,))},
        {"tracks!": ListOf({"mid!": str}, 1), "force!": OneOf((False,)), "sessionDescription!": OFFER},
    ],
    "tracks_update": [{"tracks!": ListOf(TRACK | {"mid!": str}, 1)}],
    "datachannels_establish": [
        {
            "dataChannel!": {"location!": OneOf(("remote",)), "dataChannelName!": OneOf(("server-events",))},
            "sessionDescription": OFFER,
        }
    ],
    "datachannels_new": [{"dataChannels!": ListOf(CHANNEL | {"location!": LOCATION, "dataChannelName!": str}, 1)}],
    "datachannels_update": [
        {
            "dataChannels!": ListOf(
                {"location!": OneOf(("remote",)), "sessionId!": str, "dataChannelName!": str, "canReply!": bool}, 1
            )
        }
    ],
    "datachannels_close": [{"dataChannels!": ListOf({"id!": int}, 1)}],
    "turn_credentials": [{"ttl!": int}],
}

REPLIES: dict[str, tuple[int, list[Shape]]] = {
    "sessions_new": (201, [{"sessionId!": str, "sessionDescription": ANSWER} | ERROR]),
    "session_get": (
        200,
        [
            {
                "tracks!": ListOf(TRACK | {"status!": OneOf(("active", "inactive"))}, most=1000),
                "dataChannels!": ListOf(
                    CHANNEL | {"id": int, "status!": OneOf(("active", "inactive", "initializing"))}, most=1000
                ),
            }
        ],
    ),
    "tracks_new": (
        200,
        [
            {"requiresImmediateRenegotiation!": bool, "tracks!": ListOf(TRACK_REPLY)}
            | {"sessionDescription": ANY_DESCRIPTION}
        ],
    ),
    "renegotiate": (200, [{"sessionDescription": ANY_DESCRIPTION}]),
    "tracks_close": (
        200,
        [
            {"requiresImmediateRenegotiation!": OneOf((False,)), "tracks!": ListOf(TRACK_REPLY)}
            | {"sessionDescription": ANSWER}
        ],
    ),
    "tracks_update": (
        200,
        [{"requiresImmediateRenegotiation!": OneOf((False,)), "tracks!": ListOf(TRACK_REPLY)}],
    ),
    "datachannels_establish": (
        200,
        [
            {
                "requiresImmediateRenegotiation!": bool,
                "dataChannel!": {"dataChannelName!": str, "id!": OneOf((0,)), "location": LOCATION},
                "sessionDescription!": ANY_DESCRIPTION,
            }
        ],
    ),
    "datachannels_new": (200, [{"dataChannels!": ListOf(CHANNEL_REPLY)}]),
    "datachannels_update": (200, [{"dataChannels!": ListOf(CHANNEL_REPLY)}]),
    "datachannels_close": (200, [{"dataChannels!": ListOf(CHANNEL_REPLY)}]),
    "turn_credentials": (
        201,
        [
            {
                "iceServers!": ListOf(
                    {"urls!": ListOf(str, 1), "username": str, "credential": str},
                    1,
                )
            }
        ],
    ),
}

ENDPOINTS: dict[tuple[str, str], str] = {
    ("POST", "/sessions/new"): "sessions_new",
    ("GET", "/sessions/{}"): "session_get",
    ("POST", "/sessions/{}/tracks/new"): "tracks_new",
    ("PUT", "/sessions/{}/renegotiate"): "renegotiate",
    ("PUT", "/sessions/{}/tracks/close"): "tracks_close",
    ("PUT", "/sessions/{}/tracks/update"): "tracks_update",
    ("POST", "/sessions/{}/datachannels/establish"): "datachannels_establish",
    ("POST", "/sessions/{}/datachannels/new"): "datachannels_new",
    ("PUT", "/sessions/{}/datachannels/update"): "datachannels_update",
    ("PUT", "/sessions/{}/datachannels/close"): "datachannels_close",
}


def endpoint_of(method: str, path: str) -> str:
    """Return the name of the endpoint that a method and path (query included) address; raises KeyError for none."""
    path = path.partition("?")[0]
    if "/turn/keys/" in path:
        return "turn_credentials" if path.endswith("/credentials/generate-ice-servers") else ""
    _, _, below_apps = path.partition("/apps/")
    parts = below_apps.split("/")[1:]
    if len(parts) > 1 and parts[1] != "new":
        parts[1] = "{}"
    return ENDPOINTS[method, "/" + "/".join(parts)]


def misfits_of_request(endpoint: str, body: Any) -> list[str]:
    """Return what in a request's JSON does not fit the table; None stands for no body."""
    return _best(body, REQUESTS[endpoint], f"{endpoint} request")


def misfits_of_reply(endpoint: str, status: int, body: Any) -> list[str]:
    """Return what in a reply's status and JSON does not fit the table."""
    expected, shapes = REPLIES[endpoint]
    if status >= 400:
        return misfits(body, REFUSAL, f"{endpoint} refusal")
    if status != expected:
        return [f"{endpoint} reply: status {status}, expected {expected}"]
    return _best(body, shapes, f"{endpoint} reply")


def misfits(value: Any, kind: Any, where: str) -> list[str]:
    """Return what in a JSON value does not fit a kind, each with the path to it."""
    if isinstance(kind, dict):
        return _misfits_of_object(value, kind, where)
    if isinstance(kind, ListOf):
        if not isinstance(value, list) or not kind.least <= len(value) <= kind.most:
            return [f"{where}: expected a list of {kind.least} to {kind.most}"]
        return [found for index, item in enumerate(value) for found in misfits(item, kind.item, f"{where}[{index}]")]
    if isinstance(kind, OneOf):
        fits = any(value == allowed and type(value) is type(allowed) for allowed in kind.values)
        return [] if fits else [f"{where}: {value!r}, expected one of {kind.values}"]
    return [] if type(value) is kind else [f"{where}: {type(value).__name__}, expected {kind.__name__}"]


def _misfits_of_object(value: Any, shape: Shape, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {type(value).__name__}, expected an object"]
    required = {name[:-1] for name in shape if name.endswith("!")}
    kinds = {name.removesuffix("!"): kind for name, kind in shape.items()}
    for name in required:
        kinds[name] = shape[f"{name}!"]
    found = [f"{where}.{name}: missing" for name in sorted(required - value.keys())]
    for name, item in value.items():
        if name in kinds:
            found += misfits(item, kinds[name], f"{where}.{name}")
        elif "…" not in shape:
            found.append(f"{where}.{name}: not in the table")
    return found


def _best(body: Any, shapes: list[Any], where: str) -> list[str]:
    """Return the misfits for the shape that fits best."""
    attempts = [
        ([] if body is None else [f"{where}: a body, expected none"]) if shape is None else misfits(body, shape, where)
        for shape in shapes
    ]
    return min(attempts, key=len)
