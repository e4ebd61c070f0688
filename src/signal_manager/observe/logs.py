"""Formats and writes log lines: structlog and the standard library's loggers share one pipeline.

Modules only call `structlog.get_logger(__name__)`. The composition root configures logging first and closes it last.
This module removes the values of secret names from every line. It imports structlog when logging begins, because the
command line imports this module for `--help` too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import traceback
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from signal_manager.errors import ConfigurationError

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

__all__ = ["Logs", "configure", "escape_control_characters", "tells"]

HIDDEN = "***"

# Tokens and SDP never appear in logs (docs/protocol.md), and neither do secrets of HTTP clients and operators.
_SECRET_NAME = re.compile(
    r"(^|[_-])(tokens?|secrets?|passwords?|authorization|credentials?|api[_-]keys?|sdp|signal[_-]data)\Z", re.IGNORECASE
)

# Libraries with handlers of their own, or without propagation to the root logger.
_FOREIGN_LOGGERS = ("asyncio", "httpx", "picows")

# These log a line per request or connection at info level; the service has lines of its own.
_CHATTY_LOGGERS = ("httpx", "picows")

# These write request headers, bearer tokens among them, at debug level.
_TALKATIVE_LOGGERS = ("hpack", "httpcore")


# Lines below this level are written nowhere.
_least = logging.NOTSET


def tells(level: int) -> bool:
    """Return whether lines of this level are written: one that is not costs as much as a part of a connect."""
    return level >= _least


class Logs:
    """The running log output; `close` flushes it and leaves the process as `configure` found it."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        self._handlers = handlers

    def close(self) -> None:
        """Flush and remove every handler; calling it again does nothing."""
        import structlog  # noqa: PLC0415 - see above

        global _least  # noqa: PLW0603 - as the standard library keeps its levels
        _least = logging.NOTSET
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
            handler.close()
        if self._handlers:
            self._handlers = []
            root.setLevel(logging.WARNING)
            for name in (*_CHATTY_LOGGERS, *_TALKATIVE_LOGGERS):
                logging.getLogger(name).setLevel(logging.NOTSET)
            logging.captureWarnings(False)
            structlog.reset_defaults()


def configure(
    *,
    level: str = "info",
    format: Literal["json", "console"] | None = None,
    file_path: str | None = None,
    console_output: bool = True,
    max_file_size: int = 10_485_760,
    max_files: int = 5,
) -> Logs:
    """Send every log line of this process to standard error, a rotated file, both or nowhere.

    Args:
        level: "debug", "info", "warning", "error" or "critical".
        format: None means "console" where standard error is a terminal, and "json" everywhere else.
        file_path: also log to this file.
        console_output: log to standard error.
        max_file_size: bytes after which the file is rotated.
        max_files: rotated files kept beside the current one.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    import structlog  # noqa: PLC0415 - see above

    shared = _shared_processors()
    handlers: list[logging.Handler] = []
    if file_path:
        handlers.append(_file_handler(file_path, max_file_size, max_files))
        handlers[0].setFormatter(_formatter(shared, format or "json", colors=False))
    if console_output:
        is_terminal = sys.stderr.isatty()
        handler = logging.StreamHandler(sys.stderr)
        colors = is_terminal and not os.environ.get("NO_COLOR")
        handler.setFormatter(_formatter(shared, format or ("console" if is_terminal else "json"), colors=colors))
        handlers.append(handler)
    if not handlers:
        handlers.append(logging.NullHandler())  # a root logger without any prints warnings to standard error
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Modules create their loggers on import; caching would bind them to the first configuration.
        cache_logger_on_first_use=False,
    )
    _adopt_standard_library(level, handlers)
    return Logs(handlers)


def _adopt_standard_library(level: str, handlers: list[logging.Handler]) -> None:
    global _least  # noqa: PLW0603 - as the standard library keeps its levels
    root = logging.getLogger()
    root.setLevel(level.upper())
    _least = root.level
    for handler in handlers:
        root.addHandler(handler)
    for name in _FOREIGN_LOGGERS:
        foreign = logging.getLogger(name)
        foreign.handlers.clear()
        foreign.propagate = True
    for name in _TALKATIVE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _CHATTY_LOGGERS if level != "debug" else ():
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _file_handler(path: str, max_file_size: int, max_files: int) -> logging.Handler:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return _PrivateFileHandler(
            path, maxBytes=max_file_size, backupCount=max_files, encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise ConfigurationError(f"logging.file_path: cannot write {path}: {error.strerror}") from None


class _PrivateFileHandler(RotatingFileHandler):
    """A log file that only its owner can read, because it names clients, addresses and rooms."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_open_privately)


def _open_privately(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with contextlib.suppress(PermissionError):  # the file of another user, which may be writable nevertheless
            os.fchmod(descriptor, 0o600)
    return descriptor


def _shared_processors() -> list[Processor]:
    import structlog  # noqa: PLC0415 - see above

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _remove_secrets,
    ]


def _formatter(shared: list[Processor], format: str, *, colors: bool) -> logging.Formatter:
    import structlog  # noqa: PLC0415 - see above

    # Neither shows local variables, which may hold tokens and SDPs.
    if format == "json":
        rendering: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        rendering = [_escape_values, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback)]
    formatter = structlog.stdlib.ProcessorFormatter
    return formatter(foreign_pre_chain=shared, processors=[formatter.remove_processors_meta, *rendering])


def _remove_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value if name == "exc_info" else _without_secrets(name, value) for name, value in event.items()}


def _without_secrets(name: str, value: Any) -> Any:
    if value and _SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {inner: _without_secrets(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets("", item) for item in value]
    return value


def escape_control_characters(text: str) -> str:
    r"""Return `text` on one line, with `\n`, `\x1b` and the like in place of characters that do not print."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        name: escape_control_characters(value) if isinstance(value, str) and name != "stack" else value
        for name, value in event.items()
    }


def _traceback(output: TextIO, exc_info: ExcInfo) -> None:
    # Indented, so that no line of an exception's message looks like a log line.
    for line in "".join(traceback.format_exception(*exc_info)).splitlines():
        output.write(f"\n  {escape_control_characters(line)}")
