"""Contract suites for authors of adapters: subclass one in a test module, bring the fixtures, run pytest.

Needs pytest and pytest-asyncio in its auto mode; docs/adapters.md has an example.
"""

import pytest

# The suites are not test modules, so pytest must be told to rewrite their assertions.
pytest.register_assert_rewrite(
    "signal_manager.testing.bus", "signal_manager.testing.media", "signal_manager.testing.storage"
)
