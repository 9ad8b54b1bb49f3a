"""Files, pipes and devices that a user names in place of a file."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from scalable.manifest import files
from scalable.manifest.files import read_file


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WRITER_WITHIN", 0.2)


def test_a_pipe_to_which_nobody_writes_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe to which no program writes"):
        read_file(tmp_path / "pipe", 10)


@pytest.mark.parametrize("begins_with", [b"", b"ab"])
def test_a_pipe_is_read_to_its_end_however_slow_its_writer_is(begins_with: bytes) -> None:
    """As a shell passes the output of a program: <(program)."""
    reading, writing = os.pipe()
    os.write(writing, begins_with)

    def write_rest() -> None:
        os.write(writing, b"cd")
        os.close(writing)

    timer = threading.Timer(0.6, write_rest)
    timer.start()
    assert read_file(f"/dev/fd/{reading}", 10) == begins_with + b"cd"
    assert read_file(f"/dev/fd/{reading}", 10) == b""  # at once: all writers are gone
    timer.join()
    os.close(reading)


def test_what_has_no_end_is_read_to_the_limit(tmp_path: Path) -> None:
    assert read_file("/dev/zero", 10**6) == bytes(10**6)
    (tmp_path / "file").write_bytes(b"abc")
    assert read_file(tmp_path / "file", 2) == b"ab"
    assert read_file(tmp_path / "file", 4) == b"abc"


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name in (".", "missing", "socket"):
        with pytest.raises(OSError, match=name):
            read_file(tmp_path / name, 10)
