"""Media: what rooms need from an SFU, and the adapters that provide it.

Neighbours: `rooms` sees the interface only; `sfu` is an application of its own that speaks the same HTTP interface as
Cloudflare Realtime, so that one client serves both.
"""
