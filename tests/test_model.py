from __future__ import annotations

from uuid import UUID

import pytest

from signal_manager.model import hash_token, is_token_hash, new_session_id, taken_up_at, token_matches


def test_a_token_matches_its_hash_and_itself_in_clear() -> None:
    assert token_matches(hash_token("secret"), "secret")
    assert token_matches("secret", "secret")


@pytest.mark.parametrize("presented", ["", "Secret", "secret ", hash_token("secret"), "sécret", "\ud800"])
@pytest.mark.parametrize("stored", ["secret", hash_token("secret")], ids=["in clear", "hashed"])
def test_nothing_else_matches_it_not_even_its_hash(stored: str, presented: str) -> None:
    assert not token_matches(stored, presented)


@pytest.mark.parametrize("presented", ["", "x"])
def test_an_empty_stored_token_matches_nothing(presented: str) -> None:
    assert not token_matches("", presented)


@pytest.mark.parametrize("stored", ["sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "SHA256:" + "a" * 64])
def test_what_only_looks_like_a_hash_is_a_token_in_clear(stored: str) -> None:
    assert not is_token_hash(stored)
    assert token_matches(stored, stored)


def test_a_hash_names_its_algorithm() -> None:
    assert hash_token("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert is_token_hash(hash_token("abc"))


@pytest.mark.parametrize("since", [0, 1_700_000_000_123, 2**48 - 1])
def test_a_sessions_id_tells_when_its_user_took_up_the_device(since: int) -> None:
    ids = {new_session_id(since) for _ in range(100)}

    assert len(ids) == 100
    assert {taken_up_at(each) for each in ids} == {since}
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {(7, UUID(int=2**63).variant)}


@pytest.mark.parametrize("other", ["", "s", "of an earlier life", str(UUID(int=1, version=4)), "\ud800", "7" * 32])
def test_other_ids_do_not_tell(other: str) -> None:
    assert taken_up_at(other) == 0
