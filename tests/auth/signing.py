"""A signer of tokens for the tests."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from signal_manager.auth.authenticators import FirstOf, StaticKeys
from signal_manager.auth.signed_tokens import SignedTokens
from signal_manager.errors import AuthenticationError
from signal_manager.model import ClientId

SECRET = "the secret of these tests, longer than 32 bytes"
OLD_SECRET = "the secret before it, also longer than 32 bytes"
NOW = 1_800_000_000.0
CLOCK = "this service's clock says 2027-01-15T08:00:00Z"
ALICE = ClientId("alice")


def signed(claims: dict[str, Any] | None = None, *, secret: str = SECRET, **changes: Any) -> str:
    """A token of another signer: any claims, right by default."""
    body = {"sub": "alice", "exp": NOW + 60} if claims is None else claims
    return jwt.encode(body | changes, secret, algorithm="HS256")


def tokens(**settings: Any) -> SignedTokens:
    return SignedTokens(SECRET, clock=lambda: NOW, **settings)


async def refusal(authenticator: SignedTokens | StaticKeys | FirstOf, client_id: str, token: str) -> str:
    with pytest.raises(AuthenticationError) as caught:
        await authenticator.authenticate(ClientId(client_id), token)
    return caught.value.message


def unsigned(header: dict[str, Any] | bytes, payload: bytes = b'{"sub":"alice","exp":1900000000}') -> str:
    parts = (header if isinstance(header, bytes) else json.dumps(header).encode(), payload, b"signature")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = jwt.PyJWK(jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE_KEY.public_key(), as_dict=True) | {"kid": "one"})


def published(**headers: Any) -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60}, PRIVATE_KEY, algorithm="ES256", headers=headers)
