"""Reads JSON Web Tokens, verifies their signatures and signs (RFC 7515, RFC 7519).

PyJWT has the algorithms. It checks every character in Python and reads the header twice, which took most of a CONNECT;
this module does that in five calls. `signed_tokens.py` judges the claims.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from binascii import Error as NotBase64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm

from signal_manager.auth.authenticators import MAX_TOKEN_BYTES
from signal_manager.errors import ConfigurationError

__all__ = ["ALGORITHMS", "SignedToken", "checked_secret", "parse_token", "sign", "verifying_key"]

ALGORITHMS = ("HS256", "RS256", "ES256")

_HS256 = HMACAlgorithm(HMACAlgorithm.SHA256)
# RFC 4648, section 5, without padding, and the dots between the parts of a token.
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"===", b"==", b"=")


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    crit: Any = None


class SignedToken(NamedTuple):
    """A token in parts; only `signed` and `signature` tell whether to believe the others."""

    algorithm: str
    key_id: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


_read_header = msgspec.json.Decoder(_Header).decode
_read_claims = msgspec.json.Decoder(dict[str, Any]).decode


def parse_token(token: str) -> SignedToken | None:
    """Return the parts of a token, unverified, or None if the text is no token.

    A token with critical extensions (RFC 7515, section 4.1.11) is none, because this service knows no extension.
    """
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        return None
    text = token.encode()
    if text.count(b".") != 2 or text.translate(None, _ALPHABET):
        return None
    signed, _, signature = text.translate(_TO_STANDARD).rpartition(b".")
    header, _, payload = signed.partition(b".")
    try:
        fields = _read_header(_decoded(header))
        claims = _read_claims(_decoded(payload))
        proof = _decoded(signature)
    # A deeply nested claim raises RecursionError.
    except (NotBase64Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if fields.crit is not None:
        return None
    return SignedToken(fields.alg, fields.kid, claims, text[: len(signed)], proof)


def verifying_key(token: SignedToken, keys: Sequence[str | jwt.PyJWK]) -> int | None:
    """Return the position of the key whose signature the token has, or None; a text is a secret for HS256."""
    for position, key in enumerate(keys):
        if isinstance(key, str):
            is_right = token.algorithm == "HS256" and _HS256.verify(token.signed, key.encode(), token.signature)
        else:
            is_right = token.algorithm == key.algorithm_name and _is_signed_by(token, key)
        if is_right:
            return position
    return None


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """Return an HS256 token with these claims; raises ConfigurationError if the secret cannot sign."""
    key = checked_secret(secret).encode()
    parts = (b'{"alg":"HS256","typ":"JWT"}', msgspec.json.encode(claims))
    signed = b".".join(map(_encoded, parts))
    return (signed + b"." + _encoded(_HS256.sign(signed, key))).decode()


def checked_secret(secret: str) -> str:
    """Return a secret for HS256; raises ConfigurationError if it is empty or a public key."""
    try:
        _HS256.prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ConfigurationError("the token secret is empty or a public key; HS256 needs a secret of its own") from None
    return secret


def _is_signed_by(token: SignedToken, key: jwt.PyJWK) -> bool:
    return bool(key.Algorithm.verify(token.signed, key.key, token.signature))


def _decoded(part: bytes) -> bytes:
    data = a2b_base64(part + _PADDING[len(part) % 4], strict_mode=True)
    # RFC 4648, section 3.5: the bits that the last character does not need are zero, so a token has one spelling.
    if b2a_base64(data, newline=False).rstrip(b"=") != part:
        raise NotBase64Error("the last character has bits that it does not need")
    return data


def _encoded(part: bytes) -> bytes:
    return urlsafe_b64encode(part).rstrip(b"=")
