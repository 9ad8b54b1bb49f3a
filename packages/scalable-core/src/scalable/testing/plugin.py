"""Pytest plugin of the conformance suite: rewrites its assertions and registers its marker.

Only pytest loads it, by its entry point, so that an environment without pytest is not affected.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("scalable.testing.conformance", "scalable.testing.remote")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests whose failure a provider may declare."""
    config.addinivalue_line(
        "markers",
        "scalable_ability(name): tests what a provider may declare that it cannot do, by this name",
    )
