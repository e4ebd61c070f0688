"""Headers: where a message starts, what it is, and how long it is (docs/protocol.md, first section).

Neighbours: `codec` reads what a frame's payload holds; `session` decides whether the message may come now.
"""
