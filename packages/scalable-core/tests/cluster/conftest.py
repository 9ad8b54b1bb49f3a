"""Two small real backends: workers in this process, and worker processes.

Both run `distributed`'s own workers under a scheduler of its own. They are as plain as a backend can be, so that what
the tests see is the engine.
"""

from __future__ import annotations

import asyncio
import itertools
import linecache
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from distributed import LocalCluster, Worker
from distributed.core import Status

from scalable.cluster import GroupedCluster, Pace, RetryPolicy
from scalable.cluster.host import Host
from scalable.cluster.port import (
    Backend,
    Explanation,
    GroupSpec,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchRefusedError

QUICK = Pace(tick=0.05, poll=0.1, close_timeout=10)
QUICK_RETRY = RetryPolicy(delay=0.1)


class Threads:
    """Workers on the event loop of the scheduler, whose tasks run in threads of this process.

    Tests may name groups of which every launch is refused.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.numbers = itertools.count(1)
        self.workers: dict[str, tuple[Unit, Worker]] = {}
        self.starts: set[asyncio.Future[Any]] = set()
        self.refused: set[str] = set()

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> list[Unit]:
        if group.tag in self.refused:
            raise LaunchRefusedError(f"no machine for {group.tag}")
        units = [Unit(f"{group.tag}-{next(self.numbers)}", group.tag, request_id) for _ in range(n)]
        for unit in units:
            worker = Worker(
                self.address,
                name=unit.id,
                nthreads=group.slots,
                resources={group.tag: group.slots},
                dashboard=False,
                memory_limit=0,
            )
            self.workers[unit.id] = unit, worker
            start = asyncio.ensure_future(self._start(worker))
            self.starts.add(start)
            start.add_done_callback(self.starts.discard)
        return units

    async def _start(self, worker: Worker) -> None:
        try:
            await worker
        except Exception:  # noqa: BLE001 - its status says so
            await worker.close()

    async def observe(self) -> Mapping[str, UnitState]:
        return {
            name: UnitState(
                unit,
                Phase.GONE if worker.status in (Status.closed, Status.failed) else Phase.RUNNING,
            )
            for name, (unit, worker) in self.workers.items()
        }

    async def stop(self, units: Sequence[Unit]) -> None:
        await asyncio.gather(*(self.workers[unit.id][1].close() for unit in units))

    async def describe(self, unit: Unit) -> Explanation:
        return Explanation(Reason.EXITED, f"{unit.id} ended")

    async def sweep(self) -> list[Leftover]:
        await asyncio.gather(*self.starts, return_exceptions=True)
        await asyncio.gather(*(worker.close() for _, worker in self.workers.values()))
        return []

    def leftovers(self) -> list[str]:
        return [n for n, (_, worker) in self.workers.items() if worker.status is not Status.closed]


class Processes:
    """Workers that are processes of their own, each in a process group of its own.

    Tests may change the Python they run on, their environment, and add arguments.
    """

    def __init__(self, address: str, directory: Path) -> None:
        self.address = address
        self.directory = directory
        self.python = [sys.executable]
        self.environment = dict(os.environ)
        self.arguments: list[str] = []
        self.numbers = itertools.count(1)
        self.processes: dict[str, tuple[Unit, subprocess.Popen[bytes]]] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> list[Unit]:
        return [self._launch(group, request_id) for _ in range(n)]

    def _launch(self, group: GroupSpec, request_id: str) -> Unit:
        unit = Unit(f"{group.tag}-{next(self.numbers)}", group.tag, request_id)
        with self._log(unit).open("wb") as log:
            process = subprocess.Popen(
                [
                    *(*self.python, "-m", "distributed.cli.dask_worker", self.address),
                    *("--name", unit.id, "--nthreads", str(group.slots)),
                    *("--resources", f"{group.tag}={group.slots}"),
                    *("--no-nanny", "--no-dashboard", "--death-timeout", "30"),
                    *("--local-directory", str(self.directory / "scratch"), "--host", "127.0.0.1"),
                    *self.arguments,
                ],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[unit.id] = unit, process
        return unit

    def _log(self, unit: Unit) -> Path:
        return self.directory / f"{unit.id}.log"

    async def observe(self) -> Mapping[str, UnitState]:
        return {
            name: UnitState(unit, Phase.RUNNING if process.poll() is None else Phase.GONE)
            for name, (unit, process) in self.processes.items()
        }

    async def stop(self, units: Sequence[Unit]) -> None:
        await asyncio.to_thread(self._end, [self.processes[unit.id][1] for unit in units])

    def _end(self, processes: Sequence[subprocess.Popen[bytes]], grace: float = 1.0) -> None:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + grace
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def describe(self, unit: Unit) -> Explanation:
        status = self.processes[unit.id][1].poll()
        tail = "\n".join(self._log(unit).read_text(errors="replace").splitlines()[-10:])
        return Explanation(
            Reason.EXITED, f"{unit.id} ended", native=f"status {status}", log_tail=tail
        )

    async def sweep(self) -> list[Leftover]:
        await asyncio.to_thread(self._end, [process for _, process in self.processes.values()])
        return []

    def running(self) -> dict[str, int]:
        """Process ids of the workers that have not ended, by name."""
        return {name: p.pid for name, (_, p) in self.processes.items() if p.poll() is None}

    def kill(self, name: str) -> None:
        self.processes[name][1].send_signal(signal.SIGKILL)

    def leftovers(self) -> list[str]:
        return list(self.running())


class Until(Protocol):
    """See `until`."""

    def __call__(self, condition: Callable[[], object], timeout: float = 30) -> None: ...


@pytest.fixture
def until() -> Until:
    """Wait for a condition, and fail if it does not come true."""

    def until(condition: Callable[[], object], timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.005)

    return until


class Start(Protocol):
    """Build a cluster of some groups; see `GroupedCluster` for the options."""

    def __call__(self, *groups: str | GroupSpec, **options: Any) -> GroupedCluster: ...


@pytest.fixture
def host() -> Iterator[LocalCluster]:
    """A scheduler of this process, without workers."""
    with LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=False
    ) as host:
        yield host
        if host.scheduler.status is Status.closed and host.status is not Status.closed:
            # Its cluster would try to reach it for half a minute.
            closing = asyncio.run_coroutine_threadsafe(
                host.scheduler_comm.close_rpc(), host.loop.asyncio_loop
            )
            closing.result(30)


def _build(
    host: Host, backend: Backend, groups: Sequence[str | GroupSpec], options: dict[str, Any]
) -> GroupedCluster:
    specs = [group if isinstance(group, GroupSpec) else GroupSpec(group) for group in groups]
    return GroupedCluster(host, backend, specs, **{"pace": QUICK, "retry": QUICK_RETRY, **options})


@pytest.fixture
def threads(host: Host) -> Threads:
    """A backend whose workers live in this process."""
    return Threads(host.scheduler_address)


@pytest.fixture
def processes(host: Host, tmp_path: Path) -> Processes:
    """A backend of worker processes."""
    return Processes(host.scheduler_address, tmp_path)


def _starter(host: Host, backend: Threads | Processes) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*groups: str | GroupSpec, **options: Any) -> GroupedCluster:
            return stack.enter_context(_build(host, backend, groups, options))

        yield start
    assert backend.leftovers() == []


@pytest.fixture
def start(host: Host, threads: Threads) -> Iterator[Start]:
    """Start a cluster whose workers live in this process."""
    yield from _starter(host, threads)


@pytest.fixture
def start_processes(host: Host, processes: Processes) -> Iterator[Start]:
    """Start a cluster whose workers are processes."""
    yield from _starter(host, processes)


_CELL = "/tmp/ipykernel_4711/1234.py"
_TEXT = """\
def fail(x=1):
    return divide(x, 0)

def divide(x, y):
    return (lambda: x / y)()

class Model:
    def run(self):
        return divide(1, 0)

def submit_another(x):
    from distributed import worker_client
    with worker_client() as client:
        return client.submit(fail, x).result()
"""


@pytest.fixture
def cell() -> Iterator[dict[str, Any]]:
    """What a cell of a notebook has defined: it is in no module that another process could import."""
    linecache.cache[_CELL] = (len(_TEXT), None, _TEXT.splitlines(keepends=True), _CELL)
    namespace = {"__name__": "__main__"}
    exec(compile(_TEXT, _CELL, "exec"), namespace)
    yield namespace
    del linecache.cache[_CELL]
