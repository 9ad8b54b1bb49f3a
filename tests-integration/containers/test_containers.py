"""Components that run in their images."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from awkward import VALUES
from container_site import TARGET, ContainerSite
from distributed import get_worker
from pickling import by_value
from slurm_site import wait_until

from scalable.cluster import RetryPolicy, controller
from scalable.cluster.port import Reason
from scalable.errors import GroupFailedError, ValidationFailedError
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import ClusterHandle, DeploymentSpec, ScalePlan, current_owner
from scalable.providers.local import LocalProvider
from scalable.providers.local.runtimes import probe
from scalable.session import ScalableSession

# An image need not have every package that the client has.
pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")

Build = Callable[..., ClusterHandle]


@pytest.fixture
def apart(site: ContainerSite) -> None:
    """Skip where a program in an image is an ordinary process."""
    if site.runtime == "apptainer":
        pytest.skip("workers are ordinary processes, not containers")


def spec(components: Mapping[str, Any], **options: Any) -> DeploymentSpec:
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "test"},
            "targets": {TARGET: {"provider": "local", **options}},
            "components": components,
        }
    )
    return DeploymentSpec.from_manifest(manifest, target_name=TARGET)


@pytest.fixture
def build(site: ContainerSite, work: Path) -> Iterator[Build]:
    """Build clusters with this runtime and scale them as their manifest specifies; close them at the end."""
    handles: list[ClusterHandle] = []
    provider = LocalProvider()

    def build(components: Mapping[str, Any], **options: Any) -> ClusterHandle:
        target_spec = spec(components, **{"containers": site.runtime, **options})
        handles.append(provider.build_cluster(target_spec))
        provider.scale(handles[-1], build_plan(target_spec, provider).scale_plan)
        return handles[-1]

    yield build
    for handle in handles:
        provider.close(handle)


@by_value
def look_around(names: list[str]) -> dict[str, Any]:
    with Path("/out/seen").open("a") as file:
        file.write(Path("/in put/data").read_text())
    return {
        "worker": get_worker().name,
        "values": [os.environ[name] for name in names],
        "user": os.getuid(),
        "home": os.access(os.environ["HOME"], os.W_OK),
        "threads": os.environ["OMP_NUM_THREADS"],
        "client's own": os.environ.get("OF_THE_CLIENT"),
    }


@by_value
def see(path: str) -> bool:
    return Path(path).exists()


def test_a_worker_sees_its_image_its_mounts_and_its_variables(
    build: Build, site: ContainerSite, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_CLIENT", "must not reach a component")
    source, sink = work / "a = b", work / "sink"
    source.mkdir()
    sink.mkdir()
    (source / "data").write_text("42")
    env = {f"VALUE_{i}": value for i, value in enumerate(VALUES)}
    gcam = {
        "image": site.image,
        "runtime": site.runtime,
        "cpus": 3,
        "slots": 2,
        "memory": "2G",
        "env": env,
        "mounts": {str(source): "/in put", str(sink): "/out"},
    }
    handle = build({"gcam": gcam, "plots": {}}, containers="auto", workers={"gcam": 2, "plots": 1})

    with handle.client_factory() as client:
        seen = client.submit(look_around, sorted(env), tag="gcam").result(120)
        inside, outside = (
            client.submit(see, "/in put", tag=tag, pure=False).result(120)
            for tag in ("gcam", "plots")
        )

    assert seen["values"] == VALUES
    assert seen["worker"].startswith("gcam-")
    assert (seen["user"], seen["home"], seen["threads"]) == (os.getuid(), True, "1")
    assert seen["client's own"] is None
    assert (inside, outside) == (True, False)
    assert (sink / "seen").read_text() == "42"
    assert (sink / "seen").stat().st_uid == os.getuid()
    assert not list(work.rglob("pwned"))


def test_a_session_s_modules_and_preload_script_reach_a_container(
    site: ContainerSite, work: Path
) -> None:
    (work / "emulator.py").write_text(
        "import os\ndef run(x):\n    return x * int(os.environ['FACTOR'])\n"
    )
    (work / "prepare.py").write_text("import os\nos.environ['FACTOR'] = '3'\n")
    manifest = work / "scalable.yaml"
    manifest.write_text(f"""
        version: 1
        project: {{name: test, modules: [emulator.py]}}
        targets: {{{TARGET}: {{provider: local, containers: {site.runtime}}}}}
        components: {{gcam: {{image: {site.image}, preload_script: prepare.py}}}}
        """)

    with ScalableSession.from_yaml(manifest, target=TARGET) as client:
        result = client.submit(by_value(lambda x: __import__("emulator").run(x)), 14, tag="gcam")
        assert result.result(120) == 42


def test_no_value_of_a_variable_is_in_a_list_of_processes(
    build: Build, site: ContainerSite
) -> None:
    handle = build({"gcam": {"image": site.image, "env": {"TOKEN": "hush-hush"}}})
    handle.backend.wait_for_group("gcam", timeout=120)

    lines = list(filter(None, map(command_line, psutil.process_iter())))

    assert any(TARGET in line or site.image in line for line in lines)
    assert not any("hush-hush" in line for line in lines)


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_groups_scale_independently_and_containers_end_with_their_workers(
    build: Build, site: ContainerSite
) -> None:
    component = {"image": site.image}
    handle = build({"gcam": component, "plots": component}, workers={"gcam": 3, "plots": 1})
    cluster = handle.backend
    for tag, count in (("gcam", 3), ("plots", 1)):
        cluster.wait_for_group(tag, count, timeout=120)
    plots = cluster.groups["plots"].workers

    LocalProvider().scale(handle, ScalePlan({"gcam": 1}))

    wait_until(lambda: len(cluster.groups["gcam"].workers) == 1, "two are stopped")
    workers = (*cluster.groups["gcam"].workers, *plots)
    assert len(workers) == 2
    if site.runtime != "apptainer":
        expected = {f"{cluster.name}-{name}" for name in workers}
        wait_until(
            lambda: set(site.containers(cluster.name)) == expected, "so are their containers"
        )


def kill_container(site: ContainerSite, cluster: str, worker: str) -> None:
    site.run("kill", "--signal=KILL", f"{cluster}-{worker}")


def kill_client(site: ContainerSite, cluster: str, worker: str) -> None:
    (client,) = (
        process
        for process in psutil.process_iter()
        if f"--name={cluster}-{worker}" in command_line(process).split()[:3]
    )
    client.kill()


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("kill", [kill_container, kill_client])
def test_a_killed_container_is_replaced_and_removed(
    build: Build, site: ContainerSite, kill: Callable[[ContainerSite, str, str], None]
) -> None:
    handle = build({"gcam": {"image": site.image}})
    cluster = handle.backend
    cluster.wait_for_group("gcam", timeout=120)
    (before,) = cluster.groups["gcam"].workers

    kill(site, cluster.name, before)

    wait_until(lambda: cluster.groups["gcam"].workers not in (before, (before,), ()), "it is back")
    (after,) = cluster.groups["gcam"].workers
    assert site.containers(cluster.name) == [f"{cluster.name}-{after}"]
    wait_until(lambda: lost(handle), "the loss is reported")
    assert all(before in event and "SIGKILL" in event for event in lost(handle))


@by_value
def hold(size: int) -> int:
    held = bytearray(size)
    for page in range(0, size, 4096):
        held[page] = 1
    time.sleep(600)
    return len(held)


def test_a_worker_above_its_memory_is_terminated_and_its_component_named(
    build: Build, site: ContainerSite
) -> None:
    if site.runtime != "apptainer" and not probe(site.runtime).limits_memory:
        pytest.skip(f"{site.runtime} cannot limit memory here")
    handle = build({"gcam": {"image": site.image, "memory": "300M"}})
    cluster = handle.backend
    cluster.wait_for_group("gcam", timeout=120)

    with handle.client_factory() as client:
        future = client.submit(hold, 600_000_000, tag="gcam", retries=0)
        wait_until(lambda: lost(handle), "the worker is lost")
        future.cancel()

    assert not cluster.groups["gcam"].failed
    (event, *_) = lost(handle)
    # On cgroups of version 1, Podman does not know the reason, and the message only suggests it.
    assert "memory" in event or "SIGKILL" in event


def lost(handle: ClusterHandle) -> list[str]:
    return [event.text for event in handle.backend.events if event.text.startswith("lost")]


def test_an_image_without_dask_is_reported(
    build: Build, site: ContainerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After three tries, and not only after half a minute of them.
    monkeypatch.setattr(controller, "RetryPolicy", partial(RetryPolicy, fail_after=2.0))
    handle = build({"gcam": {"image": site.bare}, "fine": {"image": site.image}})

    with pytest.raises(GroupFailedError, match="dask") as caught:
        handle.backend.wait_for_group("gcam", timeout=120)
    handle.backend.wait_for_group("fine", timeout=120)

    if site.runtime != "apptainer":
        assert caught.value.explanation.reason is Reason.IMAGE
        assert "install dask" in caught.value.explanation.remedy


def test_an_unavailable_image_starts_nothing(site: ContainerSite, work: Path) -> None:
    # Port 1 is not in use.
    missing = "/nowhere/gcam.sif" if site.runtime == "apptainer" else "127.0.0.1:1/gcam:7"
    components = {"gcam": {"image": missing}, "fine": {"image": site.image}}

    with pytest.raises(
        ValidationFailedError, match=f"E_IMAGE components.gcam.image: .*{site.runtime}: "
    ):
        LocalProvider().build_cluster(spec(components, containers=site.runtime))

    assert not list((work / "runs").iterdir())


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"


@by_value
def leave_a_stubborn_child(code: str, apart: bool) -> int:
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=writing, start_new_session=apart)
    os.read(reading, 1)  # a signal before that would end it
    return child.pid


def test_close_ends_what_workers_started(build: Build, site: ContainerSite, work: Path) -> None:
    handle = build({"gcam": {"image": site.image}})
    marked = STUBBORN + f"  # {work}"
    with handle.client_factory() as client:
        for apart in (False, True):
            client.submit(leave_a_stubborn_child, marked, apart, tag="gcam").result(120)
        busy = client.submit(time.sleep, 600, tag="gcam")
        wait_until(lambda: any(client.processing().values()), "a task is under way")
        assert len(stubborn(work)) == 2

        LocalProvider().close(handle)
        del busy

    assert not stubborn(work)
    assert site.containers() == []


def stubborn(work: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if f"# {work}" in command_line(process)]


CLIENT = """
import sys, tempfile, time
from scalable.session import ScalableSession

with ScalableSession.from_yaml(sys.argv[1]) as client:
    client.session.cluster.wait_for_group("gcam", 2)
    print(client.session.cluster.name, flush=True)
    time.sleep(600)
"""


def watchdogs(client: psutil.Process) -> list[psutil.Process]:
    return [child for child in client.children() if "termination.py" in command_line(child)]


@pytest.fixture
def client(site: ContainerSite, work: Path) -> Iterator[subprocess.Popen[str]]:
    """A separate client process with two workers."""
    manifest = work / "scalable.yaml"
    manifest.write_text(f"""
        version: 1
        project: {{name: test, modules: []}}
        targets: {{{TARGET}: {{provider: local, containers: {site.runtime}, n_workers: 2}}}}
        components: {{gcam: {{image: {site.image}}}}}
        """)
    program = work / "client.py"
    program.write_text(CLIENT)
    with subprocess.Popen(
        [sys.executable, program, manifest],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(work / "runs")},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(TARGET)
        yield process
        process.kill()


def test_nothing_outlives_a_client_that_is_killed(
    site: ContainerSite, work: Path, client: subprocess.Popen[str]
) -> None:
    assert len(site.containers()) == (0 if site.runtime == "apptainer" else 2)
    workers = labelled(work)

    client.send_signal(signal.SIGKILL)
    client.wait(60)

    wait_until(lambda: site.containers() == [], "its containers are gone")
    wait_until(lambda: not any(map(psutil.Process.is_running, workers)), "so are its processes")
    wait_until(lambda: not list((work / "runs").glob("scalable-*")), "and its files")


def labelled(work: Path) -> list[psutil.Process]:
    """Return the processes of workers, by the scratch directory in their arguments."""
    return [p for p in psutil.process_iter() if f"{work}/runs" in command_line(p)]


def test_what_a_client_and_its_watchdog_left_can_be_listed_and_reaped(
    site: ContainerSite, apart: None, work: Path, client: subprocess.Popen[str]
) -> None:
    here = spec({})
    listed = LocalProvider().list_owned(here)
    mine = [thing for thing in listed if thing.run_id.startswith(TARGET)]
    assert {thing.owner for thing in mine} == {current_owner()}
    assert sorted(thing.name for thing in mine) == sorted(site.containers())
    assert {(thing.kind, thing.detail) for thing in mine} == {
        (f"{site.runtime} container", "running")
    }
    for watchdog in watchdogs(psutil.Process(client.pid)):
        watchdog.kill()
    client.kill()
    client.wait(60)

    assert LocalProvider().reap(here, mine) == []

    assert site.containers() == []
    shutil.rmtree(work / "runs")  # without client and watchdog, nothing else removes its files
