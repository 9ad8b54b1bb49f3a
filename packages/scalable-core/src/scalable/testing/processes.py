"""A provider whose scheduler and workers are processes of this machine, under TLS, as if they were elsewhere.

For tests of what happens between a client and a scheduler that can be late or lost: `RemoteFakeProvider` is to
`scalable.testing.conformance.RemoteConformance` what `scalable.testing.fakes.FakeProvider` is to the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from scalable.cluster.host import SchedulerState
from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.common import BaseProvider, cluster_handle, group_specs
from scalable.providers.logs import tail
from scalable.providers.options import RemoteTargetOptions
from scalable.providers.scheduler import scheduler_arguments
from scalable.providers.tls import make_credentials, tls_arguments
from scalable.providers.worker import server_command, worker_arguments

if TYPE_CHECKING:
    from scalable.cluster import GroupedCluster
    from scalable.manifest.schema import ComponentConfig

__all__ = [
    "ProcessBackend",
    "ProcessOptions",
    "ProcessRun",
    "ProcessScheduler",
    "RemoteFakeProvider",
]


class ProcessOptions(RemoteTargetOptions):
    """Options of a target of `RemoteFakeProvider`."""

    python: str = Field(default=sys.executable, description="The Python of scheduler and workers.")


class ProcessRun:
    """The directory of one cluster: its keys and logs, and the process ids of what it has started.

    Parameters
    ----------
    root : Path
        Where it is made, for its owner only.
    name : str
        The cluster's name.
    python : str
        The Python of the processes.
    """

    def __init__(self, root: Path, name: str, python: str) -> None:
        self.directory = root / name
        self.directory.mkdir(mode=0o700)
        self.python = python
        self.credentials = make_credentials()
        self.files = self.credentials.write(self.directory / "tls")

    def start(
        self,
        name: str,
        server: Literal["worker", "scheduler"],
        *arguments: str,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes]:
        """Start a server of Dask in a session of its own, with its log in the run's directory."""
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [*server_command(self.python, server), *arguments, *tls_arguments(self.files)],
                cwd=self.directory,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.directory / f"{name}.pid").write_text(str(process.pid))
        return process

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self.directory / f"{name}.log"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class ProcessScheduler:
    """A `RemoteScheduler` that is a process.

    Parameters
    ----------
    run : ProcessRun
        The cluster's directory.
    orphan_timeout : float
        Seconds without a client after which it ends.
    """

    def __init__(self, run: ProcessRun, orphan_timeout: float) -> None:
        self._run = run
        self._orphan_timeout = orphan_timeout
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"tls://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the process."""
        arguments = scheduler_arguments(
            port=self.port, orphan_timeout=self._orphan_timeout, extra=("--host", "127.0.0.1")
        )
        self.process = self._run.start("scheduler", "scheduler", *arguments)

    async def state(self) -> SchedulerState:
        """Return whether the process runs."""
        status = self.process.poll() if self.process else None
        if status is None:
            return SchedulerState(Phase.RUNNING, Explanation(Reason.STARTING, "its process runs"))
        log = tail(self._run.log("scheduler"))
        ended = Explanation(Reason.EXITED, f"it ended with status {status}", log_tail=log)
        return SchedulerState(Phase.GONE, ended)

    async def connect(self) -> str:
        """Return its address."""
        return self.address

    async def stop(self) -> Sequence[Leftover]:
        """End the process."""
        if self.process is not None:
            await asyncio.to_thread(_end, self.process)
        return []

    async def remove(self) -> Sequence[Leftover]:
        """Remove the keys."""
        shutil.rmtree(self._run.directory / "tls")
        return []


class ProcessBackend:
    """A `Backend` whose units are processes of a run.

    Parameters
    ----------
    run : ProcessRun
        The cluster's directory.
    scheduler_address : str
        The scheduler.
    components : mapping of str to ComponentConfig
        The components, whose ``env`` and ``preload_script`` have an effect.
    """

    def __init__(
        self, run: ProcessRun, scheduler_address: str, components: Mapping[str, ComponentConfig]
    ) -> None:
        self._run = run
        self._address = scheduler_address
        self._components = components
        self._units: dict[str, tuple[Unit, subprocess.Popen[bytes]]] = {}
        self._numbers = itertools.count(1)
        self._requests: dict[str, list[Unit]] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        """Start `n` processes."""
        if request_id not in self._requests:
            self._requests[request_id] = [self._start(group, request_id) for _ in range(n)]
        return self._requests[request_id]

    def _start(self, group: GroupSpec, request_id: str) -> Unit:
        unit = Unit(f"{group.tag}-{next(self._numbers)}", group.tag, request_id)
        component = self._components[group.tag]
        arguments = worker_arguments(
            self._address,
            tag=group.tag,
            slots=group.slots,
            memory=None,
            directory=str(self._run.directory),
            death_timeout=30,
            preload=component.preload_script,
            extra=("--host", "127.0.0.1", "--protocol", "tls", "--name", unit.id),
        )
        process = self._run.start(unit.id, "worker", *arguments, env=component.env)
        self._units[unit.id] = unit, process
        return unit

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every process."""
        return {
            name: UnitState(unit, Phase.RUNNING, Reason.STARTING)
            if process.poll() is None
            else UnitState(unit, Phase.GONE, Reason.EXITED, f"status {process.returncode}")
            for name, (unit, process) in self._units.items()
        }

    async def stop(self, units: Sequence[Unit]) -> None:
        """End these processes."""
        for unit in units:
            await asyncio.to_thread(_end, self._units[unit.id][1])

    async def describe(self, unit: Unit) -> Explanation:
        """Explain one process."""
        status = self._units[unit.id][1].poll()
        log = tail(self._run.log(unit.id))
        return Explanation(Reason.EXITED, f"{unit.id} ended with status {status}", log_tail=log)

    async def sweep(self) -> Sequence[Leftover]:
        """End every process."""
        await self.stop([unit for unit, _ in self._units.values()])
        return []


class RemoteFakeProvider(BaseProvider[ProcessOptions]):
    """Runs scheduler and workers as processes that this one is connected to by TLS alone.

    Parameters
    ----------
    root : Path, optional
        Where the directories of its clusters are; by default a temporary one.
    """

    name = "remote-fake"
    options_model = ProcessOptions

    def __init__(self, root: Path | None = None) -> None:
        if root is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="scalable-remote-fake-")
            root = Path(self._scratch.name)
        self.root = root
        self.schedulers: dict[str, ProcessScheduler] = {}

    def scheduler(self, cluster: GroupedCluster) -> ProcessScheduler:
        """Return the scheduler of a cluster, to be stopped, killed or replaced by a test."""
        return self.schedulers[cluster.name]

    def leftovers(self) -> list[str]:
        """Return the processes that clusters have left, those of other clients as well."""
        return [
            f"{path.parent.name}/{path.stem}"
            for path in self.root.glob("*/*.pid")
            if _is_running(int(path.read_text() or 0))
        ]

    def _build(self, spec: DeploymentSpec, options: ProcessOptions) -> ClusterHandle:
        from scalable.cluster import Pace, RetryPolicy
        from scalable.cluster.remote import RemoteHost, build_remote_cluster

        name = f"{spec.target_name}-{uuid.uuid4().hex[:8]}"
        run = ProcessRun(self.root, name, options.python)
        scheduler = self.schedulers[name] = ProcessScheduler(run, options.orphan_timeout)
        cluster = build_remote_cluster(
            RemoteHost(
                scheduler,
                name=name,
                security=run.credentials.security(),
                start_timeout=120,
                poll=0.2,
            ),
            lambda address: ProcessBackend(run, address, spec.components),
            group_specs(spec, options),
            max_workers=options.max_workers,
            # Tests should not have to wait.
            pace=Pace(
                tick=0.1,
                poll=0.2,
                late_after=5.0,
                scheduler_timeout=options.scheduler_timeout,
            ),
            retry=RetryPolicy(fail_after=2.0),
            orphan_timeout=options.orphan_timeout,
        )
        return cluster_handle(cluster, spec)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return status not in "ZX"
    return False
