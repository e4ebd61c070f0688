"""One session under random fire: publishes, pulls, answers, losses and time-outs in any order.

The model is an SFU that keeps books: what overlaps, what it holds, and what its lost replies left behind.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signal_manager.media import errors
from signal_manager.media.base import (
    ClosedTracks,
    ItemError,
    LocalTrack,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    TrackResult,
)
from signal_manager.media.negotiation import (
    CallSfu,
    CloseMids,
    Effect,
    Limits,
    Negotiation,
    Refuse,
    ReplaceSession,
    Reply,
    SweepSession,
)
from signal_manager.media.operations import Answer, CloseTracks, Open, Operation, Publish, Pull, Result

LIMITS = Limits(waiting=4)
CAMERA = RemoteTrack(session_id=MediaSessionId("publisher"), track_name="camera")
REFUSALS = [
    errors.InvalidParametersError("refused"),
    errors.InvalidSessionDescriptionError("bad SDP"),
    errors.SessionNotReadyError("later"),
    errors.UnreachableError("never sent"),
]
EARLY = TrackResult(
    session_id=CAMERA.session_id, error=ItemError(error_code="not_found_track_error", message="not sending")
)


@dataclass
class Session:
    """What the modelled SFU holds for one session."""

    offers: bool = False  # an offer of its own waits for an answer
    mids: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # mids that a reply has named
    next_mid: int = 100


class NegotiationModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.negotiation = Negotiation(limits=LIMITS)
        self.now = 0.0
        self.sessions: dict[MediaSessionId, Session] = {}
        self.in_flight: dict[int, CallSfu] = {}
        self.waiting: set[int] = set()  # requests without an outcome
        self.requests: dict[int, Operation] = {}
        self.swept: dict[MediaSessionId, bool] = {}  # given-up sessions, and whether as unsettled
        self.numbers = itertools.count(1)
        self.session_numbers = itertools.count(1)

    # What the machine says

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case CallSfu():
                    self.check_order(effect)
                    self.in_flight[effect.call] = effect
                case Reply() | Refuse():
                    self.waiting.remove(effect.request)  # raises for a second outcome
                case CloseMids():
                    self.sessions[effect.session_id].mids -= set(effect.mids)
                case SweepSession():
                    self.swept[effect.session_id] = self.swept.get(effect.session_id, False) or effect.is_unsettled
                case ReplaceSession():
                    assert effect.session_id is None or effect.session_id in self.swept

    def check_order(self, call: CallSfu) -> None:
        """No overlap reaches the SFU, and nothing but an answer follows its offer."""
        assert call.generation == self.negotiation.generation
        same_session = [other for other in self.in_flight.values() if other.session_id == call.session_id]
        if isinstance(call.operation, Open):
            return  # an opening that was given up may still be in flight: it is another session
        assert call.session_id is not None
        assert call.session_id not in self.swept
        assert same_session == []
        assert self.sessions[call.session_id].offers is isinstance(call.operation, Answer)

    # What clients do

    def submit(self, operation: Operation) -> None:
        number = next(self.numbers)
        self.waiting.add(number)
        self.requests[number] = operation
        self.perform(self.negotiation.submit(number, operation, self.now))

    @initialize()
    def begin(self) -> None:
        self.open()
        self.deliver("ok")

    @precondition(lambda self: self.negotiation.session_id is None)
    @rule()
    def open(self) -> None:
        self.submit(Open())

    @rule(mid=st.sampled_from("012"))
    def publish(self, mid: str) -> None:
        self.submit(Publish("offer", (LocalTrack(mid=mid, track_name=mid),)))

    @rule(count=st.integers(1, 3))
    def pull(self, count: int) -> None:
        self.submit(Pull((CAMERA,) * count))

    @precondition(lambda self: self.negotiation.session_id is not None)
    @rule()
    def answer(self) -> None:
        self.submit(Answer("answer"))

    @rule(mid=st.sampled_from(["0", "1", "100", "101"]))
    def close_tracks(self, mid: str) -> None:
        self.submit(CloseTracks((mid,)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        is_with_sfu = any(self.requests[number] is call.operation for call in self.in_flight.values())
        if not is_with_sfu:
            self.waiting.remove(number)
        self.perform(self.negotiation.withdraw(number, self.now))

    @rule()
    def source_goes(self) -> None:
        self.perform(self.negotiation.source_gone(CAMERA.session_id, self.now))

    # What the SFU and the clock do

    @precondition(lambda self: self.in_flight)
    @rule(kind=st.sampled_from(["ok", "ok", "ok", "early", "partly"]))
    def deliver(self, kind: str) -> None:
        """The latest call succeeds; calls of sessions given up stay in flight until they are late."""
        call = self.in_flight.pop(max(self.in_flight))
        self.perform(self.negotiation.replied(call.call, self.commit(call, kind, is_told=True), self.now))

    @precondition(lambda self: self.in_flight)
    @rule(error=st.sampled_from(REFUSALS))
    def refuse(self, error: errors.MediaFault) -> None:
        call = self.in_flight.pop(max(self.in_flight))
        self.perform(self.negotiation.failed(call.call, error, self.now))

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.negotiation.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.perform(self.negotiation.tick(self.now))
        self.now = until

    @rule(data=st.data(), kind=st.sampled_from(["abandon", "lost before", "lost after", "late", "gone", "time out"]))
    def disturb(self, data: st.DataObject, kind: str) -> None:
        """What costs a session, all in one rule so that it happens now and then."""
        if kind == "abandon":
            self.perform(self.negotiation.abandon())
        elif kind == "time out":
            self.time_passes(data.draw(st.sampled_from([16.0, 31.0])))
        elif self.in_flight:
            call = self.in_flight.pop(data.draw(st.sampled_from(sorted(self.in_flight))))
            if kind == "late":
                self.perform(self.negotiation.replied(call.call, self.commit(call, "ok", is_told=True), self.now))
            elif kind == "gone":
                if call.session_id is not None:
                    self.sessions[call.session_id].mids.clear()
                self.perform(self.negotiation.failed(call.call, errors.SessionGoneError("410"), self.now))
            else:
                if kind == "lost after":
                    self.commit(call, "ok", is_told=False)
                self.perform(self.negotiation.failed(call.call, errors.NoAnswerError("lost"), self.now))

    def commit(self, call: CallSfu, kind: str, *, is_told: bool) -> Result:
        """Change the books as the call asks."""
        if isinstance(call.operation, Open):
            session_id = MediaSessionId(f"session-{next(self.session_numbers)}")
            if is_told:
                self.sessions[session_id] = Session()
            return session_id
        assert call.session_id is not None
        session = self.sessions[call.session_id]
        result: Result = None
        caused: set[str] = set()
        match call.operation:
            case Publish():
                caused = {track.mid for track in call.operation.tracks}
                result = Published(tracks=tuple(TrackResult(mid=mid) for mid in caused), answer_sdp="answer")
            case Pull() if kind == "early":
                result = Pulled(tracks=(EARLY,) * len(call.operation.tracks))
            case Pull():
                caused = {str(session.next_mid + index) for index in range(len(call.operation.tracks))}
                session.next_mid += len(caused)
                session.offers = True
                late = (EARLY,) if kind == "partly" else ()
                tracks = (*(TrackResult(mid=mid) for mid in sorted(caused)), *late)
                result = Pulled(tracks=tracks, offer_sdp="offer", requires_renegotiation=True)
            case Answer():
                session.offers = False
            case CloseTracks():
                session.mids -= set(call.operation.mids)
                result = ClosedTracks(tracks=tuple(TrackResult(mid=mid) for mid in call.operation.mids))
        session.mids |= caused
        if is_told:
            session.told |= caused
        return result

    # What must hold

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        """Every wait has a deadline, and so has the SFU's for an answer to its offer."""
        session_id = self.negotiation.session_id
        offers = session_id is not None and self.sessions[session_id].offers
        if self.waiting or offers:
            assert self.negotiation.next_deadline() is not None

    def teardown(self) -> None:
        """The member leaves, late replies arrive, and no mid stays open that nobody closes."""
        self.perform(self.negotiation.close())

        assert self.waiting == set()
        assert self.negotiation.next_deadline() is None
        for call in list(self.in_flight.values()):
            del self.in_flight[call.call]
            self.perform(self.negotiation.replied(call.call, self.commit(call, "ok", is_told=True), self.now))
        for session_id, session in self.sessions.items():
            assert session_id in self.swept
            assert session.mids & session.told == set()
            assert not session.mids or self.swept[session_id], "mids that nobody knows of need an unsettled sweep"


NegotiationModel.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestNegotiationModel = NegotiationModel.TestCase
