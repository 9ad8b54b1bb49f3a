"""Backend whose units are processes of this machine, or containers whose clients are processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchRefusedError
from scalable.providers.blocking import BlockingCalls
from scalable.providers.local.command import (
    TLS,
    Command,
    CommandFactory,
    Container,
    process_command,
)
from scalable.providers.local.exits import (
    WorkerExit,
    explain_container_exit,
    explain_exit,
    explain_out_of_memory,
    explain_stop,
    launch_error,
)
from scalable.providers.local.memory import usage_above
from scalable.providers.local.runtimes import Containers
from scalable.providers.local.termination import (
    LABEL,
    list_processes,
    process_trees,
    start_time,
    terminate,
)
from scalable.providers.local.watchdog import Watchdog
from scalable.providers.logs import open_log_directory, tail

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.tls import Credentials

__all__ = ["ProcessBackend"]


@dataclass(eq=False)
class _Worker:
    """One worker's process, from its start until the cluster is gone."""

    unit: Unit
    process: subprocess.Popen[bytes]
    started: str
    scratch: Path
    log: Path
    memory: int | None
    """Limit in bytes that this backend enforces."""
    container: Container | None
    planned_exit: WorkerExit | None = None
    """Set before this backend terminates it."""
    exit: WorkerExit | None = None
    """Set once it has ended."""
    reported_gone: bool = False


_LAST_THREAD = 5.0
"""Seconds for the last threads of a process that was killed."""


class ProcessBackend:
    """Backend that runs each unit as one Dask worker in its own process and session.

    Parameters
    ----------
    components : mapping of str to ComponentConfig
        The component of each group, by tag.
    scheduler_address : str
        Address of the scheduler.
    name : str
        Name of the cluster, for display.
    parent : Path, optional
        Where the run directory is created, which has the logs and the data that does not fit into memory; by default
        where the system keeps temporary files.
    grace_period : float
        Seconds from SIGTERM to SIGKILL of a worker and everything that it started.
    make_command : callable
        Returns the command of one worker of a component.
    containers : Containers, optional
        The containers that some of the commands run.
    credentials : Credentials, optional
        The TLS keys, if the scheduler needs them.
    logs : Path, optional
        Where the logs of all workers are kept. Without it, they are in the run directory, and only those of failures
        stay.
    """

    def __init__(
        self,
        components: Mapping[str, ComponentConfig],
        *,
        scheduler_address: str,
        name: str,
        parent: Path | None = None,
        grace_period: float = 3.0,
        make_command: CommandFactory = process_command,
        containers: Containers | None = None,
        credentials: Credentials | None = None,
        logs: Path | None = None,
    ) -> None:
        self._logs = logs
        self._components = components
        self._scheduler_address = scheduler_address
        self._name = name
        self._parent = parent
        self._grace_period = grace_period
        self._make_command = make_command
        self._containers = containers or Containers(name, ())
        self._credentials = credentials
        # Read once: a workflow may change it, and workers that start later must not differ.
        self._cwd = Path.cwd()
        self._calls = BlockingCalls(name)
        # The backend's coroutines do their work in threads; the attributes below are read and written under the lock.
        self._lock = threading.RLock()
        self._closed = False
        self._directory: Path | None = None
        self._watchdog: Watchdog | None = None
        self._counts: Counter[str] = Counter()
        self._requests: dict[str, tuple[Unit, ...]] = {}
        self._workers: dict[str, _Worker] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        """Start `n` processes; see `scalable.cluster.port.Backend`."""
        return await self._calls.run(self._launch, group, n, request_id)

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of all processes, after terminating those that use more memory than their component may."""
        return await self._calls.run(self._observe)

    async def stop(self, units: Sequence[Unit]) -> None:
        """Terminate these workers and their children, and kill what is left after the grace period."""
        await self._calls.run(self._stop, [unit.id for unit in units])

    async def describe(self, unit: Unit) -> Explanation:
        """Return the state of a worker, or why it ended, with the last lines of its log."""
        return await self._calls.run(self._describe, unit)

    async def sweep(self) -> Sequence[Leftover]:
        """Terminate everything that carries the cluster's label, and remove all files except the logs of failures."""
        return await self._calls.run(self._sweep)

    def _launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        with self._lock:
            if request_id in self._requests:
                return self._requests[request_id]
            if self._closed:
                raise LaunchRefusedError(f"cluster {self._name!r} is closed; build a new one")
            workers: list[_Worker] = []
            try:
                directory, watchdog = self._ensure_run_directory()
                for _ in range(n):
                    workers.append(self._start_worker(directory, group, request_id))
                    watchdog.watch(workers[-1].process.pid, workers[-1].started)
            except (OSError, ValueError) as error:
                self._terminate(workers, grace_period=0)
                raise launch_error(group.tag, error) from error
            self._workers |= {worker.unit.id: worker for worker in workers}
            units = self._requests[request_id] = tuple(worker.unit for worker in workers)
            return units

    def _ensure_run_directory(self) -> tuple[Path, Watchdog]:
        if self._directory is None:
            readable = re.sub(r"[^\w.-]+", "-", self._name)[:40]
            self._directory = Path(
                tempfile.mkdtemp(prefix=f"scalable-{readable}-", dir=self._parent)
            )
        if self._watchdog is None:
            containers = self._containers
            self._watchdog = Watchdog(
                self._directory, label=containers.label, runtimes=containers.runtimes
            )
        return self._directory, self._watchdog

    @property
    def _log_directory(self) -> Path:
        return self._logs or (self._directory or Path()) / "logs"

    def _start_worker(self, directory: Path, group: GroupSpec, request_id: str) -> _Worker:
        component = self._components[group.tag]
        self._counts[group.tag] += 1
        name = f"{group.tag}-{self._counts[group.tag]}"
        scratch, log = directory / "scratch" / name, self._log_directory / f"{name}.log"
        command = self._make_command(
            component,
            name=name,
            slots=group.slots,
            scheduler_address=self._scheduler_address,
            directory=scratch,
        )
        container = command.container
        scratch.mkdir(parents=True)  # a directory must exist before it is mounted
        if self._credentials is not None:
            self._credentials.write(scratch / TLS)
        process = self._start_process(command, scratch, log)
        return _Worker(
            unit=Unit(name, group.tag, request_id, _native_id(process.pid, container)),
            process=process,
            started=start_time(process.pid) or "",
            scratch=scratch,
            log=log,
            memory=None if container else component.memory,
            container=container,
        )

    def _start_process(self, command: Command, scratch: Path, log: Path) -> subprocess.Popen[bytes]:
        # The processes of a container are left to its runtime: one of them may serve other containers, too.
        label = {} if command.container else {LABEL: str(scratch)}
        output = _create_log(log)
        try:
            return subprocess.Popen(
                command.argv,
                env={**os.environ, **command.env, **label},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                start_new_session=True,
            )
        finally:
            os.close(output)

    def _observe(self) -> Mapping[str, UnitState]:
        with self._lock:
            living = [worker for worker in self._workers.values() if worker.exit is None]
        self._terminate(_ended_or_above_memory(living), grace_period=0)
        with self._lock:
            shown = {n: worker for n, worker in self._workers.items() if not worker.reported_gone}
            for worker in shown.values():
                worker.reported_gone = worker.exit is not None
            return {name: _state(worker) for name, worker in shown.items()}

    def _stop(self, names: Iterable[str]) -> None:
        with self._lock:
            workers = [self._workers[name] for name in names if name in self._workers]
        self._terminate(self._mark_stopping(workers), grace_period=self._grace_period)

    def _describe(self, unit: Unit) -> Explanation:
        with self._lock:
            worker = self._workers.get(unit.id)
        if worker is None:
            return Explanation(
                Reason.UNKNOWN, f"cluster {self._name!r} never had a worker {unit.id}"
            )
        log_tail = tail(worker.log)
        if worker.exit is None:
            return Explanation(Reason.STARTING, "its process runs", unit.native, log_tail)
        hints = [worker.exit.remedy]
        if (self._logs or worker.exit.log_is_useful) and log_tail:
            hints.append(f"its log is {worker.log}")
        remedy = "; ".join(filter(None, hints))
        return Explanation(
            worker.exit.reason, worker.exit.summary, worker.exit.native, log_tail, remedy
        )

    def _sweep(self) -> Sequence[Leftover]:
        with self._lock:
            self._closed = True
            directory, watchdog = self._directory, self._watchdog
            workers = list(self._workers.values())
        if directory is None:
            return []
        stopping = self._mark_stopping(workers)
        survivors = terminate(
            _roots(stopping), grace_period=self._grace_period, labels=[str(directory)]
        )
        self._record_exits(stopping)
        containers = self._containers.sweep()
        if watchdog is not None:
            watchdog.close()
        leftovers = [
            Leftover("process", f"{process.pid} ({process.name})", "it does not die of SIGKILL")
            for process in survivors
        ]
        kept = {
            worker.log
            for worker in workers
            if self._logs is None and worker.exit is not None and worker.exit.log_is_useful
        }
        return [*leftovers, *containers, *_remove_run_directory(directory, kept)]

    def _mark_stopping(self, workers: Iterable[_Worker]) -> list[_Worker]:
        """Record that these are being stopped, except those that have ended already, and return them."""
        with self._lock:
            living = [worker for worker in workers if worker.process.poll() is None]
            for worker in living:
                worker.planned_exit = worker.planned_exit or explain_stop()
            return living

    def _terminate(self, workers: Sequence[_Worker], *, grace_period: float) -> None:
        if workers:
            labels = [str(worker.scratch) for worker in workers]
            left = {
                each.pid
                for each in terminate(_roots(workers), grace_period=grace_period, labels=labels)
            }
            for worker in workers:
                if worker.process.pid not in left:
                    # A process is a zombie as soon as its first thread is, and can be waited for once all of them are.
                    with suppress(subprocess.TimeoutExpired):
                        worker.process.wait(_LAST_THREAD)
        self._record_exits(workers)

    def _record_exits(self, workers: Iterable[_Worker]) -> None:
        """Record why workers ended, for those that have, and remove their containers and files."""
        exits: list[tuple[_Worker, WorkerExit]] = []
        for worker in workers:
            status = worker.process.poll()
            if status is not None and worker.exit is None:
                exits.append((worker, worker.planned_exit or self._explain_exit(worker, status)))
        self._containers.remove(worker.container for worker, _ in exits if worker.container)
        for worker, worker_exit in exits:
            with self._lock:
                worker.exit = worker.exit or worker_exit
                if self._watchdog is not None:
                    self._watchdog.release(worker.process.pid)
            shutil.rmtree(worker.scratch, ignore_errors=True)  # sweep tries again, and reports

    def _explain_exit(self, worker: _Worker, status: int) -> WorkerExit:
        """Explain why a worker ended that this backend did not terminate."""
        container = worker.container
        if container is None:
            return explain_exit(status)
        killed = status == 128 + signal.SIGKILL and self._containers.out_of_memory(container)
        return explain_container_exit(
            worker.unit.tag, container, status, killed=killed, log=tail(worker.log)
        )


def _ended_or_above_memory(living: Sequence[_Worker]) -> list[_Worker]:
    """Return the workers that have ended, whose children may still run, and those above their limit of memory.

    Of the latter, the exit is recorded as planned.
    """
    limited = [worker for worker in living if worker.memory is not None]
    trees = process_trees(_roots(limited), list_processes()) if limited else {}
    found = []
    for worker in living:
        if worker.process.poll() is not None:
            found.append(worker)
        elif worker.memory is not None:
            used = usage_above(trees[worker.process.pid], worker.memory)
            if used is not None:
                worker.planned_exit = worker.planned_exit or explain_out_of_memory(
                    worker.unit.tag, used, worker.memory
                )
                found.append(worker)
    return found


def _create_log(log: Path) -> int:
    at = open_log_directory(log.parent, create=True)
    try:
        how = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        return os.open(log.name, how, 0o600, dir_fd=at)
    finally:
        os.close(at)


def _native_id(pid: int, container: Container | None) -> str:
    return f"{container.runtime} container {container.name}" if container else f"process {pid}"


def _roots(workers: Iterable[_Worker]) -> dict[int, str]:
    return {worker.process.pid: worker.started for worker in workers}


def _state(worker: _Worker) -> UnitState:
    if worker.exit is None:
        return UnitState(worker.unit, Phase.RUNNING, Reason.STARTING)
    return UnitState(worker.unit, Phase.GONE, worker.exit.reason, worker.exit.summary)


def _remove_run_directory(directory: Path, kept: set[Path]) -> list[Leftover]:
    """Remove a run directory except for the logs in `kept`."""
    try:
        if not kept:
            shutil.rmtree(directory)
            return []
        shutil.rmtree(directory / "scratch", ignore_errors=True)
        for log in set((directory / "logs").iterdir()) - kept:
            log.unlink()
    except FileNotFoundError:  # it was removed before
        return []
    except OSError as error:
        return [Leftover("directory", str(directory), str(error))]
    return []
