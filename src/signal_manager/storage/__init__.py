"""State that outlives a process: `base` promises, `records` keeps the promises, adapters keep the documents.

`rooms.py`, `router.py` and `app.py` speak to `base.Storage` alone; which adapter stands behind it is configuration.
"""
