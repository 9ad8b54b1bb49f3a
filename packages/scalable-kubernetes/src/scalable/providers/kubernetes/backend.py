"""The Dask operator's worker groups as a backend of the engine. A unit is one worker's Deployment.

Each launch is a DaskWorkerGroup of its own, whose replicas never change, because a change of them is all that the
operator acts on, and a lower number ends workers of any group. So the request is the object: creating it twice is
refused by its name, and undoing it is one deletion. Where the operator could make a part of a launch only, its replicas
become the number that there are, so that it makes no others later.

A Deployment starts again what has ended, and so does the engine. Only the first container of the first pod is a unit:
once it has ended, the unit is gone, with its reason and its log, and the Deployment is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.kubernetes.api import ApiError
from scalable.providers.kubernetes.names import (
    DASK_COMPONENT,
    REQUEST,
    RUN,
    group_name,
    selector,
)
from scalable.providers.kubernetes.objects import Run, worker_group
from scalable.providers.kubernetes.pods import (
    CREATING,
    GATED,
    PULLING,
    PodState,
    first_pod,
    has_ended,
    is_batch,
    is_invalid,
    mount_failure,
    operator_complaint,
    pod_state,
    queue_state,
    replica_failure,
    worker_name,
)
from scalable.providers.kubernetes.refusals import explain_refusal, is_lasting, is_unclear
from scalable.providers.kubernetes.removal import remove_workers
from scalable.providers.kubernetes.request import WorkerRequest

if TYPE_CHECKING:
    from scalable.providers.kubernetes.api import KubernetesApi

__all__ = ["KubernetesBackend"]

OPERATOR_PATIENCE = 15.0
"""Seconds in which the operator must make a launch's Deployments; it usually takes one."""

PULL_PATIENCE = 30.0
"""Seconds for which the kubelet may try to pull an image in vain."""

CREATION_PATIENCE = 10.0
"""Seconds after which it is asked why a container is not created."""

EVENTS_INTERVAL = 10.0
"""Seconds between two such questions, and between two about what a queue has said."""

SHOWN_AFTER_THE_END = 120.0
"""Seconds for which a unit that has ended is shown as gone, because an answer may be lost."""

_MAX_LINES = 20_000
"""Lines of a log that are read, at most."""

_POLL = 0.1


@dataclass
class _Ended:
    """A unit that has ended: its last state, its explanation, when that was, and its log until that is read."""

    state: UnitState
    explanation: Explanation
    at: float
    log: str = ""


class KubernetesBackend:
    """Runs workers as worker groups of the operator: one POST per launch, two lists per observation.

    Parameters
    ----------
    api : KubernetesApi
        The API server, opened.
    run : Run
        The run.
    requests : mapping of str to WorkerRequest
        What the workers of each group are, by tag.
    owner : mapping or None
        The reference to the run's DaskCluster.
    close_timeout : float
        Seconds for the removal of all workers.
    log_bytes : int
        Bytes of the log of a worker that has ended which are read before it is removed, for `read_log`.
    """

    def __init__(
        self,
        api: KubernetesApi,
        run: Run,
        requests: Mapping[str, WorkerRequest],
        owner: Mapping[str, Any] | None,
        *,
        close_timeout: float,
        log_bytes: int = 0,
    ) -> None:
        self._log_bytes = log_bytes
        self._api = api
        self._run = run
        self._requests = requests
        self._owner = owner
        self._close_timeout = close_timeout
        self._closed = False
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._groups: dict[str, str] = {}
        """The worker group of each launch, by request id."""
        self._tags: dict[str, str] = {}
        """The tag of each worker group."""
        self._unclear: set[str] = set()
        """The worker groups that were requested, and may or may not have been made."""
        self._launched: dict[str, LaunchResult] = {}
        self._complete: set[str] = set()
        """The worker groups that get no more units."""
        self._members: defaultdict[str, set[str]] = defaultdict(set)
        """The units of each worker group that are not known to be gone."""
        self._units: dict[str, tuple[Unit, str]] = {}
        """Each unit, and its worker group."""
        self._pods: dict[str, Mapping[str, Any]] = {}
        """The first pod of each unit, as it was last seen."""
        self._pulling_since: dict[str, float] = {}
        self._creating_since: dict[str, float] = {}
        self._events: list[dict[str, Any]] = []
        self._events_at = -EVENTS_INTERVAL
        self._workloads: list[dict[str, Any]] = []
        self._workloads_at = -EVENTS_INTERVAL
        self._ended: dict[str, _Ended] = {}

    # -- Launch

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Create a worker group of `n` workers, and return once the operator has made their Deployments, or a part."""
        if request_id in self._launched:
            return self._launched[request_id]
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._run.name!r} is closed; build a new one")
        name = self._groups.get(request_id)
        if name is None:
            self._numbers[group.tag] += 1
            number = self._numbers[group.tag]
            name = group_name(self._run.name, group.tag, number)
            self._groups[request_id], self._tags[name] = name, group.tag
        await self._create(name, group.tag, n, request_id)
        result = await self._wait_for_operator(name, n)
        self._launched[request_id] = result
        self._complete.add(name)
        return result

    async def _create(self, name: str, tag: str, n: int, request_id: str) -> None:
        made = worker_group(
            self._run,
            self._requests[tag],
            number=int(name.rpartition("-")[2]),
            replicas=n,
            request_id=request_id,
            owner=self._owner,
        )
        was_unclear = name in self._unclear
        self._unclear.add(name)
        try:
            await self._api.create("daskworkergroups", made)
        except ApiError as error:
            if error.code != 409:
                # A refusal says nothing of an earlier attempt. The engine asks again, under the same name.
                if was_unclear or is_unclear(error):
                    raise
                self._unclear.discard(name)
                raise self._refusal(tag, error) from error
            # An earlier call of this launch has made it.
        self._unclear.discard(name)

    def _refusal(self, tag: str, error: ApiError) -> LaunchError:
        problem = explain_refusal(error, self._api.namespace)
        kind = LaunchRefusedError if is_lasting(error) else LaunchError
        return kind(f"Kubernetes refuses a worker group of {tag}: {problem}", problem)

    async def _wait_for_operator(self, name: str, n: int) -> LaunchResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OPERATOR_PATIENCE
        mine = selector({"dask.org/workergroup-name": name})
        seen = 0
        while True:
            units = await self._units_made(mine)
            if len(units) >= n:
                return LaunchResult(units)
            group = await self._api.get("daskworkergroups", name)
            said = operator_complaint(group)
            if len(units) > seen or is_batch(said):
                seen, deadline = len(units), loop.time() + OPERATOR_PATIENCE
            elif said or loop.time() > deadline:
                # Listed again, because what it says may be newer than the list.
                part = await self._units_made(mine) if said and not is_invalid(said) else []
                if part and await self._keep_part(group, len(part)):
                    return LaunchResult(part, shortfall=_complaint(self._tags[name], said))
                await self._undo(name, mine)
                raise _launch_error(self._tags[name], said)
            await asyncio.sleep(_POLL)

    async def _units_made(self, mine: str) -> list[Unit]:
        return [self._unit(each) for each in await self._api.list("deployments", mine)]

    async def _keep_part(self, group: Mapping[str, Any], n: int) -> bool:
        """Have the operator make no more than the `n` workers that there are; return whether that is certain."""
        # It tries again after a minute (kopf, "Error handling"), and finds as many as are wanted. If it does so at this
        # moment, the object is another version, and the change is refused.
        version = group["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version}, "spec": {"worker": {"replicas": n}}}
        try:
            await self._api.patch("daskworkergroups", group["metadata"]["name"], change)
        except (
            ApiError
        ):  # the version, or a Role without this verb: the launch is undone and tried again
            return False
        return True

    async def _undo(self, name: str, mine: str) -> None:
        """Delete a launch's worker group, with what the operator has made of it or is still making."""
        await self._api.delete("daskworkergroups", name)
        for deployment in await self._api.list("deployments", mine):
            await self._api.delete("deployments", deployment["metadata"]["name"])
        self._groups = {request: each for request, each in self._groups.items() if each != name}

    def _unit(self, deployment: Mapping[str, Any]) -> Unit:
        """Return the unit of a Deployment."""
        name, group = _identity(deployment)
        if name not in self._units:
            request = deployment["metadata"]["labels"].get(REQUEST, "")
            unit = Unit(name, self._tags[group], request, f"Deployment {name}")
            self._units[name] = unit, group
            self._members[group].add(name)
        return self._units[name][0]

    # -- Observe

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, from a list of Deployments and one of pods."""
        mine = selector({RUN: self._run.name, DASK_COMPONENT: "worker"})
        deployments, pods = await asyncio.gather(
            self._api.list("deployments", mine), self._api.list("pods", mine)
        )
        of_unit: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for pod in pods:
            of_unit[worker_name(pod)].append(pod)
        states: dict[str, UnitState] = {}
        for deployment in deployments:
            name, group = _identity(deployment)
            if group not in self._tags or "deletionTimestamp" in deployment["metadata"]:
                continue
            if group in self._complete and name not in self._units:
                # The operator has replaced one of a launch of which it could make a part only.
                await self._api.delete("deployments", name)
                continue
            unit = self._unit(deployment)
            states[unit.id] = self._state(unit, deployment, of_unit[unit.id])
        for name in of_unit.keys() - states.keys() & self._units.keys():
            # A Deployment goes before its pod, in which the worker may still run.
            running = [pod for pod in of_unit[name] if not has_ended(pod)]
            if running and name not in self._ended:
                text = f"ending: pod {running[0]['metadata']['name']}"
                states[name] = UnitState(self._units[name][0], Phase.RUNNING, Reason.STOPPED, text)
        await self._explain_creation(states)
        await self._explain_queues(states)
        await self._bury([s for s in states.values() if s.phase is Phase.GONE])
        now = _now()
        recent = {
            name: ended.state
            for name, ended in self._ended.items()
            if now - ended.at < SHOWN_AFTER_THE_END
        }
        return {**states, **recent}

    def _state(
        self, unit: Unit, deployment: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]
    ) -> UnitState:
        known, pod = self._pods.get(unit.id), first_pod(pods)
        if pod is None and known is None:
            reason, text = replica_failure(deployment) or (Reason.STARTING, "has no pod yet")
            return UnitState(unit, Phase.PENDING, reason, text)
        if known is not None and (pod is None or _uid(pod) != _uid(known)):
            # What is known of its end is what the last sight of it has shown.
            before = pod_state(known, "worker")
            if before.phase is Phase.GONE:
                return _unit_state(unit, before)
            name = known["metadata"]["name"]
            return UnitState(unit, Phase.GONE, Reason.CANCELLED, f"pod {name} was deleted")
        assert pod is not None  # noqa: S101 - or there is neither
        self._pods[unit.id] = pod
        state = pod_state(pod, "worker")
        if self._pulls_in_vain(unit, state):
            return UnitState(unit, Phase.GONE, Reason.IMAGE, state.detail)
        return _unit_state(unit, state)

    def _pulls_in_vain(self, unit: Unit, state: PodState) -> bool:
        # While the kubelet tries again, it says that it creates the container.
        if state.waiting not in PULLING:
            return False
        return _now() - self._pulling_since.setdefault(unit.id, _now()) > PULL_PATIENCE

    async def _explain_creation(self, states: dict[str, UnitState]) -> None:
        """Find out why containers are not created, in one call, once that takes longer than it usually does."""
        now, slow = _now(), []
        for name, state in states.items():
            pod = self._pods.get(name)
            creating = state.phase is Phase.RUNNING and pod is not None and _is_creating(pod)
            if not creating:
                self._creating_since.pop(name, None)
            elif now - self._creating_since.setdefault(name, now) > CREATION_PATIENCE:
                slow.append(name)
        if not slow:
            return
        if now - self._events_at > EVENTS_INTERVAL:
            self._events_at = now
            with contextlib.suppress(ApiError):  # a Role may not allow it
                only = "involvedObject.kind=Pod,type=Warning"
                self._events = await self._api.list("events", fieldSelector=only)
        for name in slow:
            why = mount_failure(self._events, self._pods[name])
            if why:
                unit = states[name].unit
                states[name] = UnitState(unit, Phase.PENDING, Reason.RESOURCES, why)

    async def _explain_queues(self, states: dict[str, UnitState]) -> None:
        """Add to pods that Kueue has not admitted why that is, in its words."""
        waiting = [
            name
            for name, state in states.items()
            if state.phase is Phase.PENDING
            and self._requests[state.unit.tag].options.queue
            and (pod := self._pods.get(name))
            and pod_state(pod, "worker").waiting == GATED
        ]
        if not waiting:
            return
        if _now() - self._workloads_at > EVENTS_INTERVAL:
            self._workloads_at = _now()
            with contextlib.suppress(ApiError):  # a Role may not allow it
                self._workloads = await self._api.list("workloads")
        for name in waiting:
            said = queue_state(self._workloads, self._pods[name])
            if said:
                states[name] = UnitState(states[name].unit, Phase.PENDING, *said)

    async def _bury(self, states: Sequence[UnitState]) -> None:
        """Keep what is known of units that have ended, and remove their Deployments."""
        if not states:
            return
        logs = await asyncio.gather(*(self._log(state.unit) for state in states))
        whole = await asyncio.gather(*(self._whole_log(s.unit, self._log_bytes) for s in states))
        for state, log, text in zip(states, logs, whole, strict=True):
            unit = state.unit
            summary = f"{unit.id} ended: {state.detail}"
            why = Explanation(state.reason, summary, native=state.detail, log_tail=log)
            self._ended[unit.id] = _Ended(state, why, _now(), text)
        await self._remove([state.unit for state in states])

    # -- Stop

    async def stop(self, units: Sequence[Unit]) -> None:
        """Delete the Deployments of these units, and the worker groups that have no others."""
        await self._remove(units)

    async def _remove(self, units: Sequence[Unit]) -> None:
        await asyncio.gather(*(self._api.delete("deployments", unit.id) for unit in units))
        for unit in units:
            if unit.id in self._units:
                self._members[self._units[unit.id][1]].discard(unit.id)
        empty = [name for name, members in self._members.items() if not members]
        await asyncio.gather(*(self._api.delete("daskworkergroups", name) for name in empty))
        for name in empty:  # another call may have done so meanwhile
            self._members.pop(name, None)

    # -- Describe

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit: why it has ended, or its present state, with the end of its log."""
        if unit.id not in self._ended:
            state = (await self.observe()).get(unit.id)
            if state is not None and unit.id not in self._ended:
                log = await self._log(unit)
                summary = f"{unit.id}: {state.detail}"
                return Explanation(state.reason, summary, native=state.detail, log_tail=log)
        if unit.id in self._ended:
            return self._ended[unit.id].explanation
        return Explanation(Reason.UNKNOWN, f"Kubernetes has no Deployment {unit.id}")

    async def _log(self, unit: Unit) -> str:
        pod = self._pods.get(unit.id)
        return "" if pod is None else await self._api.first_log(pod["metadata"]["name"], "worker")

    @property
    def logs_outlive_units(self) -> bool:
        """False: they go with their pods."""
        return False

    async def read_log(self, unit: Unit, size: int) -> str:
        """Return the end of the log of a unit's first container; of a unit that has ended, once."""
        if ended := self._ended.get(unit.id):
            text, ended.log = ended.log, ""
            return text
        return await self._whole_log(unit, size)

    async def _whole_log(self, unit: Unit, size: int) -> str:
        pod = self._pods.get(unit.id)
        if pod is None or not size:
            return ""
        name = pod["metadata"]["name"]
        return await self._api.first_log(name, "worker", lines=_MAX_LINES, size=size)

    # -- The end

    async def sweep(self) -> Sequence[Leftover]:
        """Accept no more launches, and remove all worker groups and workers."""
        self._closed = True
        await self._api.settle()
        return await remove_workers(self._api, self._run.name, self._close_timeout)


def _is_creating(pod: Mapping[str, Any]) -> bool:
    return pod_state(pod, "worker").waiting == CREATING


def _unit_state(unit: Unit, state: PodState) -> UnitState:
    return UnitState(unit, state.phase, state.reason, state.detail)


def _launch_error(tag: str, said: str) -> LaunchError:
    if not said:
        summary = (
            f"the Dask operator has not acted on a worker group of {tag} for {OPERATOR_PATIENCE:g} s; "
            "is it running?"
        )
        return LaunchError(summary, Explanation(Reason.NETWORK, summary))
    problem = _complaint(tag, said)
    kind = LaunchRefusedError if is_invalid(said) else LaunchError
    return kind(problem.summary, problem)


def _complaint(tag: str, said: str) -> Explanation:
    summary = f"the Dask operator cannot start workers of {tag}: {said}"
    reason = Reason.QUOTA if "exceeded quota" in said else Reason.UNKNOWN
    if is_invalid(said):
        reason = Reason.REFUSED
    return Explanation(reason, summary, native=said)


def _identity(deployment: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of a worker's Deployment, and that of its worker group."""
    metadata = deployment["metadata"]
    return metadata["name"], metadata["labels"].get("dask.org/workergroup-name", "")


def _uid(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["uid"])


def _now() -> float:
    return asyncio.get_running_loop().time()
