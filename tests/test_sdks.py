"""Both SDKs have the same verbs, options, events and errors, or docs/sdks.md says why not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from signal_manager import errors
from signal_manager.client import RetryPolicy, Room, SignalClient, SignalReceived
from signal_manager.client.events import EVENT_NAMES
from signal_manager.client.publications import Publication
from signal_manager.client.room_events import ROOM_EVENT_NAMES
from signal_manager.errors import SignalManagerError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sdks.md").read_text(encoding="utf-8")

# What the client and its rooms say to each other.
INTERNAL = {"forget_room", "enter", "hear", "note_link", "end", "is_taken"}


def source(module: str) -> str:
    return (ROOT / "sdk" / "js" / "src" / f"{module}.ts").read_text(encoding="utf-8")


def body(text: str, head: str) -> str:
    match = re.search(rf"^export (?:class|interface) {head}\b[^\n]*\{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    assert match, head
    return match[1]


def members(module: str, name: str) -> set[str]:
    """Return the public methods, getters and fields of a class of the browser SDK."""
    text = body(source(module), name)
    without_internal = re.sub(r"/\*\*(?:(?!\*/).)*@internal \*/\n[^\n]*", "", text, flags=re.DOTALL)
    found = re.findall(r"^  (?:(?:readonly|get|async) )*([a-zA-Z]\w*)[<(:;]", without_internal, re.MULTILINE)
    return set(found) - {"constructor"}


def fields(module: str, name: str) -> set[str]:
    return set(re.findall(r'^  "?([a-zA-Z][\w-]*)"?\??:', body(source(module), name), re.MULTILINE))


def split(text: str) -> list[str]:
    """Return what commas or semicolons separate, outside of brackets."""
    parts, depth = [""], 0
    for char in text.replace("=>", "  "):
        depth += (char in "({<[") - (char in ")}>]")
        if depth == 0 and char in ",;":
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def browser_options(kind: str) -> dict[str, bool]:
    """Return the fields of a type of options, and whether they are optional."""
    if kind.startswith("{"):
        parameters = (re.match(r"(\w+)(\??):", each) for each in split(kind[1 : kind.rindex("}")]))
        return {each[1]: bool(each[2]) for each in parameters if each}
    if picked := re.match(r'Pick<(\w+), "(\w+)">', kind):
        return {picked[2]: browser_options(picked[1])[picked[2]]}
    kind = re.split(r"\W", kind)[0]
    text = source("room") + source("client") + source("ports")
    match = re.search(rf"^export interface {kind}(?: extends (\w+))? \{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    assert match, kind
    inherited = browser_options(match[1]) if match[1] else {}
    return inherited | {name: mark == "?" for name, mark in re.findall(r"^  (\w+)(\??):", match[2], re.MULTILINE)}


def browser_parameters(modules: list[tuple[str, str]]) -> dict[str, dict[str, bool]]:
    """Return each method's parameters by name, with the fields of its options, and whether they are optional."""
    found: dict[str, dict[str, bool]] = {}
    for module, name in modules:
        methods = re.findall(
            r"^  (?:async )?(?!constructor)([a-z]\w*)(?:<[^(]*>)?\((.*?)\): [^\n]*\{$",
            body(source(module), name),
            re.MULTILINE | re.DOTALL,
        )
        for method, text in methods:
            parameters: dict[str, bool] = {}
            for each in split(text):
                match = re.match(r"(\w+)(\??): (.*)", each, re.DOTALL)
                assert match, each
                is_options = match[1] == "options" or match[3].startswith("{")
                parameters |= (
                    browser_options(match[3]) if is_options else {match[1]: match[2] == "?" or " = " in match[3]}
                )
            found[method] = parameters
    return found


def python_parameters(kind: type) -> dict[str, dict[str, bool]]:
    """Return the same of a class of the Python SDK, in the browser's words."""
    found = {}
    for method in public(kind):
        if inspect.isfunction(function := getattr(kind, method)):
            parameters = list(inspect.signature(function).parameters.values())[1:]
            found[word(method)] = {word(each.name): each.default is not each.empty for each in parameters}
    return found


def word(name: str) -> str:
    return next(iter(camel([name])))


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")} - INTERNAL


def camel(names: Iterable[str]) -> set[str]:
    return {re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in names}


def kebab(names: Iterable[str]) -> set[str]:
    return {name.replace("_", "-") for name in names}


def keywords(function: object) -> set[str]:
    assert callable(function)
    return {name for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY}


def error_names() -> set[str]:
    return {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}


def both() -> dict[str, tuple[set[str], set[str]]]:
    """Return what either SDK has, by kind, in the browser's words."""
    js_errors = set(re.findall(r"^export class (\w+)", source("errors"), re.MULTILINE))
    client_events = fields("client", "ClientEvents")
    room_events = fields("room", "RoomEvents") | fields("members", "MemberEvents")
    retry = fields("retry", "RetryOptions")
    exported = set(re.findall(r"^export class (\w+)", source("direct"), re.MULTILINE))
    error_fields = {name for name in public(SignalManagerError) if name not in public(Exception)}
    return {
        "client": (camel(public(SignalClient) | {"client_id"}), members("client", "SignalClient") | {"on"}),
        "client option": (camel(keywords(SignalClient.__init__)), fields("client", "ClientOptions")),
        "client event": (kebab(EVENT_NAMES), client_events),
        "signal": (camel(set(SignalReceived.__slots__) - {"kind"}), fields("client", "SignalReceived")),
        "retry": (camel(keywords(RetryPolicy)), retry),
        "room": (camel(public(Room) | {"id"}), members("room", "Room") | {"on"}),
        "room event": (kebab(ROOM_EVENT_NAMES), room_events),
        "join": (camel(keywords(SignalClient.join)), fields("room", "JoinOptions")),
        "devices": (set(), set(re.findall(r"^export (?:async )?function (\w+)", source("devices"), re.MULTILINE))),
        "speakers": (set(), set(re.findall(r"^export function (\w+)", source("speakers"), re.MULTILINE))),
        "stats": (set(), set(re.findall(r"^export (?:async )?function (\w+)", source("stats"), re.MULTILINE))),
        "error": (error_names() | camel(error_fields), js_errors | {"code", "retryable"}),
        "direct calls": (set(), exported),
    }


def test_what_only_one_sdk_has_is_on_the_page_with_a_reason() -> None:
    """Every verb, option, event and error: one that is added to one SDK is added to the other, or explained."""
    only_python: set[tuple[str, str]] = set()
    only_browser: set[tuple[str, str]] = set()
    for kind, (python, browser) in both().items():
        assert python | browser, kind
        only_python |= {(kind, name) for name in python - browser}
        only_browser |= {(kind, name) for name in browser - python}

    explained: dict[str, set[tuple[str, str]]] = {"Python": set(), "browser": set()}
    for kind, names, side, reason in re.findall(
        r"^\| ([a-z ]+): (`.*`) \| (Python|browser) \| (.+) \|$", PAGE, re.MULTILINE
    ):
        assert len(reason) > 20, names
        for name in re.findall(r"`(\w[\w-]*)`", names):
            word = name if kind.endswith("event") else next(iter(camel([name])))
            explained[side].add((kind, word))
    for kind, python_name, other, browser_name in re.findall(
        r"^\| ([a-z ]+): `(\w+)` \| ([a-z ]+): `(\w+)` \| .+ \|$", PAGE, re.MULTILINE
    ):
        explained["Python"].add((kind, next(iter(camel([python_name])))))
        explained["browser"].add((other, browser_name))

    assert only_python == explained["Python"]
    assert only_browser == explained["browser"]


def test_a_verb_of_both_sdks_has_the_same_parameters_or_the_page_says_why_not() -> None:
    """Their names, and which of them may be left out; a call is given up by `signal` there and by its task here."""
    explained = {
        verb: tuple({word(each) for each in re.findall(r"`(\w+)`", names)} for names in (python, browser))
        for verb, python, browser, reason in re.findall(
            r"^\| verb: `(\w+)` \| (.*?) \| (.*?) \| (.{20,}) \|$", PAGE, re.MULTILINE
        )
    }
    differing = {}
    compared = 0
    for kind, modules in (
        (SignalClient, [("emitter", "Emitter"), ("client", "SignalClient")]),
        (Room, [("room", "Room")]),
        (Publication, [("publications", "Publication")]),
    ):
        browser = browser_parameters(modules)
        for verb, ours in python_parameters(kind).items():
            if verb not in browser:
                continue
            theirs = {name: may_miss for name, may_miss in browser[verb].items() if name != "signal"}
            compared += 1
            if ours.keys() != theirs.keys() and verb != "join":  # whose options are compared above
                differing[verb] = (ours.keys() - theirs.keys(), theirs.keys() - ours.keys())
            for name in ours.keys() & theirs.keys():
                assert ours[name] is theirs[name], f"{kind.__name__}.{verb}: {name}"
    assert differing == explained
    assert compared > 20
