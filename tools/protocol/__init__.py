"""Write everything that repeats the protocol from its one source, and check that it is up to date.

The source is `signal_manager.protocol.catalogue` with the structs of `messages.py`, the errors of `errors.py` and the
table of `close_codes.py`. Run `python -m tools.protocol`, or with `--check` to only compare (`make lint` does).
"""
