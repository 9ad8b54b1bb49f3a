from __future__ import annotations

import resource
from pathlib import Path

import pytest

from scalable.errors import NotSupportedError
from scalable.providers.slurm.preflight import _logs
from scalable.providers.slurm.rundir import RunDirectory


def test_keys_that_find_no_room_are_told_with_their_place(tmp_path: Path) -> None:
    """The system says of a write over quota, as of one over this limit, only that it is too much."""
    directory = RunDirectory(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which error is the system's business
            directory.write_keys()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value.filename).startswith(str(directory.path))
    directory.remove_keys()
    assert not directory.path.exists()


def test_a_directory_that_slurm_would_misread_is_refused(tmp_path: Path) -> None:
    location = tmp_path / "DOMAIN\\user"
    with pytest.raises(NotSupportedError, match="set logs_location to another"):
        RunDirectory(location / "run")
    assert not location.exists()
    assert _logs(str(location)).ok is False
