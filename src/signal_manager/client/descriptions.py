"""Translates session descriptions between aiortc and the SFU.

`media.py` passes every description through here, because aiortc alone cannot both publish and pull on one connection.
The translation is pure text work (RFC 8866, RFC 8829), no I/O:

- aiortc reads a transport's candidates from the last section, but the SFU names them in the first. The translation
  writes them into each section.
- aiortc chooses payload types anew in each offer, even on negotiated sections. The translation restores the negotiated
  ones, and gives new sections none that already have another meaning.
- aiortc cannot read a rejected section or one without a known codec, and cannot use a section twice. The translation
  rejects an ended section towards the SFU, and shows it to aiortc as an idle section for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

__all__ = ["UNDECODABLE", "Descriptions"]

# The error of a pulled track that aiortc cannot decode.
UNDECODABLE = "its codec cannot be decoded here, expected VP8, baseline H.264, Opus, G.711 or G.722"

# The dynamic payload types (RFC 3551), which aiortc reads from a description.
_DYNAMIC = range(96, 128)
_TRANSPORT = ("ice-ufrag", "ice-pwd", "fingerprint", "setup", "candidate", "end-of-candidates", "ice-options")
_CODECS = ("rtpmap", "fmtp", "rtcp-fb", "extmap")
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_NOTHING = ("v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0")
_STAND_INS = {"audio": ("96", "a=rtpmap:96 opus/48000/2"), "video": ("96", "a=rtpmap:96 VP8/90000")}


@dataclass(frozen=True, slots=True)
class _Section:
    """One m-section: the words of its m-line, and the lines below it."""

    media: tuple[str, ...]  # kind, port, protocol, formats…
    lines: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.media[0]

    @property
    def formats(self) -> tuple[str, ...]:
        return self.media[3:]

    @property
    def mid(self) -> str:
        return next(iter(self.values("mid")), "")

    @property
    def is_rejected(self) -> bool:
        return self.media[1] == "0" and "a=bundle-only" not in self.lines

    def values(self, name: str) -> list[str]:
        return [_value(line) for line in self.lines if _name(line) == name]

    def only(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(line for line in self.lines if _name(line) in names)

    def without(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(line for line in self.lines if _name(line) not in names)

    def named(self, mid: str) -> _Section:
        return replace(self, lines=tuple(f"a=mid:{mid}" if _name(line) == "mid" else line for line in self.lines))

    def with_transport(self, transport: tuple[str, ...]) -> _Section:
        return replace(self, lines=(*self.without(_TRANSPORT), *transport))

    def with_codecs(self, agreed: _Section) -> _Section:
        media = (*self.media[:3], *agreed.formats)
        return _Section(media, (*self.without(_CODECS), *agreed.only(_CODECS)))

    def idle(self, transport: tuple[str, ...]) -> _Section:
        """Return an inactive section with this one's mid."""
        media = (self.kind, "9", *self.media[2:])
        lines = ("c=IN IP4 0.0.0.0", f"a=mid:{self.mid}", *self.only(_CODECS), "a=inactive", "a=rtcp-mux")
        return _Section(media, (*lines, *transport))

    def rejected(self) -> _Section:
        media = (self.kind, "0", *self.media[2:])
        return _Section(media, ("c=IN IP4 0.0.0.0", f"a=mid:{self.mid}", *self.only(("rtpmap",)), "a=inactive"))

    def codecs(self) -> dict[str, tuple[str, str]]:
        """Return the codec and its parameters of each payload type, in lower case."""
        found = {number: (name.lower(), "") for number, name in map(_by_number, self.values("rtpmap"))}
        for number, parameters in map(_by_number, self.values("fmtp")):
            if number in found:
                found[number] = (found[number][0], parameters.replace(" ", "").lower())
        return found


@dataclass(slots=True)
class _Offer:
    """The client's open offer, kept until it is answered or withdrawn."""

    sections: list[_Section]  # as the SFU knows them
    mids: list[str]  # aiortc's, in its order
    own: dict[str, _Section] = field(default_factory=dict)  # aiortc's sections, by its mids


class Descriptions:
    """Translate the descriptions of one connection, in the order of their exchange.

    A section has the same mid on both sides, unless the SFU uses a mid that aiortc used in a refused offer.

    Args:
        is_decodable: tells whether aiortc can decode a codec, from its kind, its name and its parameters in lower case.
    """

    def __init__(self, is_decodable: Callable[[str, str, str], bool]) -> None:
        self.undecodable: frozenset[str] = frozenset()  # mids of the SFU's last offer without a known codec
        self._can_decode = is_decodable
        self._sections: list[_Section] = []  # as the SFU knows them, in the order of its descriptions
        self._mids: list[str] = []  # aiortc's, in its order
        self._latest: dict[str, _Section] = {}  # aiortc's mid -> the section as it was last shown to aiortc
        self._agreed: dict[str, _Section] = {}  # aiortc's mid -> the section with the negotiated codecs
        self._aliases: dict[str, str] = {}  # the SFU's mid -> aiortc's mid, where they differ
        self._retired: set[str] = set()  # aiortc's mids of ended sections
        self._carrier: str | None = None  # the SFU's mid of a section that aiortc sees only for its transport
        self._transport: tuple[str, ...] = ()  # the lines of the SFU's transport
        self._offer: _Offer | None = None

    def mid_of(self, mid: str) -> str:
        """Return aiortc's mid for one of the SFU's."""
        return self._aliases.get(mid, mid)

    def retire(self, mid: str) -> None:
        """End the section with this mid of the SFU's; the next description rejects it."""
        self._retired.add(self.mid_of(mid))

    # The SFU offers

    def take_offer(self, sdp: str, pulled: Collection[str] = ()) -> str | None:
        """Return the SFU's offer for aiortc, or None if aiortc can read none of its sections.

        Args:
            sdp: the offer.
            pulled: the SFU's mids of the tracks that the offer adds; an ended section among them is in use again.
        """
        head, sections = _split(sdp)
        before = {section.mid for section in self._sections if not section.is_rejected}
        self._sections = sections
        self._note_transport(sections)
        undecodable = set()
        shown: dict[str, _Section] = {}
        for section in sections:
            if section.is_rejected:
                continue
            is_anew = section.mid in pulled and self.mid_of(section.mid) in self._retired
            mid = self._own_mid(section.mid, is_new=is_anew or section.mid not in before)
            if mid in self._retired:
                continue
            if mid not in self._mids and not self._is_decodable(section):
                undecodable.add(section.mid)
                continue
            shown[mid] = section.named(mid).with_transport(self._transport)
        self.undecodable = frozenset(undecodable)
        self._carrier = None
        if not self._mids and not shown:
            shown = self._carry(next((section for section in sections if section.mid in undecodable), None))
        self._mids += [mid for mid in shown if mid not in self._mids]
        return self._show(head, shown, self._mids) if self._mids else None

    def give_answer(self, sdp: str | None) -> str:
        """Return aiortc's answer to the SFU's offer, for the SFU."""
        head, own = _split(sdp) if sdp is not None else (_NOTHING, [])
        by_mid = {section.mid: section for section in own}
        sections = []
        for section in self._sections:
            mid = self.mid_of(section.mid)
            is_over = section.is_rejected or mid in self._retired or section.mid in self.undecodable
            if section.mid == self._carrier:
                sections.append(by_mid[mid].with_codecs(section))
            elif is_over or mid not in by_mid:
                sections.append(section.rejected())
            else:
                self._agreed[mid] = by_mid[mid]
                sections.append(by_mid[mid].named(section.mid))
        self._sections = sections
        return _join(head, sections)

    # We offer

    def give_offer(self, sdp: str) -> str:
        """Return aiortc's offer, for the SFU; `take_answer` or `take_refusal` must follow."""
        head, own = _split(sdp)
        by_mid = {section.mid: section for section in own}
        sections = []
        for section in self._sections:
            mid = self.mid_of(section.mid)
            if section.is_rejected or mid in self._retired or mid not in by_mid:
                sections.append(section.rejected())
            else:
                sections.append(by_mid[mid].with_codecs(self._agreed[mid]).named(section.mid))
        sections += [self._fitted(section) for section in own if section.mid not in self._mids]
        self._offer = _Offer(sections, [section.mid for section in own], by_mid)
        return _join(head, sections)

    def take_answer(self, sdp: str) -> str:
        """Return the SFU's answer to aiortc's offer, for aiortc."""
        offer = self._take_offer_back()
        head, sections = _split(sdp)
        self._note_transport(sections)
        self._sections = [
            theirs if not ours.is_rejected else ours for theirs, ours in zip(sections, offer.sections, strict=True)
        ]
        shown = {}
        for section in self._sections:
            mid = self.mid_of(section.mid)
            if not section.is_rejected and mid not in self._retired:
                shown[mid] = self._agreed[mid] = section.named(mid).with_transport(self._transport)
        self._mids = offer.mids
        return self._show(head, shown, self._mids, own=offer.own)

    def take_refusal(self) -> str | None:
        """Return an answer for aiortc to an offer that the SFU refused, because aiortc cannot roll back an offer.

        None means that aiortc needs a new connection: no description was answered yet.
        """
        offer = self._take_offer_back()
        self._retired.update(mid for mid in offer.mids if mid not in self._mids)
        if not self._transport:
            return None
        transport = tuple("a=setup:passive" if _name(line) == "setup" else line for line in self._transport)
        shown = {
            mid: self._latest[mid].with_transport(transport)
            for mid in self._mids
            if mid in self._latest and mid not in self._retired
        }
        self._mids = offer.mids
        self._transport = transport
        return self._show(_NOTHING, shown, self._mids, own=offer.own)

    # Shared by both directions

    def _carry(self, section: _Section | None) -> dict[str, _Section]:
        """Show aiortc an undecodable section as an idle one: aiortc needs its transport to pull other tracks."""
        if section is None or section.kind not in _STAND_INS:
            return {}
        self._carrier = section.mid
        self._retired.add(section.mid)
        number, codec = _STAND_INS[section.kind]
        stand_in = _Section((*section.media[:3], number), (f"a=mid:{section.mid}", codec))
        return {section.mid: stand_in.idle(self._transport)}

    def _take_offer_back(self) -> _Offer:
        if self._offer is None:
            raise ValueError("got an answer, expected an offer of aiortc's first")
        offer, self._offer = self._offer, None
        return offer

    def _own_mid(self, mid: str, *, is_new: bool) -> str:
        own = self.mid_of(mid)
        if is_new and (own in self._mids or own in self._retired):
            own = self._aliases[mid] = f"{mid}-{len(self._mids)}"
        return own

    def _is_decodable(self, section: _Section) -> bool:
        codecs = section.codecs().values()
        return section.kind == "application" or any(
            self._can_decode(section.kind, name.partition("/")[0], parameters) for name, parameters in codecs
        )

    def _note_transport(self, sections: Iterable[_Section]) -> None:
        live = [section for section in sections if not section.is_rejected]
        if not live:
            return
        first = live[0].only(_TRANSPORT)
        ends = ("candidate", "end-of-candidates")
        # Only one section names candidates; after it has ended another one does.
        named = next((section.only(ends) for section in live if section.values("candidate")), ())
        self._transport = (*(line for line in first if _name(line) not in ends), *named)

    def _show(
        self,
        head: Iterable[str],
        shown: Mapping[str, _Section],
        mids: Iterable[str],
        *,
        own: Mapping[str, _Section] | None = None,
    ) -> str:
        """Write a description for aiortc: every section that it knows, in its order; ended ones are idle."""
        for mid in mids:
            known = shown.get(mid) or self._latest.get(mid) or (own or {})[mid]
            self._latest[mid] = known if mid in shown else known.named(mid).idle(self._transport)
        return _join(head, [self._latest[mid] for mid in mids])

    def _fitted(self, section: _Section) -> _Section:
        """Return a new section whose payload types and extension ids have one meaning on this connection."""
        numbers = self._numbers(section)
        ids = {uri: number for each in self._agreed.values() for number, uri in map(_by_number, each.values("extmap"))}
        lines = []
        for line in section.lines:
            name, (number, rest) = _name(line), _by_number(_value(line))
            if name == "extmap":
                if ids.get(rest, number) == number and (rest in ids or number not in ids.values()):
                    lines.append(line)
            elif name in _CODECS:
                apt = rest.removeprefix("apt=")
                rest = f"apt={numbers.get(apt, apt)}" if rest.startswith("apt=") else rest
                lines.append(f"a={name}:{numbers.get(number, number)} {rest}")
            else:
                lines.append(line)
        formats = [numbers.get(number, number) for number in section.formats]
        return _Section((*section.media[:3], *formats), tuple(lines))

    def _numbers(self, section: _Section) -> dict[str, str]:
        """Return the payload types that a new section must use in place of aiortc's, by aiortc's."""
        meanings = {number: codec for each in self._agreed.values() for number, codec in each.codecs().items()}
        known = {codec: number for number, codec in meanings.items()}
        wanted = section.codecs()
        free = (str(n) for n in _DYNAMIC if str(n) not in meanings and str(n) not in wanted)
        numbers: dict[str, str] = {}
        for number, (name, parameters) in wanted.items():
            apt = parameters.removeprefix("apt=")
            codec = (name, f"apt={numbers.get(apt, apt)}") if parameters.startswith("apt=") else (name, parameters)
            if codec in known:
                numbers[number] = known[codec]
            elif number in meanings:
                numbers[number] = next(free, number)
            else:
                numbers[number] = number
        return numbers


def _name(line: str) -> str:
    return line[2:].partition(":")[0] if line.startswith("a=") else ""


def _value(line: str) -> str:
    return line.partition(":")[2]


def _by_number(value: str) -> tuple[str, str]:
    number, _, rest = value.partition(" ")
    return number.partition("/")[0], rest.strip()


def _split(sdp: str) -> tuple[tuple[str, ...], list[_Section]]:
    groups: list[list[str]] = [[]]
    for line in sdp.splitlines():
        if line.startswith("m="):
            groups.append([])
        if line:
            groups[-1].append(line)
    head, *rest = groups
    sections = [_Section(tuple(group[0][2:].split()), tuple(group[1:])) for group in rest]
    if any(len(section.media) < 4 for section in sections):
        raise ValueError("a description has an m-line that is too short")
    # aiortc reads some attributes of the whole session only from sections, so each section repeats them.
    general = tuple(line for line in head if _name(line) in {"ice-ufrag", "ice-pwd", "fingerprint", "setup"})
    return tuple(head), [
        replace(section, lines=(*section.lines, *(line for line in general if not section.values(_name(line)))))
        for section in sections
    ]


def _join(head: Iterable[str], sections: Iterable[_Section]) -> str:
    sections = tuple(sections)
    bundled = " ".join(section.mid for section in sections if not section.is_rejected)
    lines = [line for line in head if _name(line) != "group"]
    lines += [f"a=group:BUNDLE {bundled}"] if bundled else []
    for section in sections:
        lines.append(f"m={' '.join(section.media)}")
        lines += section.lines
    return "\r\n".join((*lines, ""))
