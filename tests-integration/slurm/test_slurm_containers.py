"""Components in containers on a real Slurm."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from awkward import VALUES
from container_image import PACKAGES
from container_site import ContainerSite, provide
from pickling import by_value
from slurm_site import SlurmSite, wait_until

from scalable.client import ScalableClient
from scalable.cluster import Pace
from scalable.errors import GroupFailedError
from scalable.providers.slurm import SlurmCluster

# An image need not have all packages of the client.
pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")

QUICK = Pace(tick=0.2, poll=0.5)


@pytest.fixture(scope="module", params=["podman", "docker", "apptainer"])
def runtime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerSite]:
    """A container runtime on the nodes, all of which are this machine."""
    with pytest.MonkeyPatch.context() as patch:
        yield provide(request.param, tmp_path_factory.mktemp(request.param), patch)


@pytest.fixture
def cluster(work: Path) -> Iterator[SlurmCluster]:
    """A cluster without groups, whose target leaves containers to the components."""
    scratch = work / "scratch"  # not /tmp, or everything below it would be mounted
    scratch.mkdir()
    with SlurmCluster(
        queue="short",
        walltime="00:10:00",
        interface="lo",
        local_directory=str(scratch),
        # As if inherited from a login node, unless this machine has one: two different ones would confuse Podman.
        prologue=['export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/nowhere}"'],
        pace=QUICK,
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(runtime: ContainerSite, work: Path) -> Iterator[None]:
    yield
    wait_until(lambda: not containers(runtime, work), "no container is left")
    wait_until(lambda: not processes(work), "nor a process of one")
    runtime.unmount()


def containers(runtime: ContainerSite, work: Path) -> list[str]:
    return runtime.containers(str(work), label="scalable.logs")


def processes(work: Path) -> list[str]:
    """Return the command lines of workers, in containers or not, found by the paths in their arguments."""
    return [
        line for line in map(command_line, psutil.process_iter()) if f"{work}/.scalable" in line
    ]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def in_image(runtime: ContainerSite, **more: Any) -> dict[str, Any]:
    """Return the arguments of `add_container` for a component in the image."""
    return {"path": runtime.image, "runtime": runtime.runtime, "memory": "400M", **more}


@by_value
def look_around(names: list[str]) -> dict[str, Any]:
    import importlib.util

    import distributed

    with Path("/out/seen").open("a") as file:
        file.write(Path("/in put/data").read_text())
    return {
        "distributed": distributed.__file__,
        "stray": importlib.util.find_spec("stray"),
        "values": [os.environ[name] for name in names],
        "prepared": os.environ["PREPARED"],
        "user": os.getuid(),
        "home": os.access(os.environ["HOME"], os.W_OK),
        "threads": os.environ["OMP_NUM_THREADS"],
        "knows its job": "SLURM_JOB_ID" in os.environ,
        "scratch": distributed.get_worker().local_directory,
    }


@by_value
def whereabouts() -> tuple[str, bool]:
    return os.environ["SLURM_JOB_PARTITION"], Path("/in put").exists()


def test_a_worker_has_its_image_its_mounts_and_its_variables(
    runtime: ContainerSite, cluster: SlurmCluster, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink, strays = work / "a = b", work / "sink", work / "strays"
    for directory in (source, sink, strays):
        directory.mkdir()
    (source / "data").write_text("42")
    (strays / "stray.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(strays))
    (work / "prepare.py").write_text("import os\nos.environ['PREPARED'] = 'yes'\n")
    env = {f"VALUE_{i}": value for i, value in enumerate(VALUES)}
    gcam = in_image(
        runtime,
        cpus=4,
        slots=2,
        env=env,
        dirs={str(source): "/in put", str(sink): "/out"},
        preload_script="prepare.py",
    )
    cluster.add_container("gcam", **gcam)
    cluster.add_container("plots", memory="300M")
    cluster.scale_groups({"gcam": 2, "plots": 1})

    with ScalableClient(cluster) as client:
        seen = client.submit(look_around, sorted(env), tag="gcam").result(60)
        outside = client.submit(whereabouts, tag="plots").result(60)

    assert cluster.scheduler_address.startswith("tls://")
    assert seen.pop("distributed").startswith(PACKAGES)
    assert seen.pop("scratch").startswith(f"{work}/scratch/")
    assert seen == {
        "stray": None,
        "values": VALUES,
        "prepared": "yes",
        "user": os.getuid(),
        "home": True,
        "threads": "2",
        "knows its job": runtime.runtime == "apptainer",
    }
    assert outside == ("short", False)
    assert (sink / "seen").read_text() == "42"
    assert (sink / "seen").stat().st_uid == os.getuid()
    assert not list(work.rglob("pwned"))


def test_containers_start_and_end_with_their_jobs(
    runtime: ContainerSite, cluster: SlurmCluster, work: Path, site: SlurmSite
) -> None:
    cluster.add_container("gcam", **in_image(runtime))
    cluster.add_workers(2, "gcam")
    cluster.wait_for_group("gcam", 2)
    first = set(cluster.groups["gcam"].workers)
    apart = runtime.runtime != "apptainer"
    assert len(containers(runtime, work)) == 2 * apart

    site.run("scancel", site.jobs()[0])
    wait_until(
        lambda: len(set(cluster.groups["gcam"].workers) - first) == 1, "one has been replaced"
    )
    wait_until(lambda: len(containers(runtime, work)) == 2 * apart, "so has its container")
    wait_until(
        lambda: any("was cancelled" in event.text for event in cluster.events), "it is explained"
    )

    cluster.remove_workers(1, "gcam")
    wait_until(lambda: len(site.jobs()) == 1, "a job has ended")
    wait_until(lambda: len(containers(runtime, work)) == 1 * apart, "so has its container")
    cluster.wait_for_group("gcam", 1)


def test_one_container_runs_several_workers(
    runtime: ContainerSite, cluster: SlurmCluster, work: Path, site: SlurmSite
) -> None:
    cluster.add_container("gcam", **in_image(runtime, workers_per_job=2))
    cluster.add_workers(2, "gcam")
    cluster.wait_for_group("gcam", 2)
    apart = runtime.runtime != "apptainer"
    assert (len(site.jobs()), len(containers(runtime, work))) == (1, 1 * apart)
    cluster.remove_workers(1, "gcam")
    wait_until(lambda: cluster.groups["gcam"].draining == 0, "one has left")
    cluster.add_workers(1, "gcam")
    cluster.wait_for_group("gcam", 2)
    assert (len(site.jobs()), len(containers(runtime, work))) == (1, 1 * apart)
    assert all("Registered to" in log for log in cluster.logs("gcam").values())


@by_value
def ignore_signals(path: str) -> None:
    Path(path).touch()
    # Called with the GIL held, as much native model code is: no signal is handled meanwhile.
    ctypes.PyDLL(None).sleep(600)


def test_a_busy_container_ends_with_its_job(
    runtime: ContainerSite, cluster: SlurmCluster, work: Path, site: SlurmSite
) -> None:
    cluster.add_container("gcam", **in_image(runtime, dirs={str(work): "/out"}))
    cluster.add_workers(1, "gcam")
    with ScalableClient(cluster) as client:
        future = client.submit(ignore_signals, "/out/started", tag="gcam", retries=0)
        wait_until((work / "started").exists, "the task is under way")

        site.run("scancel", *site.jobs())  # SIGTERM first, SIGKILL after KillWait

        cluster.scale_groups({"gcam": 0})
        wait_until(lambda: not containers(runtime, work), "no container is left")
        future.cancel()


CLIENT = """
import sys, time
from scalable.cluster import Pace
from scalable.providers.slurm import SlurmCluster
from scalable.providers.slurm.watchdog import QueueWatchdog
QueueWatchdog.__init__.__kwdefaults__["settle"] = 5  # and not for a minute, since the test waits for its end
cluster = SlurmCluster(queue="short", interface="lo", pace=Pace(tick=0.2, poll=0.5))
cluster.add_container("gcam", path=sys.argv[1], runtime=sys.argv[2], memory="400M")
cluster.add_workers(2, "gcam")
cluster.wait_for_group("gcam", 2)
print("up", flush=True)
time.sleep(600)
"""


def test_no_container_outlives_a_client_that_is_killed(
    runtime: ContainerSite, work: Path, site: SlurmSite
) -> None:
    command = [sys.executable, "-c", CLIENT, runtime.image, runtime.runtime]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        client.send_signal(signal.SIGKILL)
        client.wait(60)
    # `_nothing_is_left` waits for the containers.
    wait_until(lambda: not site.jobs(), "its jobs are gone")


@pytest.mark.usefixtures("impatient")
def test_a_missing_image_is_explained_with_the_runtimes_message(
    runtime: ContainerSite, cluster: SlurmCluster
) -> None:
    # Nothing listens on port 1.
    missing, message = {
        "apptainer": ("/nowhere/gcam.sif", "could not open image /nowhere/gcam.sif"),
        "docker": ("127.0.0.1:1/gcam:7", "connection refused"),
        "podman": ("127.0.0.1:1/gcam:7", "connection refused"),
    }[runtime.runtime]
    cluster.add_container("gcam", **in_image(runtime, path=missing))
    cluster.add_workers(1, "gcam")

    with pytest.raises(GroupFailedError) as caught:
        cluster.wait_for_group("gcam", timeout=60)

    assert message in caught.value.explanation.log_tail


MANIFEST = """\
version: 1
project: {{name: site}}
targets:
  hpc:
    provider: slurm
    queue: short
    walltime: 00:10:00
    interface: lo
components:
  gcam: {{image: {image}, runtime: {runtime}, memory: 400M, env: {{SECRET: "${{TOKEN}}"}}}}
  plots: {{memory: 300M}}
"""

WORKFLOW = """\
import os
from emulator import run
from scalable.session import ScalableSession

def where():
    import distributed
    return distributed.__file__, len(os.environ.get("SECRET", ""))

with ScalableSession.from_yaml() as client:
    print(client.submit(run, 21, tag="gcam").result())
    print(*client.submit(where, tag="gcam").result())
    print(*client.submit(where, tag="plots").result())
"""


def test_a_workflow_and_its_modules_run_in_the_image(runtime: ContainerSite, work: Path) -> None:
    manifest = MANIFEST.format(runtime=runtime.runtime, image=runtime.image)
    (work / "scalable.yaml").write_text(manifest)
    (work / "workflow.py").write_text(WORKFLOW)
    (work / "emulator.py").write_text("def run(x):\n    return 2 * x\n")
    ran = subprocess.run(
        [sys.executable, "-m", "scalable.cli", "run", "--workflow", "workflow.py"],
        env={**os.environ, "TOKEN": "hush-hush"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result, inside, outside = ran.stdout.splitlines()
    assert result == "42"
    assert inside.startswith(PACKAGES)
    assert inside.endswith(" 9")
    assert not outside.startswith(PACKAGES)
    assert outside.endswith(" 0")
    written = [path for path in work.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hush-hush" in path.read_bytes()]
