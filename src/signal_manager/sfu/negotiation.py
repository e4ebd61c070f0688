"""Offer and answer of one session: its m-sections, and the side that must answer next (RFC 3264, RFC 8829).

Neighbours: `sdp` reads and writes the text, `sessions` decides which sections carry tracks. Pure: no I/O and no clock.
A section keeps its position for ever. A rejected section is used again under a new mid; a section that both sides left
inactive is used again under its own mid.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from signal_manager.sfu.errors import bad_description, gone
from signal_manager.sfu.sdp import (
    Codec,
    Description,
    Outgoing,
    RemoteSection,
    Section,
    TransportLines,
    render,
)

__all__ = ["Negotiation", "Sending", "match_codec", "new_outgoing"]

# Dynamic payload types (RFC 3551, RFC 5761); the second range is used when the first is full.
_DYNAMIC_PAYLOAD_TYPES: tuple[int, ...] = (*range(96, 128), *range(35, 64))
# Chromium's own ids, so that its later offers agree with the SFU's.
_USUAL_EXTENSION_IDS = {"send time": 2, "transport number": 3}


@dataclass(frozen=True, slots=True)
class Sending:
    """The stream that the SFU is to send on one section of a client's offer."""

    outgoing: Outgoing
    codec: Codec


def match_codec(wanted: Codec, offered: Collection[Codec]) -> Codec | None:
    """Return the offered codec that equals the wanted one, with the offer's payload types."""
    return next((codec for codec in offered if codec.key == wanted.key), None)


def new_outgoing(stream_id: str, track_id: str) -> Outgoing:
    """Return a new outgoing stream with random SSRCs."""
    ssrc = secrets.randbelow(0xFFFF0000) + 0x100
    return Outgoing(ssrc=ssrc, rtx_ssrc=ssrc + 1, stream_id=stream_id, track_id=track_id)


class Negotiation:
    """The m-sections of one session, and whether an offer of the SFU waits for its answer."""

    def __init__(self, *, max_sections: int) -> None:
        self.sections: list[Section] = []
        self.has_pending_offer = False
        self.is_established = False  # whether either side has answered an offer
        self._max_sections = max_sections
        self._version = 0
        self._origin = secrets.randbits(62)
        self._next_mid = 0
        self._payload_types: dict[tuple[str, str], Codec] = {}
        self._extension_ids: dict[str, int] = {}
        self._taken_extension_ids: set[int] = set()

    def section(self, mid: str) -> Section | None:
        """Return the section of this mid, or None if there is none or it is rejected."""
        return next((s for s in self.sections if s.mid == mid and not s.is_rejected), None)

    @property
    def data_section(self) -> Section | None:
        """Return the section of the data channels."""
        return next((s for s in self.sections if s.is_data and not s.is_rejected), None)

    def render(self, transport: TransportLines) -> str:
        """Return the sections as they are now, as a description."""
        self._version += 1
        return render(self.sections, transport, origin=self._origin, version=self._version)

    # -- the client offers ---------------------------------------------------------------------------------------------

    def check_offer(self, offer: Description) -> None:
        """Refuse an offer that does not continue the earlier negotiation.

        Raises:
            RefusedError: an offer of the SFU waits for its answer, or m-sections were dropped, moved or changed.
        """
        if self.has_pending_offer:
            raise bad_description("an offer of the SFU waits for its answer: send that to /renegotiate first")
        if len(offer.sections) < len(self.sections):
            raise bad_description(
                f"the offer has {len(offer.sections)} m-sections where {len(self.sections)} were negotiated before"
            )
        if len(offer.sections) > self._max_sections:
            raise gone(f"the session has used up its {self._max_sections} m-sections: replace it")
        for section, remote in zip(self.sections, offer.sections, strict=False):
            if not section.is_rejected and (section.mid, section.kind) != (remote.mid, remote.kind):
                raise bad_description("the offer changes the mid or the kind of an m-section that is in use")

    def apply_offer(
        self, offer: Description, *, receive: Collection[str], send: Mapping[str, Sending]
    ) -> list[tuple[Section, RemoteSection]]:
        """Apply a checked offer; return pairs of the SFU's section and the client's.

        Args:
            offer: the client's offer.
            receive: mids of tracks that the client publishes.
            send: by mid, the streams that the SFU starts to send.
        """
        for position, remote in enumerate(offer.sections):
            if position >= len(self.sections):
                self.sections.append(Section(remote.mid, remote.kind))
            elif self.sections[position].is_rejected:
                self.sections[position] = Section(remote.mid, remote.kind)
            self._apply(self.sections[position], remote, receive=remote.mid in receive, send=send.get(remote.mid))
            self._remember(remote)
        self.is_established = True
        return list(zip(self.sections, offer.sections, strict=True))

    @staticmethod
    def _apply(section: Section, remote: RemoteSection, *, receive: bool, send: Sending | None) -> None:
        section.protocol, section.formats = remote.protocol, remote.formats
        section.is_settled = True
        section.is_rejected = remote.is_rejected
        if remote.is_rejected or remote.kind == "application":
            section.receives, section.sends, section.outgoing = False, False, None
            return
        is_new = receive and remote.sends and not section.receives
        section.receives = receive and remote.sends
        if send is not None:
            section.outgoing, section.codecs = send.outgoing, (send.codec,)
        elif is_new:
            section.codecs = remote.codecs[:1]
        else:
            # The answer uses this offer's payload type for the codec, which may differ from the earlier one.
            section.codecs = tuple(filter(None, (match_codec(c, remote.codecs) for c in section.codecs[:1])))
        if not section.codecs:
            section.codecs = remote.codecs[:1]
        section.sends = section.outgoing is not None and remote.receives
        section.take_extensions(remote)
        if section.receives:
            section.rids = remote.rids

    # -- the SFU offers ------------------------------------------------------------------------------------------------

    def open_sending(self, kind: str, codec: Codec, outgoing: Outgoing) -> Section:
        """Return a section on which the next offer sends; a closed one is used again."""
        section = self._free_section(kind)
        section.codecs = (self._with_payload_types(codec),)
        section.outgoing, section.sends, section.receives = outgoing, True, False
        section.send_time_id = self._extension_id("send time")
        return section

    def open_receiving(self, kind: str, codecs: Collection[Codec], outgoing: Outgoing | None) -> Section:
        """Return a section on which the next offer asks the client to send; with `outgoing` the SFU sends too."""
        section = self._free_section(kind)
        section.codecs = tuple(self._with_payload_types(codec) for codec in codecs)
        section.outgoing, section.sends, section.receives = outgoing, outgoing is not None, True
        section.send_time_id = self._extension_id("send time") if outgoing is not None else None
        number = self._extension_id("transport number")
        section.extensions = {} if number is None else {number: "transport number"}
        return section

    def open_data(self) -> Section:
        """Return a new section for the data channels in the next offer."""
        section = self._append(Section(self._new_mid(), "application", "UDP/DTLS/SCTP"))
        section.is_settled = False
        return section

    def offered(self) -> None:
        """Note that the client has an offer to answer."""
        self.has_pending_offer = True

    def apply_answer(self, answer: Description) -> list[tuple[Section, RemoteSection]]:
        """Apply the client's answer; return pairs of the SFU's section and the client's.

        Raises:
            RefusedError: no offer waits for an answer, or the answer does not fit the offer.
        """
        if not self.has_pending_offer:
            raise bad_description("no offer of the SFU waits for an answer")
        if len(answer.sections) != len(self.sections):
            raise bad_description(
                f"the answer has {len(answer.sections)} m-sections, the offer had {len(self.sections)}"
            )
        for section, remote in zip(self.sections, answer.sections, strict=True):
            if (section.mid, section.kind) != (remote.mid, remote.kind):
                raise bad_description("the answer's mids and kinds are not those of the offer")
            if section.is_rejected and not remote.is_rejected:
                raise bad_description("the answer takes up an m-section that the offer rejected")
        for section, remote in zip(self.sections, answer.sections, strict=True):
            self._settle(section, remote)
        self.has_pending_offer = False
        self.is_established = True
        return list(zip(self.sections, answer.sections, strict=True))

    @staticmethod
    def _settle(section: Section, remote: RemoteSection) -> None:
        section.is_settled = True
        section.is_rejected = remote.is_rejected
        if section.is_rejected:
            section.receives, section.sends, section.outgoing = False, False, None
        if section.is_rejected or section.is_data:
            return
        section.codecs = remote.codecs[:1] or section.codecs[:1]
        if section.receives:
            section.receives = remote.sends
        section.take_extensions(remote)
        section.sends = section.outgoing is not None and remote.receives

    # -- sections and payload types ------------------------------------------------------------------------------------

    def _free_section(self, kind: str) -> Section:
        for position, section in enumerate(self.sections):
            if section.is_rejected and section.is_settled:
                self.sections[position] = Section(self._new_mid(), kind)
                return self.sections[position]
            if section.kind == kind and section.is_settled and section.direction == "inactive":
                section.is_settled = False
                return section
        return self._append(Section(self._new_mid(), kind))

    def _append(self, section: Section) -> Section:
        if len(self.sections) >= self._max_sections:
            raise gone(f"the session has used up its {self._max_sections} m-sections: replace it")
        self.sections.append(section)
        return section

    def _new_mid(self) -> str:
        taken = {section.mid for section in self.sections}
        while True:
            mid = str(self._next_mid)
            self._next_mid += 1
            if mid not in taken:
                return mid

    def _remember(self, remote: RemoteSection) -> None:
        """Note the client's payload types, so that the SFU's offers never give one of them another meaning."""
        for codec in remote.codecs:
            self._payload_types.setdefault(codec.key, codec)
        self._taken_extension_ids |= remote.extension_ids
        for number, name in remote.extensions.items():
            self._extension_ids.setdefault(name, number)

    def _extension_id(self, name: str) -> int | None:
        """Return the id of a header extension, the same in all sections (RFC 8285, 5); None if no id is free."""
        known = self._extension_ids.get(name)
        if known is None:
            free = (n for n in (_USUAL_EXTENSION_IDS[name], *range(1, 15)) if n not in self._taken_extension_ids)
            known = next(free, None)
            if known is not None:
                self._extension_ids[name] = known
                self._taken_extension_ids.add(known)
        return known if known is not None and known < 15 else None

    def _with_payload_types(self, codec: Codec) -> Codec:
        """Return a publisher's codec with payload types that mean the same, or are free, in this session."""
        known = self._payload_types.get(codec.key)
        used = {c.payload_type for c in self._payload_types.values()}
        used |= {c.rtx_payload_type for c in self._payload_types.values() if c.rtx_payload_type is not None}
        if known is None:
            payload_type = _pick(codec.payload_type, used)
            used.add(payload_type)
            rtx = None
        else:
            payload_type, rtx = known.payload_type, known.rtx_payload_type
        if rtx is None and codec.rtx_payload_type is not None:
            rtx = _pick(codec.rtx_payload_type, used)
        ours = replace(codec, payload_type=payload_type, rtx_payload_type=rtx)
        self._payload_types[codec.key] = ours
        return ours if codec.rtx_payload_type is not None else replace(ours, rtx_payload_type=None)


def _pick(preferred: int, used: Collection[int]) -> int:
    if preferred not in used:
        return preferred
    try:
        return next(number for number in _DYNAMIC_PAYLOAD_TYPES if number not in used)
    except StopIteration:
        raise gone("the session has used up its payload types: replace it") from None
