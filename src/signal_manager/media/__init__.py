"""Media: the interface to an SFU, its adapters, and the order of operations on a media session."""
