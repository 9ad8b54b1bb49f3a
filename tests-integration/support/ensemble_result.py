"""What the climate ensemble gives, computed without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["SAMPLES", "compute"]

SAMPLES = 12
"""Climates in each scenario."""

_CODE = f"""
from pathlib import Path
from chart import fan_chart
from ensemble import *
from workflow import table
climates = draw_climates({SAMPLES}, seed=42)
projections = {{s: project([simulate(s, climates)]) for s in SCENARIOS}}
Path("expected.png").write_bytes(fan_chart(projections))
print(table(projections))
"""


def compute(ensemble: Path, directory: Path) -> tuple[str, bytes]:
    """Return table and chart of `SAMPLES` climates, computed in one process.

    Parameters
    ----------
    ensemble : Path
        The directory of the example.
    directory : Path
        For its files.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ensemble)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, (directory / "expected.png").read_bytes()
