"""Media: what rooms need from an SFU, the adapters that give it, and the order in which a session may be asked."""
