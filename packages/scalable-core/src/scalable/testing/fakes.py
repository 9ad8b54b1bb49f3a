"""A provider with simulated machines and real Dask workers, for tests of whatever uses a provider.

Examples
--------
A group whose units wait in a queue for two seconds, and whose first one fails to start::

    provider = FakeProvider({"gcam": UnitBehavior(queue=2, failing_starts=1)})
    register_provider("fake", lambda: provider)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

from scalable.cluster.port import Leftover, Reason
from scalable.manifest.issues import ValidationIssue
from scalable.providers.base import ClusterHandle, DeploymentSpec, Owned, current_owner
from scalable.providers.common import BaseProvider, cluster_handle, group_specs
from scalable.providers.options import TargetOptions

if TYPE_CHECKING:
    from distributed import LocalCluster

    from scalable.testing.simulation import SimulatedBackend, UnitBehavior

__all__ = ["FakeProvider"]

_SUPPORTED_FIELDS = {"name", "slots", "preload_script", "tags"}
"""Fields of a component that have an effect."""


class FakeProvider(BaseProvider[TargetOptions]):
    """Runs workers in this process, on units that queue, boot, fail and end as a test specifies.

    The units are those of `scalable.testing.simulation`, in real time, and as strict: `close` raises if the engine
    broke a rule. The fields ``slots`` and ``preload_script`` of a component have an effect.

    Parameters
    ----------
    behavior : mapping of str to UnitBehavior, optional
        How the units of a group behave in each cluster, by tag; by default, a unit starts at once.
    """

    name = "fake"
    options_model = TargetOptions

    def __init__(self, behavior: Mapping[str, UnitBehavior] | None = None) -> None:
        self._behavior = dict(behavior or {})
        self._built: list[tuple[LocalCluster, SimulatedBackend]] = []

    def check(self, spec: DeploymentSpec, options: TargetOptions) -> Iterator[ValidationIssue]:
        """Warn about fields that have no effect in this process."""
        for tag, component in spec.components.items():
            for field in sorted(component.model_fields_set - _SUPPORTED_FIELDS):
                message = f"{field}: no effect, because workers are threads of this process"
                yield spec.component_issue(tag, field, "W_NO_EFFECT", message, "warning")

    def kill(self, worker: str, reason: Reason = Reason.PREEMPTED) -> None:
        """End a unit from outside, and its worker with it."""
        for host, backend in self._built:
            if worker in backend.units:
                _kill(host, backend, worker, reason)

    def leftovers(self) -> list[str]:
        """Return the names of units and schedulers that still exist, of all clusters."""
        return [
            name
            for host, backend in self._built
            for name in (
                *(made.unit.id for made in backend.alive()),
                *([] if host.status.name == "closed" else [str(host.name)]),
            )
        ]

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return the units that exist, of all clusters that this object has built."""
        return [
            Owned("unit", made.unit.id, str(host.name), current_owner(), made.unit.tag)
            for host, backend in self._built
            for made in backend.alive()
        ]

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """End these units; the engine of a cluster that is open replaces them."""
        for resource in owned:
            for host, backend in self._built:
                if str(host.name) == resource.run_id:
                    _kill(host, backend, resource.name, Reason.CANCELLED)
        return []

    def close(self, cluster: ClusterHandle) -> None:
        """Remove everything that belongs to `cluster`.

        Raises
        ------
        LeftoverError
            Something could not be removed.
        AssertionError
            The engine broke a rule.
        """
        super().close(cluster)
        for _, backend in self._built:
            backend.invariants.check()

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        # Validating and planning do not import Dask.
        from distributed.core import Status

        from scalable.cluster import GroupedCluster, Pace, RetryPolicy
        from scalable.testing.simulation import InvariantChecker, SimulatedBackend, UnitBehavior
        from scalable.testing.workers import InProcessWorkerPool

        host = _start_host()
        try:
            workers = InProcessWorkerPool(
                host,
                {t: c.preload_script for t, c in spec.components.items() if c.preload_script},
                closing=lambda: cluster.status is not Status.running,
            )
        except BaseException:
            host.close()
            raise
        backend = SimulatedBackend(workers, InvariantChecker(), lambda: cluster.max_workers)
        self._built.append((host, backend))
        for tag in spec.components:
            # Each cluster has its own, since units that fail to start are counted down.
            backend.behavior[tag] = deepcopy(self._behavior.get(tag, UnitBehavior(boot=0)))
        cluster = GroupedCluster(
            host,
            backend,
            group_specs(spec, options),
            name=str(host.name),
            max_workers=options.max_workers,
            # Tests should not have to wait.
            pace=Pace(tick=0.05, poll=0.1),
            retry=RetryPolicy(delay=0.1, fail_after=2.0),
        )
        return cluster_handle(cluster, spec)


def _start_host() -> LocalCluster:
    """Start a scheduler in this process, without workers and without HTTP."""
    from distributed import LocalCluster

    from scalable.providers.servers import stop_http_server_of

    host = LocalCluster(
        n_workers=0,
        processes=False,
        protocol="inproc",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
    )
    stop_http_server_of(host)
    return host


def _kill(host: LocalCluster, backend: SimulatedBackend, unit: str, reason: Reason) -> None:
    """End a unit of a cluster that is open, and return once it has ended."""

    async def kill() -> None:
        backend.kill(unit, reason)

    if host.status.name == "running":
        host.sync(kill)
