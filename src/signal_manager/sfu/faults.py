"""Faults on demand: what an application must survive, produced when a test or a configuration file asks for it.

`api.py` asks what to do to a request before and after it is carried out. A request's own header comes before
the file. The file is TOML:

    [media]
    drop = 0.1                       # share of forwarded packets that is lost

    [[faults]]
    kind = "status"                  # status, latency, lost, cut or partial
    endpoint = "tracks/new"          # left out: every endpoint
    status = 425
    times = 2                        # the first two requests only; left out: all of them
    probability = 0.5                # left out: 1

    [[faults]]
    kind = "latency"                 # either seconds, or the median and the 95th percentile of a distribution
    p50 = 0.254
    p95 = 0.784

`lost` carries the request out and then loses the response, `cut` cuts the connection before anything happens, and
`partial` fails the first item of a request inside a 200. The header is a list of the same:
`X-Fault: 425`, `X-Fault: latency=0.5, lost`.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from signal_manager.errors import ConfigurationError
from signal_manager.sfu.errors import RefusedError, invalid_params

__all__ = ["Fault", "Faults", "Plan", "load_faults"]

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=60)]
Status = Annotated[int, msgspec.Meta(ge=400, le=599)]

# The z-score of the 95th percentile, which turns p50 and p95 into a log-normal distribution.
_Z95 = 1.645
_MOST_LATENCY = 60.0
_ERROR_CODES = {
    400: "decoding_error",
    401: "unauthorized",
    404: "not_found",
    406: "invalid_session_description",
    410: "session_error",
    413: "payload_too_large",
    425: "session_error",
    429: "rate_limited",
    502: "backend_error",
    503: "temporarily_unavailable_error",
}


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One thing that goes wrong, and when."""

    kind: Literal["status", "latency", "lost", "cut", "partial"]
    endpoint: str = ""
    status: Status = 500
    seconds: Seconds = 0.0
    p50: Seconds = 0.0
    p95: Seconds = 0.0
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    probability: Share = 1.0

    def latency(self) -> float:
        """Return the seconds to wait this time."""
        if not self.p50:
            return self.seconds
        spread = math.log(max(self.p95, self.p50) / self.p50) / _Z95
        return min(_MOST_LATENCY, random.lognormvariate(math.log(self.p50), spread))


class _Media(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What goes wrong with packets."""

    drop: Share = 0.0


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    faults: list[Fault] = []
    media: _Media = _Media()


class Plan(msgspec.Struct, kw_only=True):
    """What to do to one request."""

    latency: float = 0.0
    refusal: RefusedError | None = None
    is_cut: bool = False
    is_lost: bool = False
    is_partial: bool = False

    @property
    def is_harmless(self) -> bool:
        """Return whether nothing happens."""
        return not (self.latency or self.refusal or self.is_cut or self.is_lost or self.is_partial)


class Faults:
    """All faults of one SFU, with how often each may still happen."""

    def __init__(self, faults: Sequence[Fault] = (), *, drop_rate: float = 0.0) -> None:
        self.drop_rate = drop_rate
        self._left = [(fault, [fault.times]) for fault in faults]

    def plan(self, endpoint: str, header: str = "") -> Plan:
        """Return what happens to a request.

        Raises:
            RefusedError: the header is none that can be understood.
        """
        plan = Plan()
        if header:
            for fault in _from_header(header):
                _add(plan, fault)
            return plan
        for fault, left in self._left:
            if fault.endpoint not in ("", endpoint) or left[0] == 0:
                continue
            if fault.probability < 1 and random.random() >= fault.probability:  # noqa: S311 -- chance, no secret
                continue
            if left[0] is not None:
                left[0] -= 1
            _add(plan, fault)
        return plan


def load_faults(path: Path) -> Faults:
    """Return the faults of a file.

    Raises:
        ConfigurationError: the file cannot be read, or says something else than this module's docstring.
    """
    try:
        content = msgspec.convert(tomllib.loads(path.read_text()), _File)
    except OSError as error:
        raise ConfigurationError(f"cannot read the faults file: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"the faults file is wrong: {error}") from None
    return Faults(content.faults, drop_rate=content.media.drop)


def _from_header(header: str) -> list[Fault]:
    faults = []
    for word in header.split(","):
        name, _, value = word.strip().partition("=")
        try:
            if name.isascii() and name.isdigit():
                faults.append(msgspec.convert({"kind": "status", "status": int(name)}, Fault))
            elif name == "latency":
                faults.append(msgspec.convert({"kind": "latency", "seconds": float(value)}, Fault))
            else:
                faults.append(msgspec.convert({"kind": name}, Fault))
        except (ValueError, msgspec.ValidationError):
            raise invalid_params(
                "X-Fault is expected to list a status, latency=<seconds>, lost, cut, partial"
            ) from None
    return faults


def _add(plan: Plan, fault: Fault) -> None:
    match fault.kind:
        case "status":
            code = _ERROR_CODES.get(fault.status, "internal_error")
            plan.refusal = RefusedError(fault.status, code, "this fault was asked for")
        case "latency":
            plan.latency += fault.latency()
        case "lost":
            plan.is_lost = True
        case "cut":
            plan.is_cut = True
        case "partial":
            plan.is_partial = True
