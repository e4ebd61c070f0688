"""The order of one media session, told as transcripts: what happens, and what is done about it."""

from __future__ import annotations

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.media import errors
from signal_manager.media.base import (
    ChannelResult,
    ClosedTracks,
    EstablishedChannels,
    ItemError,
    LocalTrack,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    TrackResult,
)
from signal_manager.media.negotiation import (
    TRANSITIONS,
    CallSfu,
    CloseMids,
    Effect,
    Limits,
    Negotiation,
    Refuse,
    ReplaceSession,
    Reply,
    State,
    SweepSession,
)
from signal_manager.media.operations import (
    Answer,
    CloseChannels,
    CloseTracks,
    EstablishChannels,
    Open,
    OpenChannels,
    Operation,
    Publish,
    Pull,
    Result,
    UpdateTracks,
)

SESSION = MediaSessionId("session-1")
SECOND = MediaSessionId("session-2")
PUBLISHER = MediaSessionId("publisher")
CAMERA = RemoteTrack(session_id=PUBLISHER, track_name="camera")
PUBLISH = Publish("offer", (LocalTrack(mid="0", track_name="camera"),))
PULL = Pull((CAMERA,))
CLOSE = CloseTracks(("0",))
ANSWER = Answer("answer")

PUBLISHED = Published(tracks=(TrackResult(mid="0", track_name="camera"),), answer_sdp="answer")
PULLED = Pulled(tracks=(TrackResult(mid="5", track_name="camera"),), offer_sdp="offer", requires_renegotiation=True)
REUSED = Pulled(tracks=(TrackResult(mid="5", track_name="camera"),))
EARLY = Pulled(tracks=(TrackResult(error=ItemError(error_code="empty_track_error", message="no packets")),))
PARTLY = Pulled(tracks=(*PULLED.tracks, *EARLY.tracks), offer_sdp="offer", requires_renegotiation=True)
CLOSED = ClosedTracks(tracks=(TrackResult(mid="0"),))
ESTABLISHED = EstablishedChannels(
    channel=ChannelResult(data_channel_name="server-events", id=0), offer_sdp="offer", requires_renegotiation=True
)


class Transcript:
    """A negotiation on a clock of its own; `done` is what it did since it was last looked at."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.negotiation = Negotiation(limits=limits)
        self.now = 100.0
        self._requests = 0
        self._call = 0
        self._effects: list[Effect] = []

    def ask(self, operation: Operation) -> int:
        """Submit a request; returns its number."""
        self._requests += 1
        self._note(self.negotiation.submit(self._requests, operation, self.now))
        return self._requests

    def replies(self, result: Result, *, call: int | None = None) -> None:
        """The SFU replies to its latest call."""
        self._note(self.negotiation.replied(call or self._call, result, self.now))

    def fails(self, error: errors.MediaFault, *, call: int | None = None, mids: tuple[str, ...] = ()) -> None:
        """The latest call fails."""
        self._note(self.negotiation.failed(call or self._call, error, self.now, mids=mids))

    def passes(self, seconds: float) -> None:
        """Time passes, with a tick at each deadline on the way."""
        until = self.now + seconds
        while (deadline := self.negotiation.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self._note(self.negotiation.tick(self.now))
        self.now = until

    def leaves(self) -> None:
        self._note(self.negotiation.close())

    def loses(self, publisher: MediaSessionId) -> None:
        """A publisher's session ends."""
        self._note(self.negotiation.source_gone(publisher, self.now))

    def abandons(self) -> None:
        self._note(self.negotiation.abandon())

    def withdraws(self, request: int) -> None:
        self._note(self.negotiation.withdraw(request, self.now))

    @property
    def state(self) -> State:
        return self.negotiation.state

    @property
    def done(self) -> list[str]:
        """Take the effects as lines."""
        lines = [_line(effect) for effect in self._effects]
        self._effects.clear()
        return lines

    @property
    def calls(self) -> list[Operation]:
        """Take the operations that went to the SFU, and forget the other effects."""
        made = [effect.operation for effect in self._effects if isinstance(effect, CallSfu)]
        self._effects.clear()
        return made

    def _note(self, effects: list[Effect]) -> None:
        self._effects += effects
        for effect in effects:
            if isinstance(effect, CallSfu):
                self._call = effect.call


def _line(effect: Effect) -> str:
    match effect:
        case CallSfu():
            return f"call {type(effect.operation).__name__} on {effect.session_id}"
        case Reply():
            return f"reply to {effect.request}"
        case Refuse():
            return f"refuse {effect.request}: {type(effect.error).__name__}"
        case CloseMids():
            return f"close {' '.join(effect.mids)} of {effect.session_id}"
        case SweepSession():
            return f"sweep {'unsettled ' if effect.is_unsettled else ''}{effect.session_id}"
        case ReplaceSession():
            return f"replace {effect.session_id}: {effect.reason.value}"


@pytest.fixture
def sfu() -> Transcript:
    """A negotiation whose session is open, with nothing going on."""
    transcript = Transcript()
    transcript.ask(Open())
    transcript.replies(SESSION)
    _ = transcript.done
    return transcript


# Opening


def test_a_session_is_opened_once() -> None:
    sfu = Transcript()
    first = sfu.ask(Open("label"))
    again = sfu.ask(Open())
    sfu.replies(SESSION)

    assert sfu.done == ["call Open on None", f"reply to {first}", f"reply to {again}"]
    assert (sfu.negotiation.session_id, sfu.negotiation.generation) == (SESSION, 1)


def test_without_a_session_nothing_else_is_done() -> None:
    sfu = Transcript()
    sfu.ask(PUBLISH)
    sfu.ask(ANSWER)

    assert sfu.done == ["refuse 1: SessionReplacedError", "refuse 2: SessionReplacedError"]


def test_what_was_asked_while_opening_follows() -> None:
    sfu = Transcript()
    sfu.ask(Open())
    sfu.ask(PUBLISH)
    sfu.replies(SESSION)

    assert sfu.done == ["call Open on None", "reply to 1", f"call Publish on {SESSION}"]


def test_a_failed_opening_refuses_what_waited_for_it() -> None:
    sfu = Transcript()
    sfu.ask(Open())
    sfu.ask(PUBLISH)
    sfu.fails(errors.UnreachableError("down"))

    assert sfu.done == ["call Open on None", "refuse 1: UnreachableError", "refuse 2: SessionReplacedError"]
    assert sfu.state is State.UNOPENED


def test_an_opening_that_never_ends_is_given_up_and_swept_when_it_ends_after_all() -> None:
    sfu = Transcript()
    sfu.ask(Open())
    sfu.passes(30)

    assert sfu.done == ["call Open on None", "refuse 1: NoAnswerError", "replace None: call_lost"]

    sfu.ask(Open())
    sfu.replies(SESSION, call=1)
    sfu.replies(SECOND, call=2)

    assert sfu.done == ["call Open on None", f"sweep {SESSION}", "reply to 2"]
    assert (sfu.negotiation.session_id, sfu.negotiation.generation) == (SECOND, 2)


# One after the other


def test_the_next_operation_waits_for_the_reply(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.ask(CLOSE)

    assert sfu.done == [f"call Publish on {SESSION}"]

    sfu.replies(PUBLISHED)

    assert sfu.done == ["reply to 2", f"call CloseTracks on {SESSION}"]


def test_the_next_operation_waits_for_the_clients_answer_to_be_accepted(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.ask(PUBLISH)
    sfu.replies(PULLED)

    assert sfu.done == [f"call Pull on {SESSION}", "reply to 2"]
    assert sfu.state is State.AWAITING_ANSWER

    sfu.ask(ANSWER)

    assert sfu.done == [f"call Answer on {SESSION}"]

    sfu.replies(None)

    assert sfu.done == ["reply to 4", f"call Publish on {SESSION}"]


def test_a_pull_into_a_transceiver_that_is_there_needs_no_answer(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.replies(REUSED)

    assert sfu.state is State.IDLE


def test_establishing_channels_awaits_an_answer_like_a_pull(sfu: Transcript) -> None:
    sfu.ask(EstablishChannels())
    sfu.replies(ESTABLISHED)

    assert sfu.state is State.AWAITING_ANSWER


@pytest.mark.parametrize("operation", [UpdateTracks(()), OpenChannels(()), CloseChannels((1,))])
def test_operations_without_sdp_take_their_turn_too(sfu: Transcript, operation: Operation) -> None:
    sfu.ask(operation)
    sfu.ask(PUBLISH)
    _ = sfu.done
    sfu.replies(())

    assert sfu.done == ["reply to 2", f"call Publish on {SESSION}"]


def test_an_answer_without_an_offer_is_refused_and_disturbs_nothing(sfu: Transcript) -> None:
    sfu.ask(ANSWER)
    sfu.ask(PULL)
    sfu.ask(ANSWER)

    assert sfu.done == ["refuse 2: InvalidRequestError", f"call Pull on {SESSION}", "refuse 4: InvalidRequestError"]


def test_a_second_answer_is_refused(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.replies(PULLED)
    sfu.ask(ANSWER)
    _ = sfu.done
    sfu.ask(ANSWER)

    assert sfu.done == ["refuse 4: InvalidRequestError"]
    assert sfu.state is State.ANSWERING


def test_the_queue_is_bounded(sfu: Transcript) -> None:
    for _ in range(34):
        sfu.ask(PUBLISH)

    assert sfu.done == [f"call Publish on {SESSION}", "refuse 35: TooManyCallsError"]


def test_a_request_that_cannot_begin_in_time_is_refused(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.passes(5)
    sfu.ask(PUBLISH)
    sfu.passes(20)
    sfu.replies(PULLED)
    _ = sfu.done
    sfu.passes(10)

    assert sfu.done == ["refuse 3: QueuedTooLongError"]
    assert sfu.state is State.AWAITING_ANSWER


def test_a_withdrawn_request_is_never_begun(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.withdraws(sfu.ask(PULL))
    _ = sfu.done
    sfu.replies(PUBLISHED)

    assert sfu.done == ["reply to 2"]


def test_a_request_at_the_sfu_cannot_be_withdrawn(sfu: Transcript) -> None:
    sfu.withdraws(sfu.ask(PULL))
    sfu.replies(PULLED)

    assert sfu.state is State.AWAITING_ANSWER


# Refusals


def test_a_refused_operation_lets_the_next_one_begin(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.ask(PULL)
    sfu.fails(errors.InvalidSessionDescriptionError("no SDP"))

    assert sfu.done == [
        f"call Publish on {SESSION}",
        "refuse 2: InvalidSessionDescriptionError",
        f"call Pull on {SESSION}",
    ]


def test_arguments_that_cannot_be_sent_do_the_session_no_harm(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu._note(sfu.negotiation.failed(2, InvalidRequestError("65 tracks"), sfu.now))

    assert sfu.done == [f"call Pull on {SESSION}", "refuse 2: InvalidRequestError"]
    assert sfu.state is State.IDLE


def test_a_refused_answer_may_be_corrected_while_its_time_lasts(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.replies(PULLED)
    sfu.passes(10)
    sfu.ask(ANSWER)
    _ = sfu.done
    sfu.fails(errors.InvalidSessionDescriptionError("no SDP"))

    assert sfu.done == ["refuse 3: InvalidSessionDescriptionError"]
    assert sfu.negotiation.next_deadline() == 115.0

    sfu.ask(ANSWER)
    sfu.replies(None)

    assert sfu.state is State.IDLE


def test_an_sdp_error_without_an_sdp_means_that_the_sfu_is_out_of_step(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.fails(errors.InvalidSessionDescriptionError("overlap"))

    assert sfu.done == [
        f"call Pull on {SESSION}",
        "refuse 2: InvalidSessionDescriptionError",
        f"sweep unsettled {SESSION}",
        f"replace {SESSION}: out_of_step",
    ]


# Too early


def test_a_pull_that_comes_too_early_is_repeated_before_its_errors_are_passed_on(sfu: Transcript) -> None:
    sfu.ask(PULL)
    for pause in (0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0):
        sfu.replies(EARLY)
        assert sfu.state is State.BACKING_OFF
        sfu.passes(pause)

    assert sfu.calls == [PULL] * 8

    sfu.replies(EARLY)

    assert sfu.done == ["reply to 2"]
    assert sfu.state is State.IDLE


def early(*publishers: MediaSessionId) -> Pulled:
    error = ItemError(error_code="not_found_track_error", message="no packets")
    return Pulled(tracks=tuple(TrackResult(session_id=publisher, error=error) for publisher in publishers))


def test_a_pull_whose_publisher_has_gone_ends_with_its_errors_at_once(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.ask(CLOSE)
    sfu.replies(early(PUBLISHER))
    _ = sfu.done

    sfu.loses(PUBLISHER)

    assert sfu.done == ["reply to 2", f"call CloseTracks on {SESSION}"]
    assert sfu.state is State.CALLING


def test_a_pull_whose_publisher_goes_during_the_call_is_not_repeated(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.loses(PUBLISHER)
    sfu.replies(early(PUBLISHER))

    assert sfu.done[-1] == "reply to 2"
    assert sfu.state is State.IDLE


def test_a_pull_whose_publisher_goes_while_it_waits_is_tried_once(sfu: Transcript) -> None:
    sfu.ask(CLOSE)
    sfu.ask(PULL)
    sfu.loses(PUBLISHER)
    sfu.replies(CLOSED)
    sfu.replies(early(PUBLISHER))

    assert sfu.done[-2:] == [f"call Pull on {SESSION}", "reply to 3"]


def test_a_pull_from_several_waits_for_those_that_stay(sfu: Transcript) -> None:
    sfu.ask(Pull((CAMERA, RemoteTrack(session_id=SECOND, track_name="camera"))))
    sfu.replies(early(PUBLISHER, SECOND))

    sfu.loses(PUBLISHER)
    assert sfu.state is State.BACKING_OFF
    sfu.loses(SECOND)

    assert sfu.negotiation.state is State.IDLE


def test_a_pull_that_waits_for_its_own_session_does_so_whoever_goes(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.fails(errors.SessionNotReadyError("not connected"))

    sfu.loses(PUBLISHER)

    assert sfu.state is State.BACKING_OFF


def test_a_publisher_that_is_back_is_waited_for_again(sfu: Transcript) -> None:
    """The negotiation forgets a publisher with the last pull that named it."""
    sfu.ask(PULL)
    sfu.loses(PUBLISHER)
    sfu.replies(early(PUBLISHER))

    sfu.ask(PULL)
    sfu.replies(early(PUBLISHER))

    assert sfu.state is State.BACKING_OFF


def test_a_session_that_is_not_ready_is_asked_again(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.fails(errors.SessionNotReadyError("not connected"))
    sfu.ask(PULL)
    sfu.passes(0.25)

    assert sfu.calls == [PUBLISH, PUBLISH]

    sfu.replies(PUBLISHED)

    assert sfu.done == ["reply to 2", f"call Pull on {SESSION}"]


def test_patience_ends_with_the_error_and_the_session_stays(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.passes(9.8)
    _ = sfu.done
    sfu.fails(errors.SessionNotReadyError("not connected"))

    assert sfu.done == ["refuse 2: SessionNotReadyError"]
    assert sfu.state is State.IDLE


def test_a_partly_early_pull_is_passed_on_since_what_succeeded_must_not_be_repeated(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.replies(PARTLY)

    assert sfu.done == [f"call Pull on {SESSION}", "reply to 2"]
    assert sfu.state is State.AWAITING_ANSWER


def test_channels_that_are_not_ready_inside_a_success_are_asked_for_again(sfu: Transcript) -> None:
    sfu.ask(OpenChannels(()))
    sfu.replies((ChannelResult(error=ItemError(error_code="session_error", message="not ready")),))

    assert sfu.state is State.BACKING_OFF


def test_what_waits_for_its_next_attempt_can_be_withdrawn(sfu: Transcript) -> None:
    pull = sfu.ask(PULL)
    sfu.ask(PUBLISH)
    sfu.replies(EARLY)
    _ = sfu.done
    sfu.withdraws(pull)

    assert sfu.done == [f"call Publish on {SESSION}"]


# Losses


def test_a_missed_answer_costs_the_session(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.ask(PUBLISH)
    sfu.replies(PULLED)
    _ = sfu.done
    sfu.passes(15)

    assert sfu.done == [
        f"close 5 of {SESSION}",
        f"sweep {SESSION}",
        "refuse 3: SessionReplacedError",
        f"replace {SESSION}: answer_missed",
    ]

    sfu.ask(ANSWER)
    sfu.ask(PUBLISH)

    assert sfu.done == ["refuse 4: AnswerTooLateError", "refuse 5: SessionReplacedError"]


def test_the_next_session_is_another_generation(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.replies(PULLED)
    sfu.passes(15)
    sfu.ask(Open())
    sfu.replies(SECOND)
    _ = sfu.done
    sfu.ask(PULL)

    assert sfu.done == [f"call Pull on {SECOND}"]
    assert sfu.negotiation.generation == 2


def test_a_lost_reply_costs_the_session_with_what_may_be_there(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.ask(PULL)
    _ = sfu.done
    sfu.fails(errors.NoAnswerError("cut"))

    assert sfu.done == [
        "refuse 2: NoAnswerError",
        f"close 0 of {SESSION}",
        f"sweep unsettled {SESSION}",
        "refuse 3: SessionReplacedError",
        f"replace {SESSION}: call_lost",
    ]


def test_a_gone_session_is_settled(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.fails(errors.SessionGoneError("410"))

    assert sfu.done == [
        f"call Pull on {SESSION}",
        "refuse 2: SessionGoneError",
        f"sweep {SESSION}",
        f"replace {SESSION}: session_gone",
    ]


def test_a_lost_answer_costs_the_session(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.replies(PULLED)
    sfu.ask(ANSWER)
    _ = sfu.done
    sfu.fails(errors.NoAnswerError("cut"))

    assert sfu.done == [
        "refuse 3: NoAnswerError",
        f"close 5 of {SESSION}",
        f"sweep unsettled {SESSION}",
        f"replace {SESSION}: call_lost",
    ]


def test_mids_that_could_not_be_recorded_are_closed_at_once(sfu: Transcript) -> None:
    sfu.ask(PULL)
    _ = sfu.done
    sfu.fails(errors.SessionReplacedError("not recorded"), mids=("5",))

    assert sfu.done == [
        "refuse 2: SessionReplacedError",
        f"close 5 of {SESSION}",
        f"sweep unsettled {SESSION}",
        f"replace {SESSION}: call_lost",
    ]


def test_a_call_that_hangs_is_given_up_and_its_late_mids_are_closed(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.passes(30)

    assert sfu.done == [
        f"call Pull on {SESSION}",
        f"sweep unsettled {SESSION}",
        "refuse 2: NoAnswerError",
        f"replace {SESSION}: call_lost",
    ]

    sfu.replies(PULLED, call=2)

    assert sfu.done == [f"close 5 of {SESSION}"]


def test_a_late_reply_of_an_older_generation_does_not_touch_the_present_one(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.abandons()
    sfu.ask(Open())
    sfu.replies(SECOND)
    sfu.ask(PULL)
    _ = sfu.done
    sfu.replies(PULLED, call=2)

    assert sfu.done == [f"close 5 of {SESSION}"]
    assert sfu.state is State.CALLING


def test_a_late_failure_is_forgotten_but_for_its_mids(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.abandons()
    _ = sfu.done
    sfu.fails(errors.NoAnswerError("cut"), call=2)

    assert sfu.done == []

    sfu.ask(Open())
    sfu.replies(SECOND)
    sfu.ask(PULL)
    sfu.abandons()
    _ = sfu.done
    sfu.fails(errors.SessionReplacedError("not recorded"), call=4, mids=("5",))

    assert sfu.done == [f"close 5 of {SECOND}"]


def test_a_call_is_reported_once(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.replies(PUBLISHED)

    with pytest.raises(RuntimeError, match="call 2 was reported, expected call None"):
        sfu.replies(PUBLISHED)


# Leaving


def test_leaving_closes_what_is_there(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.replies(PUBLISHED)
    sfu.ask(PULL)
    sfu.replies(PULLED)
    _ = sfu.done
    sfu.leaves()

    assert sfu.done == [f"close 0 5 of {SESSION}", f"sweep {SESSION}"]


def test_what_was_closed_before_is_not_closed_again(sfu: Transcript) -> None:
    sfu.ask(PUBLISH)
    sfu.replies(PUBLISHED)
    sfu.ask(CLOSE)
    sfu.replies(CLOSED)
    _ = sfu.done
    sfu.leaves()

    assert sfu.done == [f"sweep {SESSION}"]


def test_a_mid_whose_closing_failed_is_still_there(sfu: Transcript) -> None:
    failed = TrackResult(mid="0", error=ItemError(error_code="backend_error", message="no"))
    sfu.ask(PUBLISH)
    sfu.replies(PUBLISHED)
    sfu.ask(CLOSE)
    sfu.replies(ClosedTracks(tracks=(failed,)))
    _ = sfu.done
    sfu.leaves()

    assert sfu.done == [f"close 0 of {SESSION}", f"sweep {SESSION}"]


def test_leaving_refuses_what_waits_and_closes_what_comes_later(sfu: Transcript) -> None:
    sfu.ask(PULL)
    sfu.ask(PUBLISH)
    _ = sfu.done
    sfu.leaves()

    assert sfu.done == [
        f"sweep unsettled {SESSION}",
        "refuse 2: SessionReplacedError",
        "refuse 3: SessionReplacedError",
    ]
    assert sfu.negotiation.next_deadline() is None

    sfu.replies(PULLED)
    sfu.ask(Open())
    sfu.ask(ANSWER)

    assert sfu.done == [f"close 5 of {SESSION}", "refuse 4: SessionReplacedError", "refuse 5: SessionReplacedError"]


def test_leaving_twice_or_before_anything_is_no_harm() -> None:
    sfu = Transcript()
    sfu.leaves()
    sfu.leaves()
    sfu.abandons()

    assert sfu.done == []
    assert sfu.state is State.CLOSED


# The table


def test_every_state_but_the_last_can_be_left_and_every_state_can_be_reached() -> None:
    left = {state for state, _ in TRANSITIONS}
    reached = set(TRANSITIONS.values())

    assert left == set(State) - {State.CLOSED}
    assert reached == set(State)


def test_a_session_can_be_lost_in_every_state_that_has_one_or_will() -> None:
    losing = {state for (state, event) in TRANSITIONS if event.value == "lost"}

    assert losing == set(State) - {State.UNOPENED, State.CLOSED}
