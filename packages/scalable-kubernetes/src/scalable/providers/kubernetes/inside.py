"""A workflow inside the cluster, from its Job to its exit status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import Phase
from scalable.errors import SessionError
from scalable.providers.kubernetes.api import ApiError, ApiUnreachableError
from scalable.providers.kubernetes.names import RUN, selector
from scalable.providers.kubernetes.pods import (
    CREATING,
    PULLING,
    PodState,
    first_pod,
    has_ended,
    mount_failure,
    pod_state,
)
from scalable.providers.kubernetes.refusals import (
    explain_refusal,
    is_expired,
    is_transient,
    is_unclear,
)
from scalable.providers.kubernetes.workflow import (
    CONTAINER,
    GRACE,
    RESUMED,
    workflow_job,
    workflow_name,
    workflow_secret,
)

if TYPE_CHECKING:
    from scalable.providers.base import Submission
    from scalable.providers.kubernetes.api import KubernetesApi
    from scalable.providers.kubernetes.objects import Run
    from scalable.providers.kubernetes.options import KubernetesOptions

__all__ = ["run_inside"]

_POLL = 1.0
_PULL_PATIENCE = 30.0
"""Seconds for which the kubelet may try to pull an image in vain."""
_CREATION_PATIENCE = 10.0
"""Seconds after which it is asked why a container is not created, at each look."""
_REMOVAL_TIMEOUT = GRACE + 30.0
"""Seconds for the end of the pod, which removes its cluster first."""

_BATCH = "batch/v1"


async def run_inside(
    api: KubernetesApi,
    run: Run,
    submission: Submission,
    image: str,
    options: KubernetesOptions,
    write: Callable[[str], object],
) -> int:
    """Run a workflow as a Job, write its log, and return its exit status. Whatever happens, the Job is removed.

    Raises
    ------
    SessionError
        It cannot be started, or was removed by somebody else.
    """
    await api.open()
    job = workflow_job(run, submission, image, options)
    workflow_secret(run, submission, {})  # which may be too large
    name = workflow_name(run.name)
    refused = False
    try:
        try:
            made = await api.create("jobs", job)
        except ApiError as error:
            refused = not is_unclear(error)
            raise _cannot_run(error, api) from error
        await _start(api, run, made, submission)
        write(f"the workflow runs as Job {name} in namespace {api.namespace}")
        return await _Follower(api, run, write, options.startup_timeout).follow()
    except asyncio.CancelledError:  # by Ctrl-C
        write(f"ending Job {name}, which removes its cluster")
        raise
    finally:
        if not refused:  # else there is nothing to remove, and that might be refused as well
            await asyncio.shield(asyncio.ensure_future(_remove(api, run)))


async def _start(
    api: KubernetesApi, run: Run, job: Mapping[str, Any], submission: Submission
) -> None:
    """Create the Secret that the Job's pod needs, which goes with the Job, and let the Job start."""
    owner = {
        "apiVersion": _BATCH,
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }
    try:
        await api.create("secrets", workflow_secret(run, submission, owner))
        await api.patch("jobs", owner["name"], RESUMED)
    except ApiError as error:
        raise _cannot_run(error, api) from error


def _cannot_run(error: ApiError, api: KubernetesApi) -> SessionError:
    problem = explain_refusal(error, api.namespace)
    return SessionError(f"the workflow cannot run inside the cluster: {problem}")


async def _remove(api: KubernetesApi, run: Run) -> None:
    """Remove the Job, and wait for the end of its pod: until then, it removes its cluster."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REMOVAL_TIMEOUT
    name = workflow_name(run.name)
    await api.settle()
    while True:
        try:
            await api.delete("jobs", name)
            await api.delete("secrets", name)  # which Kubernetes would do, at some time
            pods = await api.list("pods", selector({RUN: run.name}))
            if all(map(has_ended, pods)):
                return
        except ApiUnreachableError:
            pass  # asked again
        except ApiError as error:
            if not is_transient(error):
                problem = explain_refusal(error, api.namespace)
                raise SessionError(
                    f"Job {name} may be left: {problem}; remove it by `kubectl delete job {name}`"
                ) from error
        if loop.time() > deadline:
            raise SessionError(
                f"Job {name} does not end, not within {_REMOVAL_TIMEOUT:g} s; "
                f"`scalable reap {run.name}` removes it later"
            )
        await asyncio.sleep(_POLL)


class _Follower:
    """Follows the pod of a workflow until it has ended, across broken connections.

    A pod that has a place on a node keeps others from it, so that the time until it starts is limited.
    """

    def __init__(
        self, api: KubernetesApi, run: Run, write: Callable[[str], object], start_timeout: float
    ) -> None:
        self._api, self._run, self._write = api, run, write
        self._start_timeout = start_timeout
        self._placed_at: float | None = None
        self._pulling_since: float | None = None
        self._said = ""
        self._last = ""
        """The time of the last line of the log that was written."""

    async def follow(self) -> int:
        """Write the log, and return the exit status."""
        while True:
            try:
                status = await self._turn()
                if status is not None:
                    return status
            except ApiUnreachableError as error:
                self._say(f"{error}; the workflow goes on, and its output is shown later")
            except ApiError as error:
                # Whoever has to log in again must not lose what runs meanwhile.
                if not (is_transient(error) or is_expired(error)):
                    problem = explain_refusal(error, self._api.namespace)
                    raise SessionError(f"the workflow cannot be followed: {problem}") from error
                self._say(f"{error}; the workflow goes on, and its output is shown later")
            await asyncio.sleep(_POLL)

    async def _turn(self) -> int | None:
        """Write what there is; return the exit status once the pod has ended."""
        pod = first_pod(await self._api.list("pods", selector({RUN: self._run.name})))
        if pod is None:
            await self._raise_if_removed()
            return None
        state, name = pod_state(pod, CONTAINER), pod["metadata"]["name"]
        ended = _ended(pod)
        if ended is not None or (state.phase is Phase.RUNNING and not state.waiting):
            await self._write_log(name)
        if ended is not None:
            if ended.get("reason") not in (None, "Completed", "Error"):
                self._write(f"the workflow has ended: {state.detail}")
            return int(ended["exitCode"])
        if state.phase is Phase.GONE:
            raise SessionError(f"the workflow has not run, or not to its end: {state.detail}")
        if state.phase is Phase.PENDING or state.waiting:
            await self._report_wait(pod, state)
        return None

    async def _report_wait(self, pod: Mapping[str, Any], state: PodState) -> None:
        """Print what the pod waits for.

        Raises
        ------
        SessionError
            It has waited on its node for too long.
        """
        detail, now = state.detail, asyncio.get_running_loop().time()
        self._pulling_since = (self._pulling_since or now) if state.waiting in PULLING else None
        if state.node:
            self._placed_at = self._placed_at or now
            placed = now - self._placed_at
            pulls_in_vain = self._pulling_since and now - self._pulling_since > _PULL_PATIENCE
            if state.waiting == CREATING and placed > _CREATION_PATIENCE:
                detail = await self._mount_failure(pod) or detail
            if pulls_in_vain or placed > self._start_timeout:
                message = (
                    f"the workflow has not started within {placed:.0f} s on its node: {detail}"
                )
                raise SessionError(message)
        self._say(f"the workflow waits: {detail}")

    async def _mount_failure(self, pod: Mapping[str, Any]) -> str:
        only = "involvedObject.kind=Pod,type=Warning"
        with contextlib.suppress(ApiError):  # a Role may not allow it
            return mount_failure(await self._api.list("events", fieldSelector=only), pod)
        return ""

    async def _raise_if_removed(self) -> None:
        name = workflow_name(self._run.name)
        try:
            job = await self._api.get("jobs", name)
        except ApiError as error:
            if error.code == 404:
                raise SessionError(f"Job {name} was removed by somebody else") from error
            raise
        for condition in job.get("status", {}).get("conditions", []):
            if condition["type"] == "Failed" and condition["status"] == "True":
                why = condition.get("message", condition.get("reason", ""))
                raise SessionError(f"Job {name} has failed: {why}")

    async def _write_log(self, pod: str) -> None:
        """Write the lines of the log that have not been written, until it ends or the connection breaks."""
        written = _moment(self._last)
        try:
            async for line in self._api.follow_log(pod, CONTAINER, since=self._last):
                time, _, text = line.partition(" ")
                if _moment(time) > written:
                    self._last = time
                    self._write(text)
        except ApiError as error:  # such as of a node that has gone
            self._say(f"the log of pod {pod} cannot be read: {error}")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._write(text)


def _moment(time: str) -> str:
    """Return the time of a line as text that can be compared: some kubelets leave out zeros at its end.

    Examples
    --------
    >>> _moment("2026-11-28T14:00:00.12Z") < _moment("2026-11-28T14:00:00.123Z")
    True
    """
    return time.rstrip("Z").ljust(30, "0") if time else ""


def _ended(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how the container of the workflow has ended."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        if container["name"] == CONTAINER:
            ended: Mapping[str, Any] | None = container["state"].get("terminated")
            return ended
    return None
