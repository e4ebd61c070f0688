"""The order of operations on one member's media session, as a pure state machine.

An SFU refuses overlapping negotiations. Operations therefore wait in one queue, which stops from a call to the SFU
until the SFU has accepted the client's answer to its offer. `Negotiation` takes events with their time (`now`, in
seconds of any one clock) and returns effects; `negotiator.py` carries them out.

Each opened session is a *generation*. A generation is lost if its answer never came, it expired, or a lost reply left
its state unknown. Then every open request is refused, its known mids are closed, the session is swept for others, and
only `Open` is accepted. Later replies for that generation are dropped, and the mids in them are closed.
"""

from __future__ import annotations

import enum
from collections import deque

import msgspec

from signal_manager.errors import InvalidRequestError, SignalManagerError
from signal_manager.media.base import MediaSessionId
from signal_manager.media.calls import Calls
from signal_manager.media.errors import (
    After,
    AnswerTooLateError,
    InvalidSessionDescriptionError,
    MediaFault,
    NoAnswerError,
    QueuedTooLongError,
    SessionGoneError,
    SessionReplacedError,
    TooManyCallsError,
)
from signal_manager.media.operations import (
    Answer,
    Open,
    Operation,
    Publish,
    Result,
    awaits_answer,
    carries_sdp,
    caused_mids,
    closed_mids,
    pulls_from,
)
from signal_manager.media.repetition import Repetition

__all__ = [
    "TRANSITIONS",
    "CallSfu",
    "CloseMids",
    "Effect",
    "Event",
    "Limits",
    "LossReason",
    "Negotiation",
    "Refuse",
    "ReplaceSession",
    "Reply",
    "State",
    "SweepSession",
]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of time (in seconds) and number; one of them ends every wait of a negotiation."""

    answer: float = 15.0  # from the SFU's offer until the client's answer; Cloudflare's example allows as much
    call: float = 30.0  # for one call; normally the backend's own limits end it sooner
    queue: float = 30.0  # from a request until it begins
    patience: float = 10.0  # for repeating an operation that came too early
    pauses: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # between these attempts; the last pause repeats
    waiting: int = 32  # requests in the queue


class State(enum.Enum):
    """The states of a negotiation."""

    UNOPENED = "unopened"  # there is no session
    OPENING = "opening"
    IDLE = "idle"
    CALLING = "calling"  # an operation is with the SFU
    BACKING_OFF = "backing off"  # the operation came too early and will be repeated
    AWAITING_ANSWER = "awaiting answer"  # the SFU's offer is with the client
    ANSWERING = "answering"  # the client's answer is with the SFU
    CLOSED = "closed"  # the member has left


class Event(enum.Enum):
    """The events that move a negotiation from one state to the next."""

    OPEN = "open"
    OPENED = "opened"
    OPEN_FAILED = "open failed"
    CALL = "call"
    DONE = "done"
    TRY_LATER = "try later"
    RETRY = "retry"
    WITHDRAWN = "withdrawn"
    GIVEN_UP = "given up"
    OFFERED = "offered"
    ANSWER = "answer"
    ANSWER_REFUSED = "answer refused"
    ACCEPTED = "accepted"
    LOST = "lost"
    CLOSE = "close"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.UNOPENED, Event.OPEN): State.OPENING,
    (State.UNOPENED, Event.CLOSE): State.CLOSED,
    (State.OPENING, Event.OPENED): State.IDLE,
    (State.OPENING, Event.OPEN_FAILED): State.UNOPENED,
    (State.OPENING, Event.LOST): State.UNOPENED,
    (State.IDLE, Event.CALL): State.CALLING,
    (State.IDLE, Event.LOST): State.UNOPENED,
    (State.CALLING, Event.DONE): State.IDLE,
    (State.CALLING, Event.TRY_LATER): State.BACKING_OFF,
    (State.CALLING, Event.OFFERED): State.AWAITING_ANSWER,
    (State.CALLING, Event.LOST): State.UNOPENED,
    (State.BACKING_OFF, Event.RETRY): State.CALLING,
    (State.BACKING_OFF, Event.WITHDRAWN): State.IDLE,
    (State.BACKING_OFF, Event.GIVEN_UP): State.IDLE,
    (State.BACKING_OFF, Event.LOST): State.UNOPENED,
    (State.AWAITING_ANSWER, Event.ANSWER): State.ANSWERING,
    (State.AWAITING_ANSWER, Event.LOST): State.UNOPENED,
    (State.ANSWERING, Event.ACCEPTED): State.IDLE,
    (State.ANSWERING, Event.ANSWER_REFUSED): State.AWAITING_ANSWER,
    (State.ANSWERING, Event.LOST): State.UNOPENED,
}


class LossReason(enum.Enum):
    """Why a session was given up; also a label in metrics."""

    ANSWER_MISSED = "answer_missed"
    CALL_LOST = "call_lost"  # a reply was lost, or the SFU failed half-way
    SESSION_GONE = "session_gone"
    OUT_OF_STEP = "out_of_step"  # the SFU waits for an answer that is unknown here
    ABANDONED = "abandoned"  # the member builds a new connection


class CallSfu(msgspec.Struct, frozen=True):
    """Make this call for a request, and report its result with its number; `session_id` is None for `Open`."""

    call: int
    request: int
    generation: int
    session_id: MediaSessionId | None
    operation: Operation


class Reply(msgspec.Struct, frozen=True):
    """Give a request its result."""

    request: int
    result: Result


class Refuse(msgspec.Struct, frozen=True):
    """Give a request its error."""

    request: int
    error: SignalManagerError


class CloseMids(msgspec.Struct, frozen=True):
    """Close these mids of a session that was given up, and retry until the SFU confirms."""

    session_id: MediaSessionId
    mids: tuple[str, ...]


class SweepSession(msgspec.Struct, frozen=True):
    """Close everything that a given-up session still holds; `is_unsettled` means that a call may still take effect."""

    session_id: MediaSessionId
    is_unsettled: bool


class ReplaceSession(msgspec.Struct, frozen=True):
    """Tell the owner that the member's session is lost and that it needs another `Open`."""

    generation: int
    session_id: MediaSessionId | None
    reason: LossReason


Effect = CallSfu | Reply | Refuse | CloseMids | SweepSession | ReplaceSession


class _Request(msgspec.Struct, frozen=True):
    number: int
    operation: Operation
    submitted_at: float

    def refused(self, error: SignalManagerError) -> Refuse:
        return Refuse(self.number, error)


class Negotiation:
    """Orders the operations on one member's media session, one at a time.

    Every method returns the effects to carry out, in order. The caller numbers its requests; each gets exactly one
    `Reply` or `Refuse`. This class numbers the calls; the caller must report each one once.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.state = State.UNOPENED
        self.generation = 0
        self.session_id: MediaSessionId | None = None
        self._limits = limits or Limits()
        self._waiting: deque[_Request] = deque()  # also in order of their deadlines
        self._current: _Request | None = None  # with the SFU, or waiting to be repeated
        self._repetition = Repetition(patience=self._limits.patience, pauses=self._limits.pauses)
        self._calls = Calls()
        self._deadline: float | None = None  # when the present state times out
        self._answer_by = 0.0
        self._mids: set[str] = set()  # the known mids of this generation
        self._loss: LossReason | None = None  # why the latest generation was lost
        self._effects: list[Effect] = []

    def submit(self, request: int, operation: Operation, now: float) -> list[Effect]:
        """Queue an operation. An `Answer` starts at once or is refused."""
        asked = _Request(request, operation, now)
        if isinstance(operation, Answer):
            self._take_answer(asked, now)
        elif self.state is State.CLOSED:
            self._effects.append(asked.refused(SessionReplacedError("this member's media session has ended")))
        elif len(self._waiting) >= self._limits.waiting:
            self._effects.append(
                asked.refused(TooManyCallsError(f"{len(self._waiting)} operations wait already, expected fewer"))
            )
        else:
            self._waiting.append(asked)
            self._proceed(now)
        return self._take_effects()

    def replied(self, call: int, result: Result, now: float) -> list[Effect]:
        """Report that a call succeeded."""
        if self._calls.is_orphan(call):
            self._effects += _clean_up(self._calls.end_orphan(call), result)
            return self._take_effects()
        request = self._claim(call)
        if self.state is State.OPENING:
            self.session_id = result  # type: ignore[assignment]  # the result of Open is a session id
            self._finish(Event.OPENED, Reply(request.number, result), now)
        elif self.state is State.ANSWERING:
            self._finish(Event.ACCEPTED, Reply(request.number, result), now)
        else:
            self._mids |= set(caused_mids(result))
            self._mids -= set(closed_mids(result))
            if awaits_answer(result):
                self._move(Event.OFFERED)
                self._deadline = self._answer_by = now + self._limits.answer
                self._effects.append(Reply(request.number, result))
            elif self._repetition.is_early(result) and self._repetition.may_wait(now):
                self._back_off(request, now, result)
            else:
                self._finish(Event.DONE, Reply(request.number, result), now)
        return self._take_effects()

    def failed(self, call: int, error: SignalManagerError, now: float, *, mids: tuple[str, ...] = ()) -> list[Effect]:
        """Report that a call failed; `mids` exist nevertheless."""
        if self._calls.is_orphan(call):
            session_id = self._calls.end_orphan(call)
            if session_id is not None and mids:
                self._effects.append(CloseMids(session_id, mids))
            return self._take_effects()
        request = self._claim(call)
        refusal = Refuse(request.number, error)
        self._mids |= set(mids)
        after = _after(request.operation, error)
        if self.state is State.OPENING:
            self._finish(Event.OPEN_FAILED, refusal, now)
        elif after is After.REPLACE:
            if isinstance(request.operation, Publish):
                # The client chose these mids, so they may exist although no reply confirms them.
                self._mids |= {track.mid for track in request.operation.tracks}
            self._effects.append(refusal)
            self._lose(_reason(error), is_unsettled=not isinstance(error, SessionGoneError))
        elif self.state is State.ANSWERING:
            self._move(Event.ANSWER_REFUSED)
            self._deadline = self._answer_by
            self._effects.append(refusal)
        elif after is After.TRY_LATER and self._repetition.may_wait(now):
            self._back_off(request, now)
        else:
            self._finish(Event.DONE, refusal, now)
        return self._take_effects()

    def withdraw(self, request: int, now: float) -> list[Effect]:
        """Drop a request whose caller has gone; a call to the SFU continues."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.number != request)
        if self.state is State.BACKING_OFF and self._current is not None and self._current.number == request:
            self._current = None
            self._deadline = None
            self._move(Event.WITHDRAWN)
            self._proceed(now)
        return self._take_effects()

    def source_gone(self, session_id: MediaSessionId, now: float) -> list[Effect]:
        """Stop repeating pulls of tracks from this publisher's session, which has ended."""
        requests = [*self._waiting, *([] if self._current is None else [self._current])]
        if any(pulls_from(request.operation, session_id) for request in requests):
            self._repetition.source_gone(session_id)
            if self.state is State.BACKING_OFF and self._current is not None and self._repetition.is_hopeless:
                outcome = Reply(self._current.number, self._repetition.early)
                self._current = self._deadline = None
                self._finish(Event.GIVEN_UP, outcome, now)
        return self._take_effects()

    def abandon(self) -> list[Effect]:
        """Give the session up, because the member builds a new connection; `Open` opens the next one."""
        if self.state not in {State.UNOPENED, State.CLOSED}:
            self._lose(LossReason.ABANDONED)
        return self._take_effects()

    def close(self) -> list[Effect]:
        """Refuse what waits and give the session up, because the member has left."""
        if self.state not in {State.UNOPENED, State.CLOSED}:
            self._lose(None)
        if self.state is not State.CLOSED:
            self._move(Event.CLOSE)
        return self._take_effects()

    def tick(self, now: float) -> list[Effect]:
        """Handle deadlines that have passed at `now`."""
        if self._deadline is not None and self._deadline <= now:
            self._expire(now)
        while self._waiting and self._waiting[0].submitted_at + self._limits.queue <= now:
            request = self._waiting.popleft()
            self._effects.append(
                request.refused(QueuedTooLongError(f"not begun within {self._limits.queue:g} s, expected a turn"))
            )
        return self._take_effects()

    def next_deadline(self) -> float | None:
        """Return when to call `tick` next if nothing else happens; None for never."""
        deadlines = [] if self._deadline is None else [self._deadline]
        if self._waiting:
            deadlines.append(self._waiting[0].submitted_at + self._limits.queue)
        return min(deadlines, default=None)

    def _take_answer(self, asked: _Request, now: float) -> None:
        error: SignalManagerError
        match self.state:
            case State.AWAITING_ANSWER:
                self._move(Event.ANSWER)
                self._place_call(asked, now)
                return
            case State.UNOPENED if self._loss is LossReason.ANSWER_MISSED:
                limit = self._limits.answer
                error = AnswerTooLateError(f"answer after more than {limit:g} s, expected it within them")
            case State.UNOPENED | State.CLOSED:
                error = SessionReplacedError("answer for a media session that was given up")
            case _:
                error = InvalidRequestError("answer without an offer that waits for one")
        self._effects.append(asked.refused(error))

    def _proceed(self, now: float) -> None:
        """Start the next request if possible."""
        while self._waiting and self.state in {State.UNOPENED, State.IDLE}:
            request = self._waiting.popleft()
            if isinstance(request.operation, Open):
                if self.state is State.IDLE:
                    self._effects.append(Reply(request.number, self.session_id))
                else:
                    self.generation += 1
                    self._move(Event.OPEN)
                    self._place_call(request, now)
            elif self.state is State.UNOPENED:
                self._effects.append(
                    request.refused(SessionReplacedError("there is no media session, expected one to be opened"))
                )
            else:
                self._repetition.begin(now)
                self._move(Event.CALL)
                self._place_call(request, now)

    def _place_call(self, request: _Request, now: float) -> None:
        call = self._calls.begin()
        self._current = request
        self._deadline = now + self._limits.call
        self._effects.append(CallSfu(call, request.number, self.generation, self.session_id, request.operation))

    def _claim(self, call: int) -> _Request:
        """Return the request of the call in progress, which has ended."""
        self._calls.end(call)
        request = self._current
        if request is None:
            raise AssertionError("a call in progress without its request")
        self._current = self._deadline = None
        return request

    def _finish(self, event: Event, outcome: Reply | Refuse, now: float) -> None:
        self._move(event)
        self._effects.append(outcome)
        self._repetition.keep_gone(each.operation for each in self._waiting)
        self._proceed(now)

    def _back_off(self, request: _Request, now: float, result: Result = None) -> None:
        self._move(Event.TRY_LATER)
        self._current = request
        self._deadline = self._repetition.wait(now, result)

    def _expire(self, now: float) -> None:
        """Leave the present state, whose deadline has passed."""
        request = self._current
        if self.state is State.BACKING_OFF and request is not None:
            self._move(Event.RETRY)
            self._place_call(request, now)
        elif self.state is State.AWAITING_ANSWER:
            self._lose(LossReason.ANSWER_MISSED)
        else:
            self._lose(LossReason.CALL_LOST, error=NoAnswerError(f"no answer within {self._limits.call:g} s"))

    def _lose(self, reason: LossReason | None, *, error: MediaFault | None = None, is_unsettled: bool = False) -> None:
        """Give this generation up: close its mids and refuse its requests. Without a `reason` the owner is not told."""
        session_id = self.session_id
        is_unsettled = is_unsettled or self._calls.is_in_progress
        self._calls.give_up(session_id)
        if session_id is not None:
            if self._mids:
                self._effects.append(CloseMids(session_id, tuple(sorted(self._mids))))
            self._effects.append(SweepSession(session_id, is_unsettled))
        why = "the member left" if reason is None else reason.value.replace("_", " ")
        replaced = SessionReplacedError(f"the media session was given up: {why}")
        if self._current is not None:
            self._effects.append(self._current.refused(error or replaced))
        for request in self._waiting:
            self._effects.append(request.refused(replaced))
        if reason is not None:
            self._effects.append(ReplaceSession(self.generation, session_id, reason))
        self._waiting.clear()
        self._mids.clear()
        self._repetition.keep_gone()
        self._current = self._deadline = self.session_id = None
        self._loss = reason
        self._move(Event.LOST)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]

    def _take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


def _after(operation: Operation, error: SignalManagerError) -> After:
    """Return the state of the session after a failed call."""
    if isinstance(error, InvalidSessionDescriptionError) and not carries_sdp(operation):
        return After.REPLACE  # there was no SDP to refuse: the SFU waits for an answer that is unknown here
    return error.after if isinstance(error, MediaFault) else After.REFUSED


def _reason(error: SignalManagerError) -> LossReason:
    if isinstance(error, SessionGoneError):
        return LossReason.SESSION_GONE
    return LossReason.OUT_OF_STEP if isinstance(error, InvalidSessionDescriptionError) else LossReason.CALL_LOST


def _clean_up(session_id: MediaSessionId | None, result: Result) -> list[Effect]:
    """Close what a reply created that came after its generation was given up."""
    if session_id is None:
        return [SweepSession(result, is_unsettled=False)]  # type: ignore[arg-type]  # the result of Open is a session id
    mids = caused_mids(result)
    return [CloseMids(session_id, mids)] if mids else []
