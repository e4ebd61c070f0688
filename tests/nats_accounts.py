"""Keys and tokens of an operator, an account and a user, as nats-server checks them: made anew for a test."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import nkeys

__all__ = ["Accounts"]

_NO_LIMIT = dict.fromkeys(("subs", "conn", "data", "payload", "leaf", "imports", "exports"), -1)


class _Key:
    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind)
        self._pair = nkeys.from_seed(self.seed)
        self.name = self._pair.public_key.decode()

    def vouch_for(self, other: _Key, kind: str, **claims: Any) -> str:
        """Return a token in which this key's owner says what `other` may."""
        payload = {
            "jti": kind.upper(),
            "iat": 1,
            "iss": self.name,
            "sub": other.name,
            "name": kind,
            "nats": {"type": kind, "version": 2, **claims},
        }
        signed = ".".join(
            _base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, payload)
        )
        return f"{signed}.{_base64(self._pair.sign(signed.encode()))}"


class Accounts:
    """An operator with one account."""

    def __init__(self) -> None:
        self._operator, self._account = _Key(nkeys.PREFIX_BYTE_OPERATOR), _Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def configuration(self) -> str:
        """Return what nats-server must be told."""
        operator = self._operator.vouch_for(self._operator, "operator")
        account = self._operator.vouch_for(self._account, "account", limits=_NO_LIMIT | {"wildcards": True})
        return f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {self._account.name}: {account} }}\n"

    def write_credentials(self, path: Path) -> Path:
        """Write what a new user of the account signs in with."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        token = self._account.vouch_for(user, "user", subs=-1, data=-1, payload=-1)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
