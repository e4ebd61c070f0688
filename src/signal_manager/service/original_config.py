"""Translates configuration files and variables of the original service to settings of this service.

`config.py` translates before it checks names, so such a file starts this service too. One warning names the settings
without effect. docs/migrating.md describes the migration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["OWN_SECTIONS", "RENAMED", "WITHOUT_EFFECT", "Translation", "is_placeholder", "translate", "without_nulls"]

# Keys that the original's files and README have in other sections, each a "section.key".
RENAMED = {
    "heartbeat.interval": "server.heartbeat_interval",
    "heartbeat.timeout": "server.heartbeat_timeout",
    "database.operation_timeout": "storage.operation_timeout",
    "webrtc.cloudflare_timeout": "cloudflare.request_timeout",
}

# Keys without a counterpart here.
WITHOUT_EFFECT = frozenset(
    {
        "server.registration_timeout",  # REGISTER may come at any time after CONNECT
        "webrtc.session_timeout",  # a media session ends with its member
        "database.retry_attempts",
        "database.retry_interval",
        "firestore.auth_method",  # the credentials say how they authenticate
        "firestore.collection_name",
        "gcp.pubsub_topic",
        "gcp.pubsub_subscription",
        "logging.file_output",  # file_path alone decides
    }
)

# Sections that only the original's files have, with their keys.
OWN_SECTIONS = {
    section: tuple(name.partition(".")[2] for name in (*RENAMED, *WITHOUT_EFFECT) if name.startswith(f"{section}."))
    for section in ("heartbeat", "webrtc", "database")
}

# Placeholders in the original's sample files.
_PLACEHOLDERS = frozenset(
    {
        "your-project-id",
        "your-gcp-project-id",
        "your-app-id",
        "your-app-secret",
        "your-secret",
        "your-cloudflare-app-id",
        "your-cloudflare-app-secret",
    }
)
_MAY_BE_PLACEHOLDERS = (
    "auth.token_secret",
    "firestore.project_id",
    "gcp.project_id",
    "cloudflare.app_id",
    "cloudflare.app_secret",
)

# The original's README writes `key = null` for an optional setting, which is not TOML. The pattern also matches strings
# and comments, to leave their content alone.
_NULL = re.compile(
    r"""
      ^[ \t]*([\w-]+)[ \t]*=[ \t]*null[ \t]*(?:\#[^\n]*)?\r?$
    | \"{3}(?:\\.|[^\\])*?\"{3}(?!\")
    | '{3}.*?'{3}(?!')
    | "(?:\\.|[^"\\\n])*"
    | '[^'\n]*'
    | \#[^\n]*
    """,
    re.MULTILINE | re.ASCII | re.DOTALL | re.VERBOSE,
)


class Translation(NamedTuple):
    """A file's tables under this service's names, and the changes made; keys are "section.key"."""

    tables: dict[str, Any]
    renamed: dict[str, str]  # old name to new
    without_effect: list[str]
    unset: list[str]  # placeholders that count as not set

    @property
    def is_of_the_original(self) -> bool:
        """Whether the file has a setting that only the original service has."""
        return bool(self.renamed or self.without_effect or self.unset)


def translate(document: Mapping[str, Any]) -> Translation:
    """Return a file's tables under this service's names; unknown keys stay unchanged."""
    tables = {section: dict(table) if isinstance(table, dict) else table for section, table in document.items()}
    renamed: dict[str, str] = {}
    unused: list[str] = []
    for old, new in RENAMED.items():
        section, key = old.split(".")
        if key in _table(tables, section):
            value = tables[section].pop(key)
            new_section, new_key = new.split(".")
            target = _table(tables, new_section, make=True)
            if new_key in target:
                unused.append(old)
            else:
                renamed[old] = new
                target[new_key] = value
    if _table(tables, "logging").get("file_output") is False:
        tables["logging"].pop("file_path", None)
    without_effect = unused + [name for name in sorted(WITHOUT_EFFECT) if _remove(tables, name)]
    unset = [name for name in _MAY_BE_PLACEHOLDERS if is_placeholder(name, _value(tables, name))]
    for name in unset:
        _remove(tables, name)
    for section in OWN_SECTIONS:
        if tables.get(section) == {}:
            del tables[section]
    return Translation(tables, renamed, without_effect, unset)


def is_placeholder(name: str, value: object) -> bool:
    """Tell whether a setting, a "section.key", has a placeholder of the original's sample files."""
    return name in _MAY_BE_PLACEHOLDERS and isinstance(value, str) and value in _PLACEHOLDERS


def without_nulls(text: str) -> tuple[str, list[str]]:
    """Return a file's text with its lines `key = null` blank, and the keys of these lines."""
    without = _NULL.sub(lambda found: "" if found[1] else found[0], text)
    return without, [found[1] for found in _NULL.finditer(text) if found[1]]


def _table(tables: dict[str, Any], section: str, *, make: bool = False) -> dict[str, Any]:
    """Return a section; an empty one if it is missing or not a table."""
    table = tables.setdefault(section, {}) if make else tables.get(section)
    return table if isinstance(table, dict) else {}


def _value(tables: dict[str, Any], name: str) -> object:
    section, key = name.split(".")
    return _table(tables, section).get(key)


def _remove(tables: dict[str, Any], name: str) -> bool:
    """Remove a key; return False if it is missing."""
    section, key = name.split(".")
    table = _table(tables, section)
    if key not in table:
        return False
    del table[key]
    return True
