from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import psutil
import pytest
from distributed import Client, LocalCluster

from scalable.cluster.port import Backend, GroupSpec, Phase, Reason, Unit
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.manifest.schema import ComponentConfig
from scalable.providers.local.command import Command
from scalable.providers.local.processes import ProcessBackend
from scalable.providers.logs import tidy_logs

if TYPE_CHECKING:
    from conftest import Eventually

# A child that ignores SIGTERM. It prints a line once it does, because a signal before that would end it.
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('ready', flush=True); time.sleep(600)"
)


class Cluster:
    """A backend, driven from a plain thread."""

    def __init__(self, backend: ProcessBackend, groups: Mapping[str, GroupSpec]) -> None:
        self.backend = backend
        self.groups = groups

    def launch(self, tag: str, n: int = 1, request: str = "r1") -> list[Unit]:
        return list(asyncio.run(self.backend.launch(self.groups[tag], n, request)))

    def state(self, unit: Unit) -> Phase:
        states = asyncio.run(self.backend.observe())
        return states[unit.id].phase if unit.id in states else Phase.GONE

    def stop(self, *units: Unit) -> None:
        asyncio.run(self.backend.stop(units))

    def describe(self, unit: Unit) -> Any:
        return asyncio.run(self.backend.describe(unit))

    def sweep(self) -> list[str]:
        return [str(leftover) for leftover in asyncio.run(self.backend.sweep())]


Make = Callable[..., Cluster]


@pytest.fixture
def make(host: LocalCluster, tmp_path: Path) -> Iterator[Make]:
    made: list[Cluster] = []

    def make(*components: ComponentConfig, **options: Any) -> Cluster:
        backend = ProcessBackend(
            {component.name: component for component in components},
            scheduler_address=host.scheduler_address,
            name="test",
            parent=tmp_path,
            **options,
        )
        specs = {c.name: GroupSpec(c.name, c.slots) for c in components}
        made.append(Cluster(backend, specs))
        return made[-1]

    yield make
    for cluster in made:
        assert cluster.sweep() == []


def names(client: Client) -> set[str]:
    return {worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}


def pid_of(unit: Unit) -> int:
    return int(unit.native.removeprefix("process "))


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def on_workers(client: Client, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    by_address = client.run(function, *args)
    info = client.scheduler_info(n_workers=-1)["workers"]
    return {info[address]["name"]: value for address, value in by_address.items()}


def start_child(code: str, new_session: bool) -> int:
    """Run in a worker: start a process like a model would, and wait until it has begun."""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=new_session
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child.pid


@pytest.fixture(autouse=True)
def _functions_by_value() -> Iterator[None]:
    """Workers cannot import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_it_is_a_backend(make: Make) -> None:
    assert isinstance(make().backend, Backend)


def test_a_worker_matches_its_component(
    make: Make, client: Client, eventually: Eventually, tmp_path: Path
) -> None:
    preload = tmp_path / "preload.py"
    preload.write_text("import os\nos.environ['PRELOADED'] = 'yes'\n")
    gcam = ComponentConfig(
        name="gcam",
        cpus=6,
        slots=2,
        memory=2 * 10**9,
        env={"GCAM_HOME": "/opt/gcam $HOME; 'x'", "MKL_NUM_THREADS": "7"},
        preload_script=str(preload),
    )
    cluster = make(gcam, ComponentConfig(name="stitches-land"))

    units = cluster.launch("gcam", 2) + cluster.launch("stitches-land", request="r2")
    eventually(lambda: names(client) == {unit.id for unit in units})

    workers = {w["name"]: w for w in client.scheduler_info(n_workers=-1)["workers"].values()}
    mine, other = workers[units[0].id], workers[units[2].id]
    assert (mine["nthreads"], mine["resources"]) == (2, {"gcam": 2.0})
    assert (other["nthreads"], other["resources"]) == (1, {"stitches-land": 1.0})
    assert mine["memory_limit"] == 2_000_000_000
    environment = on_workers(client, lambda: dict(os.environ))[units[0].id]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MKL_NUM_THREADS"] == "7"
    assert environment["GCAM_HOME"] == "/opt/gcam $HOME; 'x'"
    assert environment["PRELOADED"] == "yes"
    assert "GCAM_HOME" not in on_workers(client, lambda: dict(os.environ))[units[2].id]


def test_workers_stay_where_the_cluster_was_made(
    make: Make, client: Client, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, here = make(ComponentConfig(name="gcam")), str(Path.cwd())
    monkeypatch.chdir("/")

    (unit,) = cluster.launch("gcam")
    eventually(lambda: names(client) == {unit.id})

    assert client.submit(os.getcwd).result(60) == here


def test_workers_listen_on_the_loopback_interface_only(
    make: Make, client: Client, eventually: Eventually
) -> None:
    (unit,) = make(ComponentConfig(name="gcam")).launch("gcam")
    eventually(lambda: names(client) == {unit.id})

    listening = [c for c in psutil.Process(pid_of(unit)).net_connections() if c.status == "LISTEN"]

    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_a_request_is_launched_once(make: Make) -> None:
    cluster = make(ComponentConfig(name="gcam"))

    first, again = cluster.launch("gcam", 2, "r1"), cluster.launch("gcam", 2, "r1")
    other = cluster.launch("gcam", 1, "r2")

    assert first == again
    assert len({unit.id for unit in first + other}) == 3
    assert {unit.request_id for unit in first} == {"r1"}


def test_children_of_a_killed_worker_are_terminated(
    make: Make, client: Client, eventually: Eventually
) -> None:
    cluster = make(ComponentConfig(name="gcam"))
    (unit,) = cluster.launch("gcam")
    eventually(lambda: names(client) == {unit.id})
    children = [
        client.submit(start_child, STUBBORN, apart, pure=False).result(60)
        for apart in (False, True)
    ]

    os.kill(pid_of(unit), signal.SIGKILL)
    eventually(lambda: cluster.state(unit) is Phase.GONE)

    assert not any(is_alive(child) for child in children)
    why = cluster.describe(unit)
    assert why.reason is Reason.UNKNOWN
    assert "SIGKILL" in str(why)


def test_a_crash_is_not_a_cancellation(make: Make, eventually: Eventually) -> None:
    cluster = make(ComponentConfig(name="gcam"))
    (unit,) = cluster.launch("gcam")

    os.kill(pid_of(unit), signal.SIGSEGV)
    eventually(lambda: cluster.state(unit) is Phase.GONE)

    assert cluster.describe(unit).reason is Reason.EXITED
    assert cluster.describe(unit).native == "SIGSEGV"


def test_stop_kills_processes_that_ignore_sigterm(
    make: Make, client: Client, eventually: Eventually
) -> None:
    cluster = make(ComponentConfig(name="gcam", slots=3), grace_period=1.0)
    stays, goes = cluster.launch("gcam", 2)
    eventually(lambda: names(client) == {stays.id, goes.id})
    here = next(a for a, w in client.scheduler_info()["workers"].items() if w["name"] == goes.id)
    children = [
        client.submit(start_child, STUBBORN, apart, workers=[here], pure=False).result(60)
        for apart in (False, True)
    ]
    busy = client.submit(time.sleep, 600, workers=[here], pure=False)
    eventually(lambda: client.processing()[here])

    cluster.stop(goes)

    assert not any(map(is_alive, [pid_of(goes), *children]))
    assert cluster.describe(goes).reason is Reason.STOPPED
    assert cluster.state(stays) is Phase.RUNNING
    cluster.stop(goes, Unit("gcam-99", "gcam", "r9"))  # neither is an error
    busy.cancel()


def test_a_worker_above_its_memory_is_terminated_and_the_figures_are_reported(
    make: Make, client: Client, eventually: Eventually
) -> None:
    cluster = make(ComponentConfig(name="gcam", memory=200 * 10**6), ComponentConfig(name="free"))
    (unit,), (free,) = cluster.launch("gcam"), cluster.launch("free", request="r2")
    eventually(lambda: names(client) == {unit.id, free.id})
    assert cluster.state(unit) is Phase.RUNNING
    hungry = "import time; held = b'x' * 200_000_000; print('ready', flush=True); time.sleep(600)"
    children = [
        client.submit(start_child, hungry, False, resources={tag: 1}, pure=False).result(60)
        for tag in ("gcam", "free")
    ]

    eventually(lambda: cluster.state(unit) is Phase.GONE)

    assert [is_alive(child) for child in children] == [False, True]
    why = cluster.describe(unit)
    assert why.reason is Reason.OUT_OF_MEMORY
    assert "200M" in why.summary
    assert "components.gcam.memory" in why.remedy


def test_a_failed_start_is_explained_by_its_log(make: Make, eventually: Eventually) -> None:
    cluster = make(ComponentConfig(name="gcam", preload_script="/nowhere/prepare.py"))
    (unit,) = cluster.launch("gcam")

    eventually(lambda: cluster.state(unit) is Phase.GONE)

    why = cluster.describe(unit)
    assert why.reason is Reason.EXITED
    assert why.native == "exit code 1"
    assert "No module named 'prepare'" in why.log_tail
    assert len(why.log_tail.splitlines()) <= 20


def test_a_unit_that_ended_is_reported_as_gone_once(make: Make, eventually: Eventually) -> None:
    cluster = make(ComponentConfig(name="gcam"))
    (unit,) = cluster.launch("gcam")
    cluster.stop(unit)

    states = [asyncio.run(cluster.backend.observe()) for _ in range(2)]

    assert states[0][unit.id].phase is Phase.GONE
    assert states[1] == {}


def test_logs_are_private_and_those_of_failures_survive(
    make: Make, eventually: Eventually, tmp_path: Path
) -> None:
    cluster = make(
        ComponentConfig(name="good"), ComponentConfig(name="bad", preload_script="/nowhere.py")
    )
    (good,), (bad,) = cluster.launch("good"), cluster.launch("bad", request="r2")
    (run,) = tmp_path.glob("scalable-test-*")
    logs = {path.stem: path for path in (run / "logs").iterdir()}
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert {stat.S_IMODE(log.stat().st_mode) for log in logs.values()} == {0o600}
    eventually(lambda: cluster.state(bad) is Phase.GONE)
    assert str(logs[bad.id]) in cluster.describe(bad).remedy

    assert cluster.sweep() == []

    assert [path for path in run.rglob("*") if path.is_file()] == [logs[bad.id]]
    assert not is_alive(pid_of(good))


def test_the_logs_of_a_run_are_kept_and_show_no_secrets(
    make: Make, eventually: Eventually, tmp_path: Path
) -> None:
    logs = tmp_path / "run" / "logs"
    cluster = make(
        ComponentConfig(name="good"),
        ComponentConfig(name="bad", preload_script="/nowhere.py"),
        logs=logs,
    )
    (good,), (bad,) = cluster.launch("good"), cluster.launch("bad", request="r2")
    eventually(lambda: cluster.state(bad) is Phase.GONE)
    assert str(logs) in cluster.describe(bad).remedy

    assert cluster.sweep() == []

    assert {path.stem for path in logs.iterdir()} == {good.id, bad.id}
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700
    (logs / f"{good.id}.log").write_text("x" * 10_000_000 + "hunter2\n")
    tidy_logs(logs, lambda text: text.replace("hunter2", "${KEY}"))
    kept = (logs / f"{good.id}.log").read_text()
    assert kept.endswith("x${KEY}\n")
    assert len(kept) < 10_000_100
    assert kept.startswith("[the first 8 bytes are not kept]")


def test_sweep_leaves_nothing_and_can_be_repeated(
    make: Make, client: Client, eventually: Eventually, tmp_path: Path
) -> None:
    cluster = make(ComponentConfig(name="gcam"), grace_period=0.5)
    (unit,) = cluster.launch("gcam")
    eventually(lambda: names(client) == {unit.id})
    others = {child.pid for child in psutil.Process().children()} - {pid_of(unit)}
    assert len(others) == 1  # the watchdog
    # A daemon: in its own session, and reparented to init.
    daemon = client.submit(start_daemon, pure=False).result(60)
    assert is_alive(daemon)

    assert cluster.sweep() == []

    assert not is_alive(pid_of(unit))
    assert not any(map(is_alive, others))
    assert list(tmp_path.glob("scalable-*")) == []
    if sys.platform == "linux":
        assert not is_alive(daemon)
    elif is_alive(daemon):
        os.kill(daemon, signal.SIGKILL)
    assert cluster.sweep() == []
    with pytest.raises(LaunchRefusedError, match="closed"):
        cluster.launch("gcam", request="r2")


def start_daemon() -> int:
    code = (
        "import subprocess, sys;"
        f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.DEVNULL);"
        "print(child.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, check=True
    )
    return int(done.stdout.split()[0])


def test_a_cluster_that_launched_nothing_has_nothing_to_sweep(make: Make, tmp_path: Path) -> None:
    assert make(ComponentConfig(name="gcam")).sweep() == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_interpreter_is_refused_for_good(make: Make, tmp_path: Path) -> None:
    def nowhere(component: ComponentConfig, **facts: Any) -> Command:
        return Command(("/nowhere/python",), {})

    cluster = make(ComponentConfig(name="gcam"), make_command=nowhere)

    with pytest.raises(LaunchRefusedError, match="/nowhere/python"):
        cluster.launch("gcam")
    assert asyncio.run(cluster.backend.observe()) == {}


def test_an_impossible_environment_is_refused_without_showing_it(make: Make) -> None:
    cluster = make(ComponentConfig(name="gcam", env={"TOKEN": "se\0cret"}))

    with pytest.raises(LaunchRefusedError, match=r"components\.gcam\.env") as caught:
        cluster.launch("gcam")

    assert "cret" not in str(caught.value)


def test_a_launch_that_fails_half_way_leaves_nothing_and_may_be_repeated(
    make: Make, tmp_path: Path
) -> None:
    started: list[str] = []

    def command(component: ComponentConfig, *, name: str, **facts: Any) -> Command:
        started.append(name)
        if len(started) == 3:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return Command((sys.executable, "-c", "import time; time.sleep(600)"), {})

    cluster = make(ComponentConfig(name="gcam"), make_command=command)

    with pytest.raises(LaunchError, match="temporarily") as caught:
        cluster.launch("gcam", 3)
    assert not isinstance(caught.value, LaunchRefusedError)
    label = str(tmp_path)
    assert [p.pid for p in psutil.process_iter() if label in environment_of(p)] == []
    assert len(cluster.launch("gcam", 3)) == 3


def environment_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("SCALABLE_WORKER", "")
    except psutil.Error:
        return ""
