"""From a manifest to results on a real Slurm, by Scalable's command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_site import SlurmSite, wait_until

from scalable.manifest import load_manifest
from scalable.providers.base import DeploymentSpec, Owned
from scalable.providers.slurm import SlurmProvider

ROOT = Path(__file__).parents[2]

MANIFEST = """\
version: 1
project: {name: site}
targets:
  hpc:
    provider: slurm
    queue: ${QUEUE:-short}
    walltime: 00:10:00
    interface: lo
    workers: {gcam: 2, plots: 1}
components:
  gcam: {cpus: 4, memory: 400M, env: {TOKEN: "${TOKEN:-none}"}}
  plots: {memory: 300M}
"""

WORKFLOW = """\
import os
from helper import double
from scalable.session import ScalableSession

def where():
    print("token", os.environ["TOKEN"])
    return os.environ["SLURM_CPUS_PER_TASK"], len(os.environ["TOKEN"])

with ScalableSession.from_yaml() as client:
    print(client.submit(double, 21, tag="plots").result())
    print(*client.submit(where, tag="gcam").result())
"""


@pytest.fixture
def project(work: Path) -> Path:
    (work / "scalable.yaml").write_text(MANIFEST)
    (work / "workflow.py").write_text(WORKFLOW)
    (work / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    return work


def scalable(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalable.cli", *arguments],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_workflow_and_its_modules_run_on_the_nodes(project: Path, site: SlurmSite) -> None:
    ran = scalable("run", "--workflow", "workflow.py", TOKEN="hush-hush")
    assert (ran.returncode, ran.stdout) == (0, "42\n4 9\n"), ran.stderr
    assert "gcam" in ran.stderr
    # Values from the environment are in no file that the run wrote; the task itself has printed one into its job's log.
    written = [path for path in project.rglob("*") if path.is_file()]
    written = [path for path in written if path.suffix != ".log" or "runs" in path.parts]
    assert written
    assert not [path for path in written if b"hush-hush" in path.read_bytes()]
    # What tasks have printed is found afterwards, without them.
    shown = scalable("logs", "latest", "where")
    assert "token ${TOKEN" in shown.stdout, shown.stderr


def test_check_passes_on_a_working_site(project: Path) -> None:
    checked = scalable("check", "--json")
    verdicts = {result["name"]: result["ok"] for result in json.loads(checked.stdout)}
    assert checked.returncode == 0
    assert verdicts["partition"] is verdicts["component gcam"] is verdicts["interface"] is True


@pytest.mark.parametrize(
    ("queue", "message"),
    [("shrt", "did you mean 'short'"), ("closed", "is down")],
)
def test_check_reports_what_is_wrong_with_a_partition(
    project: Path, queue: str, message: str
) -> None:
    checked = scalable("check", QUEUE=queue)
    assert checked.returncode == 1
    assert message in checked.stdout


def test_check_reports_a_component_that_fits_no_node(project: Path) -> None:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("cpus: 4", "cpus: 400"))
    checked = scalable("check", "--json")
    (finding,) = [r for r in json.loads(checked.stdout) if r["name"] == "component gcam"]
    assert finding["ok"] is False
    assert "More processors requested than permitted" in finding["detail"]


def test_a_notebook_may_check_and_list_and_reap(project: Path) -> None:
    """A notebook calls everything on a thread whose event loop is running."""
    spec = DeploymentSpec.from_manifest(load_manifest("scalable.yaml"), target_name="hpc")

    async def cell() -> None:
        provider = SlurmProvider()
        verdicts = {result.name: result.ok for result in provider.preflight(spec)}
        assert verdicts["partition"] is True
        assert list(provider.list_owned(spec)) == []
        gone = Owned("Slurm job", "4711_0", "run", "me", "")
        assert list(provider.reap(spec, [gone])) == []

    asyncio.run(cell())


def test_rendered_scripts_are_accepted_by_slurm(project: Path) -> None:
    rendered = scalable("plan", "--render", "--json", TOKEN="hush-hush")
    assert "hush-hush" not in rendered.stdout
    for artifact in json.loads(rendered.stdout)["artifacts"]:
        line, script = artifact["content"].split("\n", 1)
        command = line.removeprefix("# ").replace("sbatch", "sbatch --test-only", 1)
        subprocess.run(["bash", "-c", command], input=script, text=True, check=True)


def test_a_group_that_cannot_start_ends_the_run(project: Path) -> None:
    ran = scalable("run", "--workflow", "workflow.py", QUEUE="nosuch")
    assert ran.returncode == 1
    # The name came from the environment, so it is not shown.
    assert "invalid partition specified" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_jobs_of_a_frozen_client_are_found_and_removed(project: Path, site: SlurmSite) -> None:
    """A suspended client, as on a frozen machine, keeps its jobs; another session can cancel them."""
    (project / "workflow.py").write_text(
        "import time\nfrom scalable.session import ScalableSession\n"
        "with ScalableSession.from_yaml() as client:\n    client.submit(int, tag='plots').result()\n"
        "    print('here', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "run", "--workflow", "workflow.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "here\n"
        client.send_signal(signal.SIGSTOP)
        try:
            found = json.loads(scalable("ps", "--json").stdout)
            assert len(found) == 3
            (run,) = {thing["run_id"] for thing in found}
            assert scalable("reap", run, "--yes").returncode == 0
            wait_until(lambda: not site.jobs(), "the jobs are gone")
        finally:
            client.send_signal(signal.SIGCONT)
            client.terminate()
            client.wait(60)


def test_a_session_outlives_its_shell_and_ends_with_its_jobs(
    project: Path, site: SlurmSite
) -> None:
    up = scalable("up", "--json")
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    # It returns once each group has a worker.
    assert {tag for tag, each in told["groups"].items() if each["running"]} == {"gcam", "plots"}
    attached = scalable("attach", "--workflow", "workflow.py")
    assert (attached.returncode, attached.stdout) == (0, "42\n4 4\n"), attached.stderr
    assert scalable("scale", "gcam=3", "plots=0").returncode == 0
    wait_until(lambda: len(site.jobs()) == 3, "the jobs are those of three workers of gcam")
    ended = scalable("down", "--json")
    record = json.loads(ended.stdout)
    assert (record["id"], record["status"]) == (told["run"], "finished"), ended.stderr
    assert record["everything_removed"]
    assert not site.jobs()


def test_what_a_killed_manager_has_left_is_removed(project: Path, site: SlurmSite) -> None:
    up = scalable("up", "--json")
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    os.kill(told["pid"], signal.SIGKILL)
    down = scalable("down", told["run"])
    assert down.returncode == 0, down.stderr
    assert f"nothing is left of run {told['run']}" in down.stderr
    assert not site.jobs()
    assert f"{told['run']}  killed" in scalable("runs").stdout
    wait_until(lambda: not [*project.glob(".scalable/logs/*/tls")], "the keys are removed")


def test_the_climate_ensemble_runs_on_workers_of_two_shapes(work: Path) -> None:
    example = ROOT / "examples/climate-ensemble"
    ran = scalable(
        *("run", str(example / "scalable.yaml"), "--target", "hpc"),
        *("--workflow", str(example / "workflow.py")),
        *("--", "--samples", "8", "--out", str(work / "warming.png")),
        SLURM_PARTITION="short",
        CLIMATE_RESULTS=str(work / "kept"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "RCP8.5" in ran.stdout
    assert (work / "warming.png").read_bytes().startswith(b"\x89PNG")
