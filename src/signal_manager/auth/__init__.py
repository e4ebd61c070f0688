"""Authentication: static keys, signed tokens and client records."""
