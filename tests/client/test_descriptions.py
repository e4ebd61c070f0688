"""What aiortc and the SFU are each shown of the other's descriptions."""

from __future__ import annotations

import re

import pytest

from signal_manager.client.descriptions import Descriptions

SFU = "a=ice-ufrag:sfu0\r\na=ice-pwd:0123456789abcdefghijkl\r\na=fingerprint:sha-256 AA:BB\r\na=setup:{setup}\r\n"
CANDIDATE = "a=candidate:1 1 udp 1 127.0.0.1 1473 typ host\r\na=end-of-candidates\r\n"
HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
VP8 = {"96": "VP8/90000"}
OURS = {"97": "VP8/90000", "98": "rtx/90000"}


def section(mid: str, codecs: dict[str, str], direction: str, *, port: int = 9, kind: str = "video") -> str:
    lines = (
        f"m={kind} {port} UDP/TLS/RTP/SAVPF {' '.join(codecs)}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na={direction}\r\n"
    )
    lines += "a=rtcp-mux\r\n" if port else ""
    for number, codec in codecs.items():
        lines += f"a=rtpmap:{number} {codec}\r\n"
        if codec.startswith("rtx"):
            lines += f"a=fmtp:{number} apt={int(number) - 1}\r\n"
    return lines


def theirs(*sections: str, setup: str = "actpass") -> str:
    """A description of the SFU's: candidates in the first live section only."""
    text, named = HEAD, False
    for each in sections:
        is_live = " 0 UDP" not in each
        text += each + (SFU.format(setup=setup) if is_live else "")
        text += CANDIDATE if is_live and not named else ""
        named |= is_live
    return text


def ours(*sections: str) -> str:
    """A description of aiortc's."""
    return HEAD + "".join(f"{each}a=ice-ufrag:own0\r\na=ice-pwd:x\r\na=fingerprint:sha-256 CC\r\n" for each in sections)


def sections_of(sdp: str | None) -> list[str]:
    assert sdp is not None
    return re.split(r"(?=^m=)", sdp, flags=re.MULTILINE)[1:]


def mids_of(sdp: str | None) -> list[str]:
    return re.findall(r"^a=mid:(\S+)", sdp or "", flags=re.MULTILINE)


def bundle_of(sdp: str | None) -> list[str]:
    return re.findall(r"^a=group:BUNDLE (.+?)\r?$", sdp or "", flags=re.MULTILINE)


@pytest.fixture
def descriptions() -> Descriptions:
    return Descriptions(lambda kind, name, parameters: name in {"vp8", "opus"})


def pull(descriptions: Descriptions, *sections: str, pulled: tuple[str, ...] = ()) -> tuple[str | None, str]:
    """Take the SFU's offer, and answer as aiortc would; returns what aiortc saw and what the SFU gets."""
    shown = descriptions.take_offer(theirs(*sections), pulled)
    own = [re.sub("a=(sendonly|recvonly)", "a=recvonly", each.split("a=ice-ufrag")[0]) for each in sections_of(shown)]
    return shown, descriptions.give_answer(ours(*own))


def publish(descriptions: Descriptions, *own: str, answer: list[str] | None = None) -> tuple[str, str]:
    """Offer as aiortc would; returns what the SFU gets and what aiortc sees of the answer."""
    offer = descriptions.give_offer(ours(*own))
    answered = answer or [re.sub("a=sendonly", "a=recvonly", each.split("a=ice-")[0]) for each in sections_of(offer)]
    return offer, descriptions.take_answer(theirs(*answered, setup="passive"))


def test_candidates_of_the_first_section_are_shown_in_each(descriptions: Descriptions) -> None:
    shown, _ = pull(descriptions, section("0", VP8, "sendonly"), section("1", VP8, "sendonly"))

    assert [CANDIDATE in each for each in sections_of(shown)] == [True, True]
    assert bundle_of(shown) == ["0 1"]


def test_payload_types_agreed_on_stay_in_our_next_offer(descriptions: Descriptions) -> None:
    pull(descriptions, section("0", VP8, "sendonly"))

    offer, _ = publish(descriptions, section("0", OURS, "recvonly"), section("1", OURS, "sendonly"))

    agreed, new = sections_of(offer)
    assert "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" in agreed
    assert "rtpmap:97" not in agreed
    assert "m=video 9 UDP/TLS/RTP/SAVPF 96 98\r\n" in new  # the same codec has one payload type in a connection
    assert "a=fmtp:98 apt=96\r\n" in new


def test_a_new_section_gets_no_payload_type_that_means_something_else(descriptions: Descriptions) -> None:
    pull(descriptions, section("0", VP8, "sendonly"))

    offer, _ = publish(
        descriptions,
        section("0", OURS, "recvonly"),
        section("1", {"96": "opus/48000/2"}, "sendonly", kind="audio"),
    )

    assert "m=audio 9 UDP/TLS/RTP/SAVPF 97\r\n" in offer
    assert "a=rtpmap:97 opus/48000/2\r\n" in offer


def test_extension_ids_are_those_agreed_on_or_left_out(descriptions: Descriptions) -> None:
    agreed = section("0", OURS, "sendonly") + "a=extmap:1 urn:mid\r\na=extmap:3 urn:time\r\n"
    publish(descriptions, agreed)

    added = section("1", OURS, "sendonly") + "a=extmap:1 urn:mid\r\na=extmap:3 urn:level\r\na=extmap:4 urn:new\r\n"
    offer, _ = publish(descriptions, agreed, added)

    assert re.findall(r"extmap:(\S+ \S+)", sections_of(offer)[1]) == ["1 urn:mid", "4 urn:new"]


def test_a_codec_that_cannot_be_decoded_is_rejected_unseen(descriptions: Descriptions) -> None:
    shown, answer = pull(descriptions, section("0", {"100": "AV1/90000"}, "sendonly"), section("1", VP8, "sendonly"))

    assert mids_of(shown) == ["1"]
    assert CANDIDATE in str(shown)
    assert mids_of(answer) == ["0", "1"]
    assert "m=video 0 " in sections_of(answer)[0]
    assert bundle_of(answer) == ["1"]
    assert descriptions.undecodable == {"0"}


def test_a_first_offer_of_nothing_that_can_be_decoded_still_makes_a_transport(descriptions: Descriptions) -> None:
    """Or nothing could ever be pulled in this session."""
    shown, answer = pull(
        descriptions, section("0", {"100": "AV1/90000"}, "sendonly"), section("1", {"101": "AV1/90000"}, "sendonly")
    )

    assert mids_of(shown) == ["0"]
    assert "a=inactive" in str(shown)
    assert "VP8" in str(shown)
    assert CANDIDATE in str(shown)
    carrier, rejected = sections_of(answer)
    assert "m=video 9 UDP/TLS/RTP/SAVPF 100\r\n" in carrier
    assert "a=rtpmap:100 AV1/90000" in carrier
    assert "a=inactive" in carrier
    assert "m=video 0 " in rejected
    assert descriptions.undecodable == {"0", "1"}

    shown, answer = pull(descriptions, section("0", VP8, "sendonly"), pulled=("0",))

    assert mids_of(shown) == ["0", "0-1"]
    assert mids_of(answer) == ["0"]
    assert "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" in answer


def test_an_offer_without_a_live_section_is_answered_without_aiortc(descriptions: Descriptions) -> None:
    shown = descriptions.take_offer(theirs(section("0", VP8, "inactive", port=0)))
    answer = descriptions.give_answer(None)

    assert shown is None
    assert "m=video 0 " in answer
    assert answer.startswith("v=0\r\n")
    assert answer.endswith("\r\n")


def test_a_section_that_is_over_is_rejected_and_stays_idle_for_aiortc(descriptions: Descriptions) -> None:
    pull(descriptions, section("0", VP8, "sendonly"), section("1", VP8, "sendonly"))
    descriptions.retire("0")

    shown, answer = pull(descriptions, section("0", VP8, "inactive"), section("1", VP8, "sendonly"))

    assert mids_of(shown) == ["0", "1"]
    assert "a=inactive" in sections_of(shown)[0]
    assert "a=ice-ufrag:sfu0" in sections_of(shown)[0]
    assert "m=video 0 " in sections_of(answer)[0]
    assert "m=video 9 " in sections_of(answer)[1]


def test_a_section_used_again_under_another_mid_comes_last_for_aiortc(descriptions: Descriptions) -> None:
    pull(descriptions, section("0", VP8, "sendonly"), section("1", VP8, "sendonly"))
    descriptions.retire("0")
    pull(descriptions, section("0", VP8, "inactive"), section("1", VP8, "sendonly"))

    shown, answer = pull(descriptions, section("2", VP8, "sendonly"), section("1", VP8, "sendonly"), pulled=("2",))

    assert mids_of(shown) == ["0", "1", "2"]
    assert mids_of(answer) == ["2", "1"]
    assert bundle_of(shown) == ["0 1 2"]

    offer, _ = publish(descriptions, *(section(mid, OURS, "recvonly") for mid in "012"), section("3", OURS, "sendonly"))

    assert mids_of(offer) == ["2", "1", "3"]


def test_a_mid_that_the_sfu_uses_anew_is_another_one_for_aiortc(descriptions: Descriptions) -> None:
    pull(descriptions, section("0", VP8, "sendonly"))
    descriptions.retire("0")

    shown, answer = pull(descriptions, section("0", VP8, "sendonly"), pulled=("0",))

    own = descriptions.mid_of("0")
    assert own != "0"
    assert mids_of(shown) == ["0", own]
    assert mids_of(answer) == ["0"]
    assert "m=video 9 " in answer


def test_a_refused_offer_is_taken_back_with_an_answer_of_our_own(descriptions: Descriptions) -> None:
    pull(descriptions, section("0", VP8, "sendonly"))
    descriptions.give_offer(ours(section("0", OURS, "recvonly"), section("1", OURS, "sendonly")))

    refusal = descriptions.take_refusal()

    known, new = sections_of(refusal)
    assert "a=sendonly" in known
    assert "a=inactive" in new
    assert "a=setup:passive" in known

    shown, _ = pull(descriptions, section("0", VP8, "sendonly"), section("1", VP8, "sendonly"), pulled=("1",))

    assert mids_of(shown) == ["0", "1", "1-2"]


def test_a_first_offer_that_is_refused_leaves_nothing_to_go_back_to(descriptions: Descriptions) -> None:
    descriptions.give_offer(ours(section("0", OURS, "sendonly")))

    assert descriptions.take_refusal() is None


def test_what_the_sfu_rejects_stays_idle_for_aiortc(descriptions: Descriptions) -> None:
    own = [section("0", OURS, "sendonly"), section("1", OURS, "sendonly")]
    answer = [section("0", OURS, "inactive", port=0), section("1", OURS, "recvonly")]

    _, shown = publish(descriptions, *own, answer=answer)

    assert mids_of(shown) == ["0", "1"]
    assert "a=inactive" in sections_of(shown)[0]


def test_an_unpublished_section_is_rejected_in_the_offer_that_closes_it(descriptions: Descriptions) -> None:
    publish(descriptions, section("0", OURS, "sendonly"), section("1", OURS, "sendonly"))
    descriptions.retire("0")

    offer, shown = publish(descriptions, section("0", OURS, "inactive"), section("1", OURS, "sendonly"))

    assert "m=video 0 " in sections_of(offer)[0]
    assert bundle_of(offer) == ["1"]
    assert mids_of(shown) == ["0", "1"]


def test_an_answer_that_nobody_waits_for_is_an_error(descriptions: Descriptions) -> None:
    with pytest.raises(ValueError, match="expected an offer of aiortc's"):
        descriptions.take_answer(theirs(section("0", VP8, "recvonly")))


def test_what_is_no_description_is_an_error(descriptions: Descriptions) -> None:
    with pytest.raises(ValueError, match="too short"):
        descriptions.take_offer("v=0\r\nm=video\r\n")
