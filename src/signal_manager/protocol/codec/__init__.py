"""Payloads: bytes to messages and back, one module per payload type (docs/protocol.md, "Payload types").

`payload` chooses among the modules, `fields` holds the rules that they share; `framing` is what lies around a payload.
"""

from signal_manager.protocol.codec.fields import Decoded
from signal_manager.protocol.codec.payload import decode_payload, encode_payload, guess_shape

__all__ = ["Decoded", "decode_payload", "encode_payload", "guess_shape"]
