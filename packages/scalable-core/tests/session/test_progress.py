"""What a session shows in plain Python."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOW = """\
from scalable.session import ScalableSession
with ScalableSession.from_yaml({}) as client:
    print(client.gather(client.map(abs, range(3), tag="fair")))
"""


def run(project: Path, environment: dict[str, str], arguments: str, *, terminal: bool) -> str:
    """Return what a workflow has written on stderr."""
    (project / "workflow.py").write_text(WORKFLOW.format(arguments))
    reading, writing = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        [sys.executable, "workflow.py"],
        cwd=project,
        env={**environment, "TERM": "xterm", "COLUMNS": "60"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writing,
    ) as process:
        os.close(writing)
        written = b""
        try:
            while more := os.read(reading, 10_000):
                written += more
        except OSError:  # the terminal is closed
            pass
        os.close(reading)
        assert process.stdout is not None
        assert b"[0, 1, 2]" in process.stdout.read()
    assert process.returncode == 0
    return written.decode()


@pytest.mark.parametrize(
    ("arguments", "terminal", "shows"),
    [
        ("", True, True),
        ("progress=False", True, False),
        ("", False, False),
        ("progress=True", False, True),
    ],
)
def test_progress_is_shown_on_a_terminal_or_on_demand(
    project: Path, environment: dict[str, str], arguments: str, terminal: bool, shows: bool
) -> None:
    written = run(project, environment, arguments, terminal=terminal)

    # How far the display has come when the script ends is a matter of luck.
    assert (" running" in written) is shows
    if not terminal:
        assert "\x1b" not in written
