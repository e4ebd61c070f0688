"""Fuzzing of everything that takes bytes from others: `python -m fuzz --help`."""
