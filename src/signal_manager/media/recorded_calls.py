"""Makes calls to the SFU, and records in the ledger what they create and close before anyone learns of it."""

from __future__ import annotations

from typing import NamedTuple, assert_never

import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.media import operations as ops
from signal_manager.media.base import WHOLE_SESSION, Ledger, MediaBackend, MediaSessionId
from signal_manager.media.errors import NoAnswerError, SessionReplacedError
from signal_manager.media.negotiation import CallSfu

__all__ = ["Outcome", "RecordedCalls"]

_log = structlog.get_logger(__name__)


class Outcome(NamedTuple):
    """The outcome of a call; with an `error`, the `mids` exist nevertheless."""

    result: ops.Result
    error: SignalManagerError | None
    mids: tuple[str, ...] = ()


class RecordedCalls:
    """The calls of one member's media sessions.

    Args:
        backend: the SFU.
        ledger: records mids.
    """

    def __init__(self, backend: MediaBackend, ledger: Ledger) -> None:
        self._backend = backend
        self._ledger = ledger
        self._unrecorded: dict[MediaSessionId, set[str]] = {}  # closed mids that the ledger could not record

    async def make(self, call: CallSfu) -> Outcome:
        """Make a call; every error of the backend and of the ledger is in the outcome."""
        mids: tuple[str, ...] = ()
        try:
            result = await self._ask(call)
            mids = ops.caused_mids(result)
            await self._record(call, result)
        except SignalManagerError as error:
            return Outcome(None, error, mids)
        except Exception:
            _log.exception("media_call_failed", session_id=call.session_id)
            return Outcome(None, NoAnswerError("the media backend failed in a way it does not promise"), mids)
        return Outcome(result, None)

    def take_unrecorded(self, session_id: MediaSessionId) -> list[str]:
        """Return the mids of a session that are closed and stand in the ledger as open, and forget them."""
        return sorted(self._unrecorded.pop(session_id, ()))

    async def _ask(self, call: CallSfu) -> ops.Result:
        backend = self._backend
        if isinstance(call.operation, ops.Open):
            return await backend.open_session(correlation_id=call.operation.correlation_id)
        if call.session_id is None:
            raise AssertionError("a call without a session, expected Open alone to be one")
        session_id = call.session_id
        match call.operation:
            case ops.Publish(offer_sdp, tracks):
                return await backend.publish(session_id, offer_sdp, tracks)
            case ops.Pull(tracks):
                return await backend.pull(session_id, tracks)
            case ops.Answer(answer_sdp):
                await backend.answer(session_id, answer_sdp)
                return None
            case ops.CloseTracks(mids, offer_sdp):
                return await backend.close_tracks(session_id, mids, offer_sdp=offer_sdp)
            case ops.UpdateTracks(updates):
                return await backend.update_tracks(session_id, updates)
            case ops.EstablishChannels(offer_sdp):
                return await backend.establish_channels(session_id, offer_sdp=offer_sdp)
            case ops.OpenChannels(channels):
                return await backend.open_channels(session_id, channels)
            case ops.UpdateChannels(updates):
                return await backend.update_channels(session_id, updates)
            case ops.CloseChannels(ids):
                return await backend.close_channels(session_id, ids)
            case _:
                assert_never(call.operation)

    async def _record(self, call: CallSfu, result: ops.Result) -> None:
        """Record in the ledger what a result created or closed, before the caller learns of it."""
        session_id = call.session_id
        try:
            if session_id is None:
                await self._ledger.caused(MediaSessionId(str(result)), WHOLE_SESSION)
            elif mids := ops.caused_mids(result):
                await self._ledger.caused(session_id, *mids)
        except SignalManagerError as error:
            raise SessionReplacedError("what was negotiated could not be recorded, so that it was undone") from error
        if session_id is not None and (mids := ops.closed_mids(result)):
            await self._forget(session_id, mids)

    async def _forget(self, session_id: MediaSessionId, mids: tuple[str, ...]) -> None:
        try:
            await self._ledger.closed(session_id, *mids)
        except SignalManagerError as error:
            # Closing them again could hit newer tracks with the same mids, so this waits for the end of the session.
            _log.info("media_ledger_failed", session_id=session_id, error=error.message)
            self._unrecorded.setdefault(session_id, set()).update(mids)
