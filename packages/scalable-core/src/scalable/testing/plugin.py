"""Pytest plugin: makes the assertions of the conformance suite tell what they compared.

Only pytest loads it, by its entry point, so that an environment without pytest is not affected.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("scalable.testing.conformance")
