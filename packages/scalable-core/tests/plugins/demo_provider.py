"""The demo provider, for tests: each worker is a process on this machine.

It is a plugin like any other, found through the entry point that `conftest` writes, and starts real workers unless
its options prevent it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path

from distributed import LocalCluster
from pydantic import Field

from scalable.cluster import GroupedCluster, Pace, RetryPolicy
from scalable.cluster.port import Explanation, GroupSpec, Leftover, Phase, Reason, Unit, UnitState
from scalable.costing import CostEstimate, CostLineItem
from scalable.errors import LaunchRefusedError
from scalable.providers.base import ClusterHandle, DeploymentSpec, ScalePlan
from scalable.providers.common import BaseProvider, cluster_handle
from scalable.providers.options import TargetOptions

QUICK = Pace(tick=0.05, poll=0.1, close_timeout=10)


class DemoOptions(TargetOptions):
    """Options of a target of the demo provider."""

    account: str | None = Field(None, description="Account of the user.")
    price: Decimal | None = Field(None, description="Price of one worker for one hour.")
    refuse: str | None = Field(None, description="Reason for which every launch is refused.")
    queue: bool = Field(False, description="Leave workers pending forever.")
    stuck: bool = Field(False, description="Report a leftover at close.")
    hang: str | None = Field(None, description="File to make at close, which then hangs.")


class DemoProvider(BaseProvider[DemoOptions]):
    """Runs workers as processes on this machine."""

    name = "demo"
    options_model = DemoOptions

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
        price = self.parse_options(spec).price
        items = (
            CostLineItem(tag, Decimal(n), "worker", price, source="demo", as_of=date(2026, 1, 1))
            if price is not None
            else CostLineItem(tag, Decimal(n), "worker")
            for tag, n in plan.workers_by_tag.items()
        )
        return CostEstimate(tuple(items))

    def _build(self, spec: DeploymentSpec, options: DemoOptions) -> ClusterHandle:
        groups = [
            GroupSpec(
                tag,
                component.slots,
                options.startup_timeout,
                unresponsive_timeout=options.unresponsive_timeout,
            )
            for tag, component in spec.components.items()
        ]
        host = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
        cluster = GroupedCluster(
            host,
            DemoBackend(host.scheduler_address, options),
            groups,
            pace=QUICK,
            retry=RetryPolicy(delay=0.1),
        )
        return cluster_handle(cluster, spec)


class DemoBackend:
    """Each unit is one worker process, in a process group of its own."""

    def __init__(self, address: str, options: DemoOptions) -> None:
        self.address, self.options = address, options
        self.scratch = Path(tempfile.mkdtemp(prefix="demo-"))
        self.numbers = itertools.count(1)
        self.processes: dict[str, tuple[Unit, subprocess.Popen[bytes] | None]] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> list[Unit]:
        if self.options.refuse:
            raise LaunchRefusedError(
                self.options.refuse, Explanation(Reason.REFUSED, self.options.refuse)
            )
        units = [Unit(f"{group.tag}-{next(self.numbers)}", group.tag, request_id) for _ in range(n)]
        for unit in units:
            self.processes[unit.id] = unit, None if self.options.queue else self._start(unit, group)
        return units

    def _start(self, unit: Unit, group: GroupSpec) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "distributed.cli.dask_worker", self.address),
            *("--name", unit.id, "--nthreads", str(group.slots), "--no-nanny", "--no-dashboard"),
            *("--resources", f"{group.tag}={group.slots}", "--host", "127.0.0.1"),
            *("--local-directory", str(self.scratch), "--death-timeout", "30"),
        ]
        with (self.scratch / unit.id).open("wb") as log:
            # Not in the workflow's directory, whose files another machine would not have either.
            return subprocess.Popen(
                command,
                cwd=self.scratch,
                env={**os.environ, "DEMO_WORKER": unit.id},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def observe(self) -> Mapping[str, UnitState]:
        def state(unit: Unit, process: subprocess.Popen[bytes] | None) -> UnitState:
            if process is None:
                return UnitState(unit, Phase.PENDING, Reason.PRIORITY)
            return UnitState(unit, Phase.RUNNING if process.poll() is None else Phase.GONE)

        return {name: state(*entry) for name, entry in self.processes.items()}

    async def stop(self, units: Sequence[Unit]) -> None:
        for unit in units:
            _, process = self.processes.pop(unit.id, (unit, None))
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.to_thread(process.wait)

    async def describe(self, unit: Unit) -> Explanation:
        log = self.scratch / unit.id
        tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        return Explanation(Reason.EXITED, f"{unit.id} ended", log_tail=tail)

    async def sweep(self) -> list[Leftover]:
        await self.stop([unit for unit, _ in self.processes.values()])
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.options.hang:
            Path(self.options.hang).touch()
            time.sleep(600)  # on the event loop, so that no limit of a step applies
        return [Leftover("volume", "scratch", "it is in use")] if self.options.stuck else []
