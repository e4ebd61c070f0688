"""Credentials: which are accepted, which are refused, and that a refusal helps nobody to guess."""

from __future__ import annotations

import pytest

from signal_manager.auth.authenticators import (
    REFUSED,
    FirstOf,
    OnThisMachineAlone,
    StaticKeys,
    StoredClients,
    is_immediate,
)
from signal_manager.errors import AuthenticationError, ConfigurationError
from signal_manager.model import ClientId, ClientRecord, Identity, hash_token, token_matches
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


# Client records


class Records:
    """Records of clients, and what was rewritten."""

    def __init__(self, *records: ClientRecord) -> None:
        self.records = {record.client_id: record for record in records}
        self.rewritten: dict[str, str] = {}

    async def find(self, client_id: ClientId) -> ClientRecord | None:
        return self.records.get(client_id)

    async def rewrite(self, client_id: ClientId, *, auth_token: str) -> None:
        self.rewritten[client_id] = auth_token

    def authenticator(self) -> StoredClients:
        return StoredClients(find=self.find, rewrite=self.rewrite, clock=lambda: NOW)


async def test_a_record_with_the_hash_of_the_token_opens() -> None:
    records = Records(ClientRecord(client_id=ALICE, auth_token=hash_token("wonderland")))

    assert await records.authenticator().authenticate(ALICE, "wonderland") == Identity(client_id=ALICE)
    assert records.rewritten == {}


async def test_a_token_in_clear_is_replaced_by_its_hash_once_it_was_right() -> None:
    records = Records(ClientRecord(client_id=ALICE, auth_token="wonderland"))

    with pytest.raises(AuthenticationError):
        await records.authenticator().authenticate(ALICE, "looking-glass")
    assert records.rewritten == {}

    await records.authenticator().authenticate(ALICE, "wonderland")
    assert token_matches(records.rewritten["alice"], "wonderland")


@pytest.mark.parametrize(
    "record",
    [
        None,
        ClientRecord(client_id=ALICE, auth_token=""),
        ClientRecord(client_id=ALICE, auth_token=hash_token("wonderland"), expires_at=NOW),
    ],
    ids=["no record", "no token", "over"],
)
async def test_a_record_that_is_missing_or_over_is_refused_like_a_wrong_token(record: ClientRecord | None) -> None:
    records = Records(*([record] if record else []))

    with pytest.raises(AuthenticationError) as caught:
        await records.authenticator().authenticate(ALICE, "wonderland")
    assert caught.value.message == REFUSED


async def test_an_invalid_name_is_never_looked_for() -> None:
    with pytest.raises(AuthenticationError):
        await Records().authenticator().authenticate(ClientId("no name"), "wonderland")


async def test_published_credentials_are_refused_beyond_this_machine_with_the_setting_to_change() -> None:
    with pytest.raises(AuthenticationError, match=r"set auth\.token_secret"):
        await OnThisMachineAlone().authenticate(ALICE, "any")


def test_only_what_waits_for_nothing_is_immediate() -> None:
    static, stored = StaticKeys([]), Records().authenticator()

    assert is_immediate(FirstOf(static, tokens()))
    assert not is_immediate(FirstOf(static, stored))
