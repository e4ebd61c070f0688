"""Payloads: bytes to messages and back, one module per payload type (docs/protocol.md, "Payload types").

`payload.py` chooses the module, and `fields.py` holds the rules that all modules share. `framing.py` handles the frame
around a payload.
"""

from signal_manager.protocol.codec.fields import Decoded
from signal_manager.protocol.codec.payload import decode_payload, encode_payload, guess_shape

__all__ = ["Decoded", "decode_payload", "encode_payload", "guess_shape"]
