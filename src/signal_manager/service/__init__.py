"""Settings, and the service built from them."""
