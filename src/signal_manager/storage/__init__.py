"""State that outlives a process: `base` has the promises, `records` implements them, adapters store documents.

`rooms.py`, `gateway/dispatcher.py` and `service/app.py` use `base.Storage` alone; the configuration
chooses the adapter behind it.
"""
