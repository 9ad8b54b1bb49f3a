"""What the climate ensemble gives on a cluster, and computed without one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["SAMPLES", "check_on", "compute"]

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


def check_on(target: Mapping[str, Any], directory: Path) -> None:
    """Run the example by ``scalable run``, and compare its result with that of one process.

    Parameters
    ----------
    target : mapping
        The target, with the name of its provider.
    directory : Path
        For its files.
    """
    pytest.importorskip("fair", reason="examples/climate-ensemble/requirements.txt")
    ensemble = Path(__file__).parents[2] / "examples/climate-ensemble"
    document = yaml.safe_load((ensemble / "scalable.yaml").read_text(encoding="utf-8"))
    # The machines share no directory.
    del document["project"]["results"], document["tasks"]["simulate"]["cache"]
    document["targets"] = {"cloud": {**target, "workers": {"fair": 2, "analysis": 1}}}
    manifest = directory / "scalable.yaml"
    manifest.write_text(yaml.safe_dump(document), encoding="utf-8")
    table, chart = compute(ensemble, directory)
    done = subprocess.run(
        [
            *(Path(sysconfig.get_path("scripts"), "scalable"), "run", manifest),
            *("--workflow", ensemble / "workflow.py"),
            *("--", "--samples", f"{SAMPLES}", "--out", "chart.png"),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert table in done.stdout
    assert (directory / "chart.png").read_bytes() == chart
