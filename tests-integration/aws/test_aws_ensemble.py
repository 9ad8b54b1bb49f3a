"""The climate ensemble gives the same result on AWS as on one machine."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import ensemble_result
import pytest
import yaml
from aws_account import AwsAccount
from ensemble_result import SAMPLES

SCALABLE = Path(sysconfig.get_path("scripts"), "scalable")


@pytest.fixture(scope="module")
def ensemble() -> Path:
    pytest.importorskip("fair", reason="examples/climate-ensemble/requirements.txt")
    return Path(__file__).parents[2] / "examples/climate-ensemble"


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_the_ensemble_by_scalable_run(
    account: AwsAccount, kind: str, ensemble: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load((ensemble / "scalable.yaml").read_text(encoding="utf-8"))
    target = {**account.target, "provider": "aws", "cluster_type": kind}
    document["targets"] = {"cloud": {**target, "workers": {"fair": 2, "analysis": 1}}}
    manifest = tmp_path / "scalable.yaml"
    manifest.write_text(yaml.safe_dump(document), encoding="utf-8")
    table, chart = ensemble_result.compute(ensemble, tmp_path)
    done = subprocess.run(
        [
            *(SCALABLE, "run", manifest, "--workflow", ensemble / "workflow.py"),
            *("--", "--samples", f"{SAMPLES}", "--out", "chart.png"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert table in done.stdout
    assert (tmp_path / "chart.png").read_bytes() == chart
