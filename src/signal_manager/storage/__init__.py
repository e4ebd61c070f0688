"""State that outlives a process: `base` promises, `records` keeps the promises, adapters keep the documents.

`rooms.py`, `gateway/dispatcher.py` and `service/app.py` speak to `base.Storage` alone; which adapter stands behind it
is configuration.
"""
