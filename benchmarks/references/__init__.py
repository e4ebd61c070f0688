"""Small relays on other WebSocket libraries that do the same work as the service, to measure beside it."""
