"""Credentials: which are accepted, which are refused, and that a refusal helps nobody to guess."""

from __future__ import annotations

import pytest

from signal_manager.auth.authenticators import REFUSED, FirstOf, StaticKeys
from signal_manager.errors import ConfigurationError
from signal_manager.model import Identity
from tests.auth.signing import ALICE, NOW, refusal, signed, tokens


async def test_a_static_key_opens_everything_but_administration() -> None:
    identity = await StaticKeys(["alice:wonderland"]).authenticate(ALICE, "wonderland")

    assert identity == Identity(client_id=ALICE)
    assert not identity.grants.admin


async def test_a_token_may_hold_colons() -> None:
    await StaticKeys(["alice:a:b:"]).authenticate(ALICE, "a:b:")


async def test_a_client_named_twice_has_two_tokens() -> None:
    keys = StaticKeys(["alice:old", "bob:other", "alice:new"])

    assert await keys.authenticate(ALICE, "old") == await keys.authenticate(ALICE, "new")


@pytest.mark.parametrize(
    ("client_id", "token"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "wonderland"),
        ("", ""),
        ("alice", "x" * 100_000),
        ("alice", "\ud800"),
    ],
)
async def test_a_wrong_id_and_a_wrong_token_are_refused_alike(client_id: str, token: str) -> None:
    assert await refusal(StaticKeys(["alice:wonderland", "bob:b"]), client_id, token) == REFUSED


@pytest.mark.parametrize("entry", ["alice", "alice:", ":token", "", "no spaces:token", "..:token"])
def test_a_malformed_key_is_told_by_its_position(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"static key 2: expected client_id:token"):
        StaticKeys(["bob:b", entry])


async def test_the_first_authenticator_that_knows_the_client_wins() -> None:
    both = FirstOf(StaticKeys(["alice:wonderland"]), tokens())

    assert (await both.authenticate(ALICE, "wonderland")).expires_at is None
    assert (await both.authenticate(ALICE, signed())).expires_at == NOW + 60
    assert await refusal(both, "alice", "neither") == REFUSED
    assert (await refusal(both, "alice", signed(exp=1))).startswith("the token has expired")


async def test_nobody_to_ask_refuses_everybody() -> None:
    assert await refusal(FirstOf(), "alice", "wonderland") == REFUSED
