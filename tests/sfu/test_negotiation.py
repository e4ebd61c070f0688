"""m-sections and payload types over several offers and answers."""

from __future__ import annotations

import pytest

from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.negotiation import Negotiation, Sending, match_codec, new_outgoing
from signal_manager.sfu.sdp import Codec, Description, TransportLines, parse
from tests.sfu.sdps import FINGERPRINT, answer_to, sdp, section

VP8 = Codec(96, "vp8", "VP8/90000", rtx_payload_type=97)
H264 = Codec(96, "h264", "H264/90000", "profile-level-id=42e01f;packetization-mode=1", rtx_payload_type=97)
LINES = TransportLines(ufrag="u", pwd="p", fingerprint=FINGERPRINT, setup="actpass", candidates=())


def read(*sections: list[str]) -> Description:
    return parse(sdp(*sections), max_size=100_000)


def offer(negotiation: Negotiation) -> str:
    negotiation.offered()
    return negotiation.render(LINES)


def answered(negotiation: Negotiation, *, direction: str = "recvonly") -> None:
    text = answer_to(offer(negotiation), direction=direction)["sdp"]
    negotiation.apply_answer(parse(text, max_size=100_000))


def pull(negotiation: Negotiation, codec: Codec = VP8) -> str:
    kind = "audio" if codec.name == "opus" else "video"
    return negotiation.open_sending(kind, codec, new_outgoing("s", "t")).mid


def test_a_rejected_section_is_used_again_under_a_new_mid_and_another_kind() -> None:
    negotiation = Negotiation(max_sections=8)
    negotiation.apply_offer(read(section("0"), section("1", "audio")), receive={"0", "1"}, send={})
    negotiation.apply_offer(read(section("0", port=0), section("1", "audio")), receive={"1"}, send={})
    mid = pull(negotiation, Codec(111, "opus", "opus/48000/2"))
    answered(negotiation)

    assert [(s.mid, s.kind, s.direction) for s in negotiation.sections] == [
        (mid, "audio", "sendonly"),
        ("1", "audio", "inactive"),
    ]
    assert mid not in ("0", "1")


def test_a_client_uses_a_rejected_section_again() -> None:
    negotiation = Negotiation(max_sections=8)
    negotiation.apply_offer(read(section("0", port=0)), receive={}, send={})
    renewed = read(section("9", "audio"))
    negotiation.check_offer(renewed)
    negotiation.apply_offer(renewed, receive={"9"}, send={})

    assert [(s.mid, s.direction) for s in negotiation.sections] == [("9", "recvonly")]


def test_a_section_both_sides_left_inactive_is_used_again_under_its_mid() -> None:
    negotiation = Negotiation(max_sections=8)
    first = pull(negotiation)
    answered(negotiation)
    negotiation.sections[0].idle()
    second = pull(negotiation)
    answered(negotiation)
    third = pull(negotiation)

    assert second != first  # the client still expects media on the first
    assert third == first
    assert len(negotiation.sections) == 2


def test_sections_are_bounded() -> None:
    negotiation = Negotiation(max_sections=2)
    pull(negotiation)
    pull(negotiation)

    for too_many in (lambda: pull(negotiation), negotiation.open_data):
        with pytest.raises(RefusedError, match="used up its 2 m-sections") as caught:
            too_many()
        assert caught.value.status == 410
    with pytest.raises(RefusedError, match="m-sections"):
        negotiation.check_offer(read(*(section(str(mid)) for mid in range(3))))


def test_two_codecs_of_one_payload_type_get_different_ones_and_the_same_codec_the_same() -> None:
    negotiation = Negotiation(max_sections=8)
    for codec in (VP8, H264, VP8):
        pull(negotiation, codec)

    types = [(s.codecs[0].payload_type, s.codecs[0].rtx_payload_type) for s in negotiation.sections]
    assert types[0] == types[2] == (96, 97)
    assert len({*types[0], *types[1]}) == 4


def test_the_clients_own_payload_types_are_used_for_what_it_pulls() -> None:
    negotiation = Negotiation(max_sections=8)
    negotiation.apply_offer(read(section("0")), receive={"0"}, send={})
    pull(negotiation, Codec(120, "vp8", "VP8/90000"))

    assert negotiation.sections[1].codecs == (Codec(96, "vp8", "VP8/90000"),)


def test_payload_types_run_out() -> None:
    negotiation = Negotiation(max_sections=100)
    for profile in range(61):
        pull(negotiation, Codec(96, "vp9", "VP9/90000", f"profile-id={profile}"))

    with pytest.raises(RefusedError, match="payload types"):
        pull(negotiation)


def test_an_answer_that_turns_a_section_down_ends_it() -> None:
    negotiation = Negotiation(max_sections=8)
    pull(negotiation)
    text = answer_to(offer(negotiation))["sdp"].replace("m=video 9", "m=video 0")
    negotiation.apply_answer(parse(text, max_size=100_000))

    assert negotiation.sections[0].is_rejected
    assert negotiation.section("0") is None


def test_an_answer_cannot_revive_a_section() -> None:
    negotiation = Negotiation(max_sections=8)
    negotiation.apply_offer(read(section("0", port=0), section("1", port=0)), receive={}, send={})
    pull(negotiation)
    text = answer_to(offer(negotiation))["sdp"].replace("m=video 0", "m=video 9")

    with pytest.raises(RefusedError, match="rejected"):
        negotiation.apply_answer(parse(text, max_size=100_000))
    assert negotiation.has_pending_offer


def test_a_client_that_stops_receiving_can_start_again() -> None:
    negotiation = Negotiation(max_sections=8)
    sending = Sending(new_outgoing("s", "t"), VP8)
    negotiation.apply_offer(read(section("0", direction="recvonly")), receive={}, send={"0": sending})
    directions = []
    for direction in ("inactive", "recvonly", "sendrecv"):
        negotiation.apply_offer(read(section("0", direction=direction)), receive={}, send={})
        directions.append(negotiation.sections[0].direction)

    assert directions == ["inactive", "sendonly", "sendonly"]


def test_a_codec_matches_whatever_its_payload_type() -> None:
    assert match_codec(H264, [VP8, Codec(120, "h264", "H264/90000", H264.fmtp)]) is not None
    assert match_codec(H264, [VP8]) is None


SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
NUMBER = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"


def test_a_publisher_is_asked_for_transport_wide_numbers_and_a_subscriber_offered_times_of_sending() -> None:
    negotiation = Negotiation(max_sections=8)
    more = (f"a=extmap:2 {NUMBER}", f"a=extmap:6 {SEND_TIME}", "a=extmap:3 urn:something:else")
    negotiation.apply_offer(read(section("0", more=more)), receive={"0"}, send={})
    answer = negotiation.render(LINES)
    pull(negotiation)
    publishing, pulling = offer(negotiation).split("m=video")[1:]

    assert f"a=extmap:2 {NUMBER}" in answer
    assert "a=rtcp-fb:96 transport-cc" in publishing
    assert SEND_TIME not in answer
    assert f"a=extmap:6 {SEND_TIME}" in pulling
    assert "transport-cc" not in pulling


def test_an_extension_of_the_sfus_takes_no_id_that_means_something_else_to_the_client() -> None:
    negotiation = Negotiation(max_sections=8)
    more = ("a=extmap:2 urn:something:else", "a=extmap:1/sendonly urn:something:more")
    negotiation.apply_offer(read(section("0", more=more)), receive={"0"}, send={})
    pull(negotiation)

    assert f"a=extmap:3 {SEND_TIME}" in offer(negotiation)


def test_times_of_sending_are_left_out_where_the_answer_leaves_them_out() -> None:
    negotiation = Negotiation(max_sections=8)
    mid = pull(negotiation)
    answered(negotiation)

    settled = negotiation.section(mid)
    assert settled is not None
    assert settled.send_time_id is None
