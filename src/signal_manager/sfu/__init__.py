"""The local SFU: Cloudflare Realtime's HTTP interface with real forwarding of media, on one machine.

For development and tests. `service.py` is the entry point, and `api.py` answers requests. `sessions.py` and
`negotiation.py` hold the state of sessions. `transport.py`, `secure_transport.py` (on `dtls.py` and `srtp.py`),
`forwarding.py` and `datachannels.py` (on `sctp.py`) carry packets. `faults.py` injects faults.
"""

from signal_manager.sfu.service import LocalSfu, serve
from signal_manager.sfu.settings import SfuSettings

__all__ = ["LocalSfu", "SfuSettings", "serve"]
