"""Close codes: what each says to a client, and what is safe to conclude from one."""

from __future__ import annotations

import pytest

from signal_manager.protocol.close_codes import CLOSE_CODES, RETURN_OF_OTHERS, CloseCode, Return
from signal_manager.protocol.websocket import may_be_sent


def test_every_code_that_the_service_sends_has_a_meaning() -> None:
    assert set(CLOSE_CODES) == set(CloseCode)


@pytest.mark.parametrize("code", CloseCode)
def test_a_code_is_one_that_the_protocol_lets_a_server_send(code: CloseCode) -> None:
    assert may_be_sent(code)
    assert len(CLOSE_CODES[code].meaning.encode()) < 120


@pytest.mark.parametrize("code", CloseCode)
def test_a_session_outlives_a_close_only_if_its_client_comes_back(code: CloseCode) -> None:
    ending = CLOSE_CODES[code]

    assert not (ending.keeps_session and ending.returns is Return.NO)


@pytest.mark.parametrize("code", [CloseCode.UNAUTHENTICATED, CloseCode.EVICTED, CloseCode.REPLACED, CloseCode.NORMAL])
def test_a_client_that_is_not_wanted_does_not_come_back_by_itself(code: CloseCode) -> None:
    assert CLOSE_CODES[code].returns is Return.NO


def test_what_a_network_or_a_proxy_says_is_no_reason_to_stay_away() -> None:
    assert RETURN_OF_OTHERS is Return.WITH_BACKOFF
    assert 1006 not in CLOSE_CODES
