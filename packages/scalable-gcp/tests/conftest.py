"""A home of its own for each test, so that prices that a user has saved make no difference."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the user's data, which does not exist yet."""
    directory = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(directory))
    return directory
