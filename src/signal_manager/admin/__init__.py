"""The second port: health, metrics, the management interface and the demo page.

`server.py` serves it over HTTP. A failure in this package never affects the connections of clients.
"""
