"""How hard the property tests try: HYPOTHESIS_PROFILE=ci in CI, a quick "dev" otherwise."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: a busy machine must not fail a test.
settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
