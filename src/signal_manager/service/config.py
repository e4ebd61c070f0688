"""Loads settings from a TOML file, the environment and the command line, and prints them as TOML or JSON.

`settings.py` defines the settings. The composition root and the command line load them here.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from signal_manager.adapters import OURS, load_adapter
from signal_manager.errors import ConfigurationError
from signal_manager.service.original_config import (
    OWN_SECTIONS,
    RENAMED,
    WITHOUT_EFFECT,
    Translation,
    is_placeholder,
    translate,
    without_nulls,
)
from signal_manager.service.settings import (
    DEFAULT_RATE,
    ENVIRONMENT_PREFIX,
    Config,
    Section,
    bus_backend_of,
    capacity,
    contradictions,
    exposure,
    has_other_nodes,
    insecure_settings,
    is_loopback,
    published_credentials,
    unsupported_settings,
    weak_secrets,
)

__all__ = [
    "Config",
    "LoadedConfig",
    "as_json",
    "as_plain",
    "as_toml",
    "bus_backend_of",
    "capacity",
    "commented_toml",
    "example_toml",
    "exposure",
    "has_other_nodes",
    "insecure_settings",
    "is_loopback",
    "load",
    "load_even_if_wrong",
    "load_with_origins",
    "option_problems",
    "options_for",
    "published_credentials",
    "unsupported_settings",
    "weak_secrets",
]

FILE_NAMES = ("app-config.toml", "config.toml")
SHOWN_VALUE_CHARACTERS = 60  # of a wrong value in an error, which is one line
HIDDEN = "***"

# Kubernetes sets these variables in every pod of a namespace with a Service called signal-manager.
_SERVICE_LINK = re.compile(r"SIGNAL_MANAGER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)\Z")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # a TOML key without quotes
# The parts of a URL that may be secret: user and password, and the query.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s,]+@")
_URL_QUERY = re.compile(r"(://[^\s,?#\"]*[?#])[^\s,\"]+")


_SECTIONS = {name: cast("type[Section]", field.annotation) for name, field in Config.model_fields.items()}


class LoadedConfig(NamedTuple):
    """A configuration and where it came from.

    `origins` maps "section.key" to the file's name, the variable's name or "command line"; defaults are not in it. An
    option of an adapter is a "section.options.key".
    `warnings` are sentences about settings that are interpreted differently than written. `problems` are sentences
    about mistakes; `config` lacks the values that they are about.
    """

    config: Config
    file: Path | None
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Config:
    """Return the effective configuration; arguments and errors are those of `load_with_origins`."""
    return load_with_origins(path, environ=environ, directory=directory).config


def load_with_origins(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoadedConfig:
    """Return the effective configuration and the origin of each value.

    Args:
        path: the TOML file; without it, app-config.toml or else config.toml in `directory`, or else no file.
        environ: the environment, normally the process's.
        directory: where to look for a file, normally the working directory.
        overrides: sections of values from the command line, which win over the environment.

    Raises:
        ConfigurationError: one line that names the wrong file or variable and the mistake, without the value of a
            secret. Of several mistakes it names the first and counts the others.
    """
    loaded = load_even_if_wrong(path, environ=environ, directory=directory, overrides=overrides)
    if loaded.problems:
        first, *others = loaded.problems
        more = f" (and {len(others)} more: `signal-manager check-config` lists all)" if others else ""
        raise ConfigurationError(first + more)
    return loaded


def load_even_if_wrong(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoadedConfig:
    """Return the valid part of the configuration, with all mistakes in `problems`.

    Arguments are those of `load_with_origins`.
    """
    environ = os.environ if environ is None else environ
    file = path or _find_file(directory or Path.cwd())
    try:
        from_file = _read_file(file) if file else _Source({})
    except ConfigurationError as error:
        # The file's content is unknown, so other mistakes cannot be judged.
        return LoadedConfig(Config(), file, {}, problems=(error.message,))
    from_environment = _read_environment(environ)
    merged: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for source, origin in (
        (from_file, str(file)),
        (from_environment, None),
        (_Source(overrides or {}), "command line"),
    ):
        for section, values in source.tables.items():
            options = {**merged.get(section, {}).get("options", {}), **values.get("options", {})}
            merged.setdefault(section, {}).update(values)
            if options:
                merged[section]["options"] = options
            for key in (*values, *(f"options.{option}" for option in values.get("options", {}))):
                name = f"{section}.{key}"
                origins[name] = origin or source.spellings.get(name, _variable(section, key.replace(".", "_")))
    warnings = [*from_file.warnings, *from_environment.warnings]
    _fill_firestore_from_gcp(merged, origins)
    warnings += _choose_firestore(merged, origins)
    problems = [*from_file.problems, *from_environment.problems]
    tolerant = {"even_if_contradictory": True}
    try:
        config = Config.model_validate(merged, context=tolerant)
    except ValidationError as error:  # only of the overrides: the other sources are checked already
        problems += [_problem_of_override(details) for details in error.errors()]
        for details in error.errors():
            place = [str(part) for part in details["loc"]]
            merged[place[0]].pop(place[1], None)
        config = Config.model_validate(merged, context=tolerant)
    problems += contradictions(config)
    return LoadedConfig(config, file, origins, tuple(warnings), tuple(problems))


def _find_file(directory: Path) -> Path | None:
    return next((directory / name for name in FILE_NAMES if (directory / name).exists()), None)


class _Source(NamedTuple):
    """The values of one source (section → key → value), its spellings of variables, its warnings and its mistakes."""

    tables: Mapping[str, Mapping[str, Any]]
    spellings: Mapping[str, str] = {}
    warnings: Sequence[str] = ()
    problems: Sequence[str] = ()


def _read_file(path: Path) -> _Source:
    nulls: list[str] = []
    try:
        text = path.read_bytes().decode("utf-8-sig")
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            text, nulls = without_nulls(text)
            document = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: byte {error.start} is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    translation = translate(document)
    tables: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    for section, table in translation.tables.items():
        if section in OWN_SECTIONS and isinstance(table, dict):
            hints = {key: _did_you_mean(key, OWN_SECTIONS[section]) for key in table}
            problems += [f'{path}: unknown key "{key}" in [{section}]{hint}' for key, hint in hints.items()]
        elif section not in _SECTIONS:
            problems.append(f"{path}: {_unknown_section(section, table)}")
        elif not isinstance(table, dict):
            problems.append(f"{path}: expected [{section}] to be a table, got {_shown(table)}")
        else:
            tables[section] = _checked_table(str(path), section, table, problems)
    return _Source(tables, warnings=_warnings_of(path, translation, nulls, tables), problems=problems)


def _warnings_of(
    path: Path, translation: Translation, nulls: list[str], tables: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return a warning for each setting of the original service's file that is interpreted differently than written."""
    warnings = []
    if nulls:
        warnings.append(f'{path}: {_listed(nulls)} = null is taken as not set; TOML has no null, write "" or nothing')
    if translation.renamed:
        pairs = [f"{old} as {new}" for old, new in translation.renamed.items()]
        warnings.append(f"{path}: taken under new names: {', '.join(pairs)}")
    if translation.without_effect:
        warnings.append(f"{path}: without effect here: {', '.join(translation.without_effect)}")
    if translation.unset:
        warnings.append(f"{path}: sample values taken as not set: {', '.join(translation.unset)}")
    rate = tables.get("security", {}).get("max_messages_per_minute", DEFAULT_RATE)
    if rate < DEFAULT_RATE and (translation.is_of_the_original or "gcp" in tables):
        warnings.append(
            f"{path}: security.max_messages_per_minute = {rate} is enforced here, as it was not by the original "
            f"service; the default is {DEFAULT_RATE}"
        )
    return warnings


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _checked_table(path: str, section: str, table: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the valid values of a table in a file; add the mistakes to `problems`."""

    def read(table: dict[str, Any]) -> Section:
        # Strict validation of JSON demands TOML's own types but accepts a list for a tuple. No setting is a date or a
        # time; as a list of one item it matches none.
        text = json.dumps(table, default=lambda moment: [str(moment)])
        return _SECTIONS[section].model_validate_json(text, strict=True)

    return _without_mistakes(read, table, lambda details: f"{path}: {_problem(section, details, '[{}] {}')}", problems)


def _without_mistakes(
    read: Callable[[dict[str, Any]], Section],
    table: dict[str, Any],
    explain: Callable[[ErrorDetails], str],
    problems: list[str],
) -> dict[str, Any]:
    try:
        return read(table).model_dump(exclude_unset=True)
    except ValidationError as error:
        wrong = {str(details["loc"][0]): details for details in reversed(error.errors())}
    # Only the first mistake of each value, in the order of the file.
    problems += [explain(wrong[key]) for key in table if key in wrong]
    return read({key: value for key, value in table.items() if key not in wrong}).model_dump(exclude_unset=True)


def _read_environment(environ: Mapping[str, str]) -> _Source:
    known = {_variable(section, key) for section, key, _ in _fields()}
    of_the_original = {_variable(*name.split(".")) for name in (*RENAMED, *WITHOUT_EFFECT)}
    ours = {name: value for name, value in environ.items() if name.startswith(ENVIRONMENT_PREFIX)}
    ours, spellings, warnings = _translated_variables(ours)
    options = {section: _option_variables(section, ours) for section in OURS}
    problems = [
        f"unknown variable {name}{_better_variable(name, known | of_the_original)}"
        for name in sorted(ours.keys() - known)
        if not _SERVICE_LINK.match(name)
    ]
    tables: dict[str, dict[str, Any]] = {}
    for section, key, field in _fields():
        value = ours.get(_variable(section, key))
        if value is not None:
            is_json = get_origin(field.annotation) in {tuple, dict}
            tables.setdefault(section, {})[key] = _decoded(value) if is_json else value
    for section, values in options.items():
        if values and isinstance(tables.setdefault(section, {}).setdefault("options", {}), dict):
            tables[section]["options"].update(values)
    checked = {section: _checked_variables(section, values, problems) for section, values in tables.items()}
    return _Source(checked, spellings, warnings, problems)


def _decoded(value: str) -> Any:
    """Return the list or object in a variable's JSON; other text stays text, and `_problem` reports it."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _translated_variables(variables: dict[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the original service's variables under this service's names, their origins, and warnings."""
    spellings, renamed, without_effect, unset = {}, [], [], []
    taken = dict(variables)
    for old, new in RENAMED.items():
        old_name, new_name = _variable(*old.split(".")), _variable(*new.split("."))
        if old_name in taken:
            value = taken.pop(old_name)
            renamed.append(f"{old_name} as {new_name}")
            if new_name not in taken:
                taken[new_name], spellings[new] = value, old_name
    for name in sorted(WITHOUT_EFFECT):
        if taken.pop(_variable(*name.split(".")), None) is not None:
            without_effect.append(_variable(*name.split(".")))
    for section, key, _ in _fields():
        if is_placeholder(f"{section}.{key}", taken.get(_variable(section, key))):
            del taken[_variable(section, key)]
            unset.append(_variable(section, key))
    labels = {
        "taken under new names": renamed,
        "without effect here": without_effect,
        "sample values taken as not set": unset,
    }
    return taken, spellings, [f"{label}: {', '.join(names)}" for label, names in labels.items() if names]


def _option_variables(section: str, variables: dict[str, str]) -> dict[str, str]:
    """Remove and return the options of a section's adapter, as text; the adapter converts them."""
    prefix = _variable(section, "options_")
    names = [name for name in variables if name.startswith(prefix)]
    return {name.removeprefix(prefix).lower(): variables.pop(name) for name in names}


def _checked_variables(section: str, values: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the valid values of a section's variables; add the mistakes to `problems`."""
    return _without_mistakes(
        _SECTIONS[section].model_validate, values, lambda details: _problem(section, details), problems
    )


def _fill_firestore_from_gcp(merged: dict[str, dict[str, Any]], origins: dict[str, str]) -> None:
    for key, value in merged.get("gcp", {}).items():
        if value and not merged.get("firestore", {}).get(key):
            merged.setdefault("firestore", {})[key] = value
            origins[f"firestore.{key}"] = origins[f"gcp.{key}"]


def _choose_firestore(merged: dict[str, dict[str, Any]], origins: dict[str, str]) -> list[str]:
    """Choose Firestore if [firestore] is set and no store is named, as the original service's files do; warn about it.

    A start on a new, empty SQLite file would look like a loss of all data.
    """
    if "storage.backend" in origins or not merged.get("firestore", {}).get("project_id"):
        return []
    merged.setdefault("storage", {})["backend"] = "firestore"
    origins["storage.backend"] = origins["firestore.project_id"]
    return ['firestore.project_id is set and storage.backend is not: taken as storage.backend = "firestore"']


def options_for(config: Config, wall: str, adapter: Any) -> BaseModel | None:
    """Return an adapter's `Options` from [storage.options], [bus.options] or [media.options]; None if it has none.

    Raises:
        ConfigurationError: one line with all options that are missing or wrong.
    """
    problems = option_problems(config, wall, adapter)
    if problems:
        raise ConfigurationError("; ".join(problems))
    kind: type[BaseModel] | None = getattr(adapter, "Options", None)
    return None if kind is None else kind.model_validate(getattr(config, wall).options)


def option_problems(config: Config, wall: str, adapter: Any) -> list[str]:
    """Return the mistakes in an adapter's options, one sentence each."""
    given = getattr(config, wall).options
    kind: type[BaseModel] | None = getattr(adapter, "Options", None)
    if kind is None:
        backend = getattr(config, wall).backend
        return [f"{wall}.backend {backend!r} takes no options, got {', '.join(sorted(given))}"] if given else []
    try:
        kind.model_validate(given)
    except ValidationError as error:
        return [_option_problem(wall, kind, details) for details in error.errors()]
    return []


def _option_problem(wall: str, kind: type[BaseModel], details: ErrorDetails) -> str:
    table = f"{wall}.options"
    if not details["loc"]:  # from a validator of the whole model, which names its subject
        return f"[{table}]: expected {_expected(details)}"
    key, where = str(details["loc"][0]), ".".join((table, *map(str, details["loc"])))
    if details["type"] == "extra_forbidden":
        return f'unknown key "{key}" in [{table}]{_did_you_mean(key, kind.model_fields)}'
    field = kind.model_fields.get(key)
    if details["type"] == "missing":
        description = f": {field.description}" if field is not None and field.description else ""
        return f"{where} is missing{description}"
    is_secret = field is None or _holds_secret(field.annotation)
    return f"{where}: expected {_expected(details)}, got {HIDDEN if is_secret else _shown(details['input'])}"


def _problem_of_override(details: ErrorDetails) -> str:
    section, *rest = details["loc"]
    details["loc"] = tuple(rest)
    return _problem(str(section), details, "{}.{}")


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "string_too_short": "something that is not empty",
    "too_short": "something that is not empty",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than_equal": "a number of at most {le:g}",
    "literal_error": "{expected}",
    "value_error": "{error}",
}


def _problem(section: str, details: ErrorDetails, place: str | None = None) -> str:
    """Return pydantic's finding as one line. `place` formats section and key; without it they are a variable's name."""
    key, *index = (str(part) for part in details["loc"])
    where = place.format(section, key) if place else _variable(section, key)
    if details["type"] == "extra_forbidden":
        return f'unknown key "{key}" in [{section}]{_better_key(section, key)}'
    where += f"[{index[0]}]" if index else ""
    expected = _expected(details)
    if details["type"] == "tuple_type" and not place:
        expected = """a JSON list such as '["a", "b"]'"""
    if details["type"] == "dict_type" and not place:
        expected = """a JSON object such as '{"a": 1}'"""
    secret = key == "options" or _holds_secret(_SECTIONS[section].model_fields[key].annotation)
    return f"{where}: expected {expected}, got {HIDDEN if secret else _shown(details['input'])}"


def _expected(details: ErrorDetails) -> str:
    template = _EXPECTED.get(details["type"])
    return details["msg"] if template is None else template.format(**details.get("ctx", {}))


def _better_key(section: str, key: str) -> str:
    homes = [f"[{other}]" for other, known, _ in _fields() if known == key]
    if homes:
        return f"; it belongs in {' or '.join(homes)}"
    return _did_you_mean(key, _SECTIONS[section].model_fields if section else ())


def _unknown_section(section: str, content: Any) -> str:
    if isinstance(content, dict):
        return f"unknown section [{section}]{_did_you_mean(f'[{section}]', (f'[{known}]' for known in _SECTIONS))}"
    return f'key "{section}" stands outside any section{_better_key("", section)}'


def _better_variable(name: str, known: Iterable[str]) -> str:
    # Without the common prefix, which would make any two names similar.
    nearest = get_close_matches(name[len(ENVIRONMENT_PREFIX) :], (each[len(ENVIRONMENT_PREFIX) :] for each in known), 1)
    return f"; did you mean {ENVIRONMENT_PREFIX}{nearest[0]}?" if nearest else ""


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(word, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _shown(value: Any) -> str:
    text = "a table" if isinstance(value, dict) else json.dumps(value, default=str, ensure_ascii=False)
    text = _without_secrets(text)
    return text if len(text) <= SHOWN_VALUE_CHARACTERS else text[: SHOWN_VALUE_CHARACTERS - 1] + "…"


def _variable(section: str, key: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()


def _fields() -> Iterator[tuple[str, str, FieldInfo]]:
    for section, kind in _SECTIONS.items():
        for key, field in kind.model_fields.items():
            yield section, key, field


def _holds_secret(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_holds_secret(field.annotation) for field in annotation.model_fields.values())
    return annotation in {SecretStr, SecretBytes} or any(map(_holds_secret, get_args(annotation)))


def as_toml(
    config: Config,
    *,
    hide_secrets: bool = True,
    describe: bool = False,
    origins: Mapping[str, str] | None = None,
    only: Container[str] | None = None,
) -> str:
    """Return the effective configuration as TOML.

    Args:
        config: what to print.
        hide_secrets: print secrets as `***`; a secret that is not set stays visible as "".
        describe: print the description of each section and key above it.
        origins: print the origin of each value after it (`LoadedConfig.origins`).
        only: print only these settings, each a "section.key".
    """
    lines: list[str] = []
    for section, kind in _SECTIONS.items():
        options = {
            option: value
            for option, value in _plain_options(config, section, hide_secrets=hide_secrets).items()
            if only is None or f"{section}.options.{option}" in only
        }
        if only is not None and not (options or any(f"{section}.{key}" in only for key in kind.model_fields)):
            continue
        lines += ["", f"# {kind.summary()}"] if describe else [""]
        lines.append(f"[{section}]")
        for key, field in kind.model_fields.items():
            if key == "options" or (only is not None and f"{section}.{key}" not in only):
                continue
            value = _toml_value(_plain(key, getattr(getattr(config, section), key), hide_secrets=hide_secrets))
            comment = f"  # {origins.get(f'{section}.{key}', 'default')}" if origins is not None else ""
            lines += [f"# {field.description}"] if describe else []
            lines.append(f"{key} = {value}{comment}")
        if options or (describe and "options" in kind.model_fields):
            lines += ["", f"# {kind.model_fields['options'].description}"] if describe else [""]
            lines.append(f"[{section}.options]")
        for option, value in options.items():
            comment = f"  # {origins.get(f'{section}.options.{option}', 'default')}" if origins is not None else ""
            lines.append(f"{_toml_key(option)} = {_toml_value(value)}{comment}")
    return "\n".join(lines[1:]) + "\n"


def as_json(config: Config, *, origins: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the effective configuration for a program: section → key → value (secrets hidden) and origin."""
    return {
        section: {
            key: {"value": value, "origin": origins.get(f"{section}.{key}", "default")} for key, value in values.items()
        }
        for section, values in as_plain(config).items()
    }


def as_plain(config: Config, *, hide_secrets: bool = True) -> dict[str, dict[str, Any]]:
    """Return the effective configuration as section → key → value, optionally with secrets, for another process."""
    settings: dict[str, dict[str, Any]] = {}
    for section, key, _ in _fields():
        if key == "options":
            settings.setdefault(section, {})[key] = _plain_options(config, section, hide_secrets=hide_secrets)
            continue
        value = getattr(getattr(config, section), key)
        settings.setdefault(section, {})[key] = _plain(key, value, hide_secrets=hide_secrets)
    return settings


def _plain_options(config: Config, section: str, *, hide_secrets: bool) -> dict[str, Any]:
    """Return the options of a section's adapter; hide secret and unknown ones."""
    options: dict[str, Any] = getattr(getattr(config, section), "options", {})
    if not options or not hide_secrets:
        return options
    try:
        known = load_adapter(section, getattr(config, section).backend).Options.model_fields
    except (ConfigurationError, AttributeError):
        known = {}
    return {
        option: _plain(option, value, hide_secrets=True)
        if option in known and not _holds_secret(known[option].annotation)
        else HIDDEN
        for option, value in options.items()
    }


def example_toml() -> str:
    """Return the text of config.example.toml."""
    return (
        "# Every setting of signal-manager with its default. Copy what you change to config.toml, or to a file that\n"
        "# --config names. The environment wins: SIGNAL_MANAGER_SERVER_PORT is [server] port, and so on, with lists\n"
        '# written as JSON. "" for an optional path or id means "not set".\n'
        "# To see what is in effect, and why: signal-manager check-config\n"
        "\n" + as_toml(Config(), hide_secrets=False, describe=True)
    )


def commented_toml() -> str:
    """Return the text of a new configuration file: every setting with its description and its default after a `#`."""
    header, _, settings = example_toml().partition("\n\n")
    lines = [
        line if not line or line[0] == "#" or (line[0] == "[" and "." not in line) else f"#{line}"
        for line in settings.splitlines()
    ]
    return (
        "# The configuration of signal-manager. What stands behind a # is a default: take the # away to change it.\n"
        + header.split("\n", 2)[2]
        + "\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _plain(key: str, value: Any, *, hide_secrets: bool) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(key, item, hide_secrets=hide_secrets) for item in value]
    if isinstance(value, dict):
        return {name: _plain(key, item, hide_secrets=hide_secrets) for name, item in value.items()}
    if isinstance(value, SecretStr):
        return _hidden(key, value.get_secret_value()) if hide_secrets else value.get_secret_value()
    if isinstance(value, str) and hide_secrets:
        return _without_secrets(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hidden(key: str, secret: str) -> str:
    """Hide a secret, but show the client of a static key and the server of an address."""
    if key == "api_keys":
        return f"{secret.partition(':')[0]}:{HIDDEN}"
    if key == "nats_url":
        return _without_secrets(secret)
    return HIDDEN if secret else ""


def _without_secrets(text: str) -> str:
    """Return text without the secret parts of the URLs in it."""
    return _URL_QUERY.sub(rf"\g<1>{HIDDEN}", _URL_CREDENTIALS.sub(f"{HIDDEN}@", text))


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    # JSON of these types is also TOML, except for one character that TOML escapes.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
