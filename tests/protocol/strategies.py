"""Messages and values for property tests, made from the structs: a new row in `SPECS` is covered by itself."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from signal_manager.model import is_valid_name
from signal_manager.protocol.catalogue import SIGNAL_TYPES, SPECS
from signal_manager.protocol.messages import Message, MessageType, Peer, PublishedTrack, Renegotiate, RoomEntry

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1

names = st.text("abcXYZ019._~@+=-", min_size=1, max_size=128).filter(is_valid_name)
_json_scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
json_values: st.SearchStrategy[Any] = st.recursive(
    _json_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
signal_data = st.binary() | json_values


@cache  # a strategy is checked once, and that takes longer than most examples
def messages(message_type: MessageType, *, sent_by: Peer) -> st.SearchStrategy[Message]:
    """Give messages of one type that `sent_by` may send."""
    struct = SPECS[message_type].struct
    fields = _fields(struct)
    if message_type in SIGNAL_TYPES:
        fields["signal_data"] = signal_data
        fields["target_client_id"] = names
        fields["sender_client_id"] = st.none() if sent_by is Peer.CLIENT else names
    if issubclass(struct, RoomEntry | Renegotiate):
        fields["tracks"] = st.none() | st.lists(_offered_tracks(), max_size=4)
    if message_type is MessageType.SIGNAL_MESSAGE:
        to_client = st.builds(struct, **(fields | {"room_id": st.none()}))
        return to_client | st.builds(struct, **(fields | {"target_client_id": st.none(), "room_id": names}))
    return st.builds(struct, **fields)


@cache
def any_message(*, sent_by: Peer) -> st.SearchStrategy[Message]:
    """Give messages of every type, including those that only the other side sends."""
    return st.sampled_from(MessageType).flatmap(lambda message_type: messages(message_type, sent_by=sent_by))


@cache
def signals(*, sent_by: Peer) -> st.SearchStrategy[Message]:
    """Give SIGNAL_* messages of every type."""
    return st.sampled_from(sorted(SIGNAL_TYPES)).flatmap(lambda message_type: messages(message_type, sent_by=sent_by))


def _offered_tracks() -> st.SearchStrategy[PublishedTrack]:
    """Give tracks of the kinds that clients may send."""
    kinds = st.sampled_from([None, "audio", "video"])
    return st.builds(PublishedTrack, **(_fields(PublishedTrack) | {"kind": kinds}))


def _fields(struct: type[msgspec.Struct]) -> dict[str, st.SearchStrategy[Any]]:
    info = cast("inspect.StructType", inspect.type_info(struct))
    return {field.name: _values(field.type) for field in info.fields}


_SIMPLE: dict[type[inspect.Type], st.SearchStrategy[Any]] = {
    inspect.NoneType: st.none(),
    inspect.BoolType: st.booleans(),
    inspect.FloatType: st.floats(allow_nan=False, allow_infinity=False),
    inspect.AnyType: json_values,
}


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    if type(kind) in _SIMPLE:
        return _SIMPLE[type(kind)]
    match kind:
        case inspect.UnionType():
            return st.one_of([_values(member) for member in kind.types])
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.StrType():
            # Bounds count bytes, of which a character has up to four.
            longest = None if kind.max_length is None else kind.max_length // 4
            return names if kind.pattern else st.text(min_size=kind.min_length or 0, max_size=longest)
        case inspect.IntType():
            return st.integers(MIN_INTEGER if kind.ge is None else kind.ge, kind.le or MAX_INTEGER)
        case inspect.ListType():
            return st.lists(_values(kind.item_type), max_size=4)
        case inspect.DictType():
            return st.dictionaries(_values(kind.key_type), _values(kind.value_type), max_size=4)
        case inspect.StructType():
            return st.builds(kind.cls, **_fields(kind.cls))
        case _:
            raise NotImplementedError(f"no strategy for {kind}")
