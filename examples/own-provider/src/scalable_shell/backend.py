"""Commands on this machine as units: the only module that knows the native system."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scalable.cluster.port import Explanation, GroupSpec, Leftover, Phase, Reason, Unit, UnitState
from scalable.errors import LaunchRefusedError
from scalable.manifest.schema import ComponentConfig
from scalable.providers.logs import tail
from scalable.providers.tls import Credentials, tls_arguments
from scalable.providers.worker import server_command, thread_environment, worker_arguments

__all__ = ["ShellBackend"]

_TERMINATION_TIMEOUT = 5.0


class ShellBackend:
    """Each unit is one command that runs one Dask worker.

    Parameters
    ----------
    components : mapping of str to ComponentConfig
        The component of each group, by tag.
    scheduler_address : str
        The address at which workers connect to the scheduler.
    launcher : sequence of str
        Prefix of each worker's command.
    credentials : Credentials
        The TLS keys of the cluster.
    """

    def __init__(
        self,
        components: Mapping[str, ComponentConfig],
        scheduler_address: str,
        launcher: Sequence[str],
        credentials: Credentials,
    ) -> None:
        self._components = components
        self._scheduler_address = scheduler_address
        self._launcher = launcher
        self._directory = Path(tempfile.mkdtemp(prefix="scalable-shell-"))
        self._tls = credentials.write(self._directory / "tls")
        self._requests: dict[str, list[Unit]] = {}
        self._running: dict[str, tuple[Unit, subprocess.Popen[bytes]]] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        """Start `n` commands."""
        if request_id not in self._requests:
            units = [
                Unit(f"{group.tag}-{request_id}-{index}", group.tag, request_id)
                for index in range(n)
            ]
            try:
                for unit in units:
                    self._running[unit.id] = (unit, self._start(unit, group))
            except OSError as error:
                await self.stop(units)
                raise LaunchRefusedError(f"the command cannot be run: {error}") from error
            self._requests[request_id] = units
        return self._requests[request_id]

    def _start(self, unit: Unit, group: GroupSpec) -> subprocess.Popen[bytes]:
        component = self._components[group.tag]
        arguments = worker_arguments(
            self._scheduler_address,
            tag=group.tag,
            slots=group.slots,
            memory=component.memory,
            directory=str(self._directory),
            preload=component.preload_script,
            extra=tls_arguments(self._tls),
        )
        worker = [*server_command(sys.executable, "worker"), *arguments]
        with self._log(unit).open("wb") as log:
            return subprocess.Popen(
                [*self._launcher, *worker, "--name", unit.id],
                env={
                    **os.environ,
                    **thread_environment(component.cpus, group.slots),
                    **component.env,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of each command."""
        return {name: _state(unit, process) for name, (unit, process) in self._running.items()}

    async def stop(self, units: Sequence[Unit]) -> None:
        """Terminate these commands, and kill those that do not end."""
        found = [self._running[unit.id][1] for unit in units if unit.id in self._running]
        await asyncio.to_thread(_terminate, found)

    async def describe(self, unit: Unit) -> Explanation:
        """Return the state of a command, with the tail of its log."""
        state = _state(*self._running[unit.id])
        log_tail = await asyncio.to_thread(tail, self._log(unit))
        return Explanation(state.reason, state.detail, log_tail=log_tail)

    async def sweep(self) -> Sequence[Leftover]:
        """Terminate every command that still runs, and remove the logs."""
        processes = [process for _, process in self._running.values()]
        await asyncio.to_thread(_terminate, processes)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        return [
            Leftover("process", str(process.pid), "it cannot be killed")
            for process in processes
            if process.poll() is None
        ]

    def _log(self, unit: Unit) -> Path:
        return self._directory / f"{unit.id}.log"


def _state(unit: Unit, process: subprocess.Popen[bytes]) -> UnitState:
    status = process.poll()
    if status is None:
        return UnitState(unit, Phase.RUNNING, Reason.STARTING, "its command is running")
    return UnitState(unit, Phase.GONE, Reason.EXITED, f"its command ended with status {status}")


def _terminate(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    running = [process for process in processes if process.poll() is None]
    for send_signal in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in running:
            send_signal(process)
        running = [process for process in running if not _has_ended(process)]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_TERMINATION_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return True
