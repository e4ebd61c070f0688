"""The second port: health, metrics, the management interface and the demo page.

`server.py` serves the rest of this package over HTTP; a fault in here never reaches the clients' connections.
"""

from signal_manager.admin.api import Management
from signal_manager.admin.everywhere import Everywhere
from signal_manager.admin.numbers import Numbers
from signal_manager.admin.server import AdminServer
from signal_manager.admin.tokens import TokenIssuer

__all__ = ["AdminServer", "Everywhere", "Management", "Numbers", "TokenIssuer"]
