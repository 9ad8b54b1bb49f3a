"""The climate ensemble gives the same result on Compute Engine as on one machine."""

from __future__ import annotations

from pathlib import Path

import ensemble_result
from gce_project import GceProject


def test_the_ensemble_by_scalable_run(project: GceProject, tmp_path: Path) -> None:
    target = {**project.target, "provider": "gcp", "external_ips": False}
    ensemble_result.check_on(target, tmp_path)
