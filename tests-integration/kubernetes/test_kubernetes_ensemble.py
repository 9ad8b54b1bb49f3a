"""The climate ensemble gives the same result as on one machine, also where its workflow is a Job in the cluster."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ensemble_result
import pytest
import yaml
from ensemble_result import SAMPLES
from kubernetes_clusters import SMALL
from kubernetes_site import KubernetesSite, documented_objects
from slurm_site import wait_until

SCALABLE = Path(sysconfig.get_path("scripts"), "scalable")
ARGUMENTS = ("--samples", str(SAMPLES), "--out", "chart.png")
FILES = ("workflow.py", "ensemble.py", "chart.py")


@pytest.fixture(scope="module")
def ensemble(root: Path) -> Path:
    pytest.importorskip("fair", reason="examples/climate-ensemble/requirements.txt")
    return root / "examples/climate-ensemble"


@pytest.fixture(scope="module")
def expected(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    return ensemble_result.compute(ensemble, tmp_path_factory.mktemp("expected"))


@pytest.fixture(scope="module")
def images(site: KubernetesSite, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The images of its components, by name."""
    return site.load_ensemble(tmp_path_factory.mktemp("images"))


@pytest.fixture
def manifest(ensemble: Path, images: Mapping[str, str], work: Path, namespace: str) -> Path:
    """The manifest of the example, for this cluster."""
    document = yaml.safe_load((ensemble / "scalable.yaml").read_text(encoding="utf-8"))
    # The machines share no directory.
    del document["project"]["results"], document["tasks"]["simulate"]["cache"]
    # A share of the node beside what other tests run there.
    requests = {"cpu": "200m", "memory": "512Mi"}
    target = {
        **SMALL,
        "namespace": namespace,
        "workers": {"fair": 2, "analysis": 1},
        "resources": {"requests": requests},
    }
    document["targets"] = {"gke": target}
    for name, image in images.items():
        document["components"][name] = {"image": image}
    file = work / "scalable.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


def test_the_ensemble_in_two_images(
    site: KubernetesSite,
    namespace: str,
    ensemble: Path,
    manifest: Path,
    expected: tuple[str, bytes],
    work: Path,
) -> None:
    workflow = f"--workflow={ensemble / 'workflow.py'}"
    command = [str(SCALABLE), "run", str(manifest), "--target=gke", workflow, "--", *ARGUMENTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table, chart = expected
    assert table in done.stdout
    assert (work / "chart.png").read_bytes() == chart
    assert site.leftovers(namespace) == []


def test_the_ensemble_as_a_job_inside(
    site: KubernetesSite,
    namespace: str,
    root: Path,
    ensemble: Path,
    images: Mapping[str, str],
    manifest: Path,
    expected: tuple[str, bytes],
    work: Path,
) -> None:
    files = [f"--from-file={path}" for path in (manifest, *(ensemble / name for name in FILES))]
    site.kubectl("create", "configmap", "ensemble", f"--namespace={namespace}", *files)
    give_role(site, root, namespace)
    (job,) = documented_objects(root, "Job")
    job["metadata"]["namespace"] = namespace
    adapt(job["spec"]["template"]["spec"], images["analysis"], work)
    site.apply(job)

    def ended() -> str:
        (job,) = site.get("jobs", namespace)
        conditions = job["status"].get("conditions", ())
        return next((c["type"] for c in conditions if c["status"] == "True"), "")

    wait_until(ended, "the Job has ended", 300)
    log = site.kubectl("logs", "job/ensemble", f"--namespace={namespace}")
    assert ended() == "Complete", log
    table, chart = expected
    rows = [*filter(None, table.splitlines())]
    # Lines of standard error may be between them.
    assert [line for line in log.splitlines() if line in rows] == rows, log
    assert (work / "chart.png").read_bytes() == chart
    assert site.leftovers(namespace) == []


def test_the_ensemble_by_scalable_run_in_the_cluster(
    site: KubernetesSite,
    namespace: str,
    root: Path,
    ensemble: Path,
    images: Mapping[str, str],
    manifest: Path,
    expected: tuple[str, bytes],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_role(site, root, namespace)
    document = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    document["targets"]["gke"]["workflow"] = {
        "image": "${TESTS_IMAGE}",
        "cpu": "200m",
        "memory": "512Mi",
        "mounts": {os.fspath(work): "/results"},
    }
    manifest.write_text(yaml.safe_dump(document), encoding="utf-8")
    monkeypatch.setenv("TESTS_IMAGE", images["analysis"])
    options = ("--target=gke", f"--workflow={ensemble / 'workflow.py'}", "--in-cluster")
    arguments = ("--samples", str(SAMPLES), "--out", "/results/chart.png")
    command = [str(SCALABLE), "run", str(manifest), *options, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table, chart = expected
    assert table in done.stdout
    assert (work / "chart.png").read_bytes() == chart
    assert site.leftovers(namespace) == []


def give_role(site: KubernetesSite, root: Path, namespace: str) -> None:
    """Create the account of a workflow in the cluster, as the documentation does."""
    objects = documented_objects(root, "Role", "ServiceAccount", "RoleBinding")
    assert len(objects) == 3
    for made in objects:
        made["metadata"]["namespace"] = namespace
        for subject in made.get("subjects", ()):
            subject["namespace"] = namespace
    site.apply(*objects)


def adapt(pod: dict[str, Any], image: str, results: Path) -> None:
    """Have the Job of the documentation find room here, and write its files into a directory of this machine."""
    (container,) = pod["containers"]
    container |= {"image": image, "args": [*ARGUMENTS]}
    container["resources"] = {"requests": {"cpu": "200m", "memory": "512Mi"}}
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "results")
    del volume["persistentVolumeClaim"]
    volume["hostPath"] = {"path": os.fspath(results)}
