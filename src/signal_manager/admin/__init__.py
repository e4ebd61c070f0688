"""The second port: health, metrics, the management interface and the demo page.

`gateway/server.py` serves the rest of this package over HTTP; a fault in here never reaches the clients' connections.
"""
