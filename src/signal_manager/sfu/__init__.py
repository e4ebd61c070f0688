"""The local SFU: Cloudflare Realtime's HTTP interface over media that is really forwarded, on one machine.

For development and tests. `service` is the way in; `http` answers requests, `sessions` and `negotiation` hold what a
session is, `transport`, `dtls`, `forwarding` and `datachannels` carry its packets, `faults` breaks things on demand.
"""

from signal_manager.sfu.service import LocalSfu, serve
from signal_manager.sfu.settings import SfuSettings

__all__ = ["LocalSfu", "SfuSettings", "serve"]
