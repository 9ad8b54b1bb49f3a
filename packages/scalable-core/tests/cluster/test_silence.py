"""Worker processes that are frozen, and machines that are gone while their connections stay open."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Client, Event, LocalCluster

from scalable.cluster.pace import Pace
from scalable.cluster.port import Phase, Reason, UnitState

if TYPE_CHECKING:
    from cluster.conftest import Processes, Start, Until


@pytest.fixture
def host() -> Iterator[LocalCluster]:
    """A scheduler whose configuration removes silent workers after 5 s, the shortest time that Dask obeys."""
    settings = {
        "distributed.scheduler.worker-ttl": "1s",
        "distributed.scheduler.no-workers-timeout": "1s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=False
        ) as host,
    ):
        yield host


def _start_log(log: Path) -> Callable[[int], int]:
    """Return a function for tasks, which are pickled by value: it logs its start, and waits for the gate."""

    def start(number: int) -> int:
        with log.open("a") as file:
            file.write(f"{number}\n")
        Event("gate").wait()
        return number

    return start


def test_a_frozen_worker_is_shown_and_its_task_ends_once(
    host: Any, start_processes: Start, processes: Processes, until: Until, tmp_path: Path
) -> None:
    cluster = start_processes("a")
    host.scheduler.plugins["scalable-groups"].liveness.unresponsive_after = 8.0
    cluster.scale_groups({"a": 1})
    log = tmp_path / "starts"
    with Client(cluster) as client:
        gate = Event("gate", client=client)
        future = client.submit(_start_log(log), 1, resources={"a": 1})
        until(lambda: log.exists() and log.read_text() == "1\n", timeout=120)
        ((name, pid),) = processes.running().items()
        os.kill(pid, signal.SIGSTOP)
        until(lambda: cluster.groups["a"].reason is Reason.UNRESPONSIVE, timeout=60)
        status = cluster.groups["a"]
        gate.set()
        os.kill(pid, signal.SIGCONT)
        assert future.result(timeout=60) == 1
        until(lambda: cluster.groups["a"].running == 1, timeout=60)
    assert (status.running, status.unavailable) == (0, 1)
    assert log.read_text() == "1\n"
    assert list(processes.running()) == [name]


def test_what_ran_on_a_machine_that_is_gone_runs_again(
    start_processes: Start,
    processes: Processes,
    until: Until,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observe, gone = processes.observe, set[str]()

    async def observe_gone() -> Mapping[str, UnitState]:
        return {
            name: UnitState(state.unit, Phase.GONE, Reason.NODE_FAILURE) if name in gone else state
            for name, state in (await observe()).items()
        }

    monkeypatch.setattr(processes, "observe", observe_gone)
    cluster = start_processes("a", pace=Pace(tick=0.05, poll=0.1, left_behind_timeout=0.5))
    cluster.scale_groups({"a": 1})
    log = tmp_path / "starts"
    with Client(cluster) as client:
        gate = Event("gate", client=client)
        future: Any = client.submit(_start_log(log), 1, resources={"a": 1})
        until(lambda: log.exists() and log.read_text() == "1\n", timeout=120)
        ((name, pid),) = processes.running().items()
        os.kill(pid, signal.SIGSTOP)
        gone.add(name)
        gate.set()
        assert future.result(timeout=120) == 1
    assert log.read_text() == "1\n1\n"
    os.kill(pid, signal.SIGKILL)
