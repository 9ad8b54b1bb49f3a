"""The examples run as their readmes describe, and print the right results."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import ensemble_result
import pytest
from ensemble_result import SAMPLES

from scalable.results.store.storage import Store

SCALABLE = Path(sysconfig.get_path("scripts")) / "scalable"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command, which must succeed, and return its standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ensemble(root: Path) -> Path:
    pytest.importorskip("fair", reason="examples/climate-ensemble/requirements.txt")
    return root / "examples/climate-ensemble"


@pytest.fixture(scope="module")
def expected(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Table and chart of the ensemble, computed in one process without a cluster."""
    return ensemble_result.compute(ensemble, tmp_path_factory.mktemp("expected"))


def created(directory: Path) -> dict[str, float]:
    """Return when each result of a store was computed."""
    store = Store(str(directory))
    return {name: store.read_header(name)["created"] for name, _ in store.results()}


def test_the_ensemble_by_scalable_run(
    ensemble: Path, expected: tuple[str, bytes], tmp_path: Path
) -> None:
    printed = run(
        *(SCALABLE, "run", ensemble / "scalable.yaml", "--workflow", ensemble / "workflow.py"),
        *("--", "--samples", str(SAMPLES), "--out", "chart.png"),
        cwd=tmp_path,
        CLIMATE_RESULTS=str(tmp_path / "kept"),
    )
    table, chart = expected
    assert table in printed
    assert str(tmp_path / "chart.png") in printed
    assert (tmp_path / "chart.png").read_bytes() == chart
    kept = created(tmp_path / "kept")
    assert len(kept) == 4 * math.ceil(SAMPLES / 10)
    (tmp_path / "chart.png").unlink()
    again = run(
        *(SCALABLE, "resume", next((tmp_path / ".scalable/runs").iterdir()).name),
        cwd=tmp_path,
        CLIMATE_RESULTS=str(tmp_path / "kept"),
    )
    assert table in again
    assert (tmp_path / "chart.png").read_bytes() == chart
    assert created(tmp_path / "kept") == kept  # nothing was computed again


def test_the_ensemble_by_plain_python(
    ensemble: Path, expected: tuple[str, bytes], tmp_path: Path
) -> None:
    printed = run(
        *(sys.executable, ensemble / "workflow.py", "--samples", str(SAMPLES)),
        cwd=tmp_path,
        SCALABLE_MANIFEST=str(ensemble / "scalable.yaml"),
        CLIMATE_RESULTS=str(tmp_path / "kept"),
    )
    table, chart = expected
    assert table in printed
    assert (tmp_path / "warming.png").read_bytes() == chart


def test_hello_shows_both_kinds_of_worker(root: Path, tmp_path: Path) -> None:
    hello = root / "examples/hello"
    printed = run(
        *(SCALABLE, "run", hello / "scalable.yaml", "--workflow", hello / "workflow.py"),
        cwd=tmp_path,
    )
    found = re.findall(r"^task (\d) ran on (model|analysis)-", printed, re.MULTILINE)
    assert found == [(str(n), tag) for tag in ("model", "analysis") for n in range(3)]
