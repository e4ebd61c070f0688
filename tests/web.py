"""HTTP clients for tests."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

__all__ = ["plain_http"]

# Without any authority's certificate: reading all of them for each client took longer than most requests.
_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def plain_http(**options: Any) -> httpx.AsyncClient:
    """Return a client for `http://` on this machine that ignores the environment's proxies."""
    return httpx.AsyncClient(verify=_NOBODY, trust_env=False, **options)
