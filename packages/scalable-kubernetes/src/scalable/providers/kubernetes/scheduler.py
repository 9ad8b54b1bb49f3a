"""The scheduler as a DaskCluster of the operator."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from scalable.cluster.host import SchedulerState
from scalable.cluster.port import Explanation, Leftover, Phase, Reason
from scalable.errors import SchedulerStartError
from scalable.providers.kubernetes.api import ApiError, ApiUnreachableError, KubernetesApi
from scalable.providers.kubernetes.forward import Forwarder
from scalable.providers.kubernetes.names import (
    DASK_COMPONENT,
    RUN,
    scheduler_name,
    secret_name,
    selector,
)
from scalable.providers.kubernetes.objects import PORT, Run, keys_secret, owner_reference
from scalable.providers.kubernetes.pods import (
    PULLING,
    PodState,
    first_pod,
    operator_complaint,
    pod_state,
    replica_failure,
)
from scalable.providers.kubernetes.refusals import explain_refusal, is_transient, is_unclear
from scalable.providers.kubernetes.removal import remove_run

if TYPE_CHECKING:
    from scalable.providers.kubernetes.forward import Stream
    from scalable.providers.tls import Credentials

__all__ = ["KubernetesScheduler"]

OPERATOR_PATIENCE = 15.0
"""Seconds without an action of the operator after which it is mentioned; it usually acts within one."""

PULL_PATIENCE = 30.0
"""Seconds for which the kubelet may try to pull an image in vain."""

FORBIDDEN = (401, 403)
"""Answers of an API server that does not allow a request."""

_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the attempts to create an object."""

_CONNECT_TIMEOUT = 3.0
"""Seconds in which a service is reached directly by whoever is in the cluster."""


class KubernetesScheduler:
    """A `RemoteScheduler` in a pod, which is reached through a forwarded port, or directly from inside the cluster.

    Parameters
    ----------
    api : KubernetesApi
        The API server; opened by `start`, and closed by `remove`.
    run : Run
        The run.
    cluster : mapping
        The DaskCluster to create.
    credentials : Credentials
        The run's keys.
    close_timeout : float
        Seconds for the removal.
    """

    def __init__(
        self,
        api: KubernetesApi,
        run: Run,
        cluster: Mapping[str, Any],
        credentials: Credentials,
        *,
        close_timeout: float,
    ) -> None:
        self.owner: dict[str, Any] | None = None
        self._api = api
        self._run = run
        self._cluster = cluster
        self._credentials = credentials
        self._close_timeout = close_timeout
        self._forwarder: Forwarder | None = None
        self._port = 0
        self._requested_at = 0.0
        self._may_exist = False
        self._was_reached = False
        self._pulling_since: float | None = None
        self._pod: Mapping[str, Any] | None = None
        """The first pod that was seen. Another one is another scheduler."""

    # -- Start

    async def start(self) -> None:
        """Create the Secret with the run's keys, and the DaskCluster.

        The Secret is first: a scheduler without it would wait for it on its node, which the operator does not notice.
        """
        await self._api.open()
        self._requested_at = _now()
        try:
            await self._create("secrets", keys_secret(self._run, self._credentials, None))
            made = await self._create("daskclusters", self._cluster)
            made = made or await self._api.get("daskclusters", self._run.name)
            self.owner = owner_reference(made)
            await self._let_keys_go_with_cluster(self.owner)
        except ApiError as error:
            problem = explain_refusal(error, self._api.namespace)
            raise SchedulerStartError(self._run.name, problem) from error
        except ApiUnreachableError as error:
            problem = Explanation(Reason.NETWORK, str(error))
            raise SchedulerStartError(self._run.name, problem) from error

    async def _create(self, kind: str, made: Mapping[str, Any]) -> dict[str, Any] | None:
        """Create an object; a server that is busy or in trouble is asked again. Return it, or None if it is there."""
        before, unclear = self._may_exist, False
        pauses = iter(_PAUSES)
        while True:
            self._may_exist = True
            try:
                return await self._api.create(kind, made)
            except ApiError as error:
                if error.code == 409 and unclear:
                    return None
                unclear = unclear or is_unclear(error)
                self._may_exist = before or unclear
                pause = next(pauses, None)
                if pause is None or not is_transient(error):
                    raise
            except ApiUnreachableError as error:
                self._may_exist = before or unclear or error.was_sent
                raise
            await asyncio.sleep(pause)

    async def _let_keys_go_with_cluster(self, owner: Mapping[str, Any]) -> None:
        change = {"metadata": {"ownerReferences": [owner]}}
        for pause in (*_PAUSES, None):
            try:
                await self._api.patch("secrets", secret_name(self._run.name), change)
            except ApiError as error:
                if error.code == 403:
                    return  # a Role without this verb: what a client leaves that is killed has to be reaped
                if pause is None or not is_transient(error):
                    raise
                await asyncio.sleep(pause)
            else:
                return

    async def connect(self) -> str:
        """Return the address of the scheduler, directly or through a port that is forwarded to its pod."""
        direct = f"{scheduler_name(self._run.name)}.{self._api.namespace}.svc"
        if "KUBERNETES_SERVICE_HOST" in os.environ and await _reaches(direct, PORT):
            self._was_reached = True
            return f"tls://{direct}:{PORT}"
        if self._forwarder is None:
            api = self._api.for_another_loop()
            self._forwarder = Forwarder(
                f"{self._run.name}/forward", lambda: self._stream(api), api.close
            )
            self._port = await self._forwarder.start()
        return f"tls://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def _stream(self, api: KubernetesApi) -> AsyncIterator[Stream]:
        if self._pod is None:
            raise ConnectionError("the scheduler's pod is not known")
        await api.open()
        async with api.stream(self._pod["metadata"]["name"], PORT) as stream:
            self._was_reached = True
            yield stream

    # -- State

    async def state(self) -> SchedulerState:
        """Return the state of the scheduler's pod, or why there is none."""
        refusal = None if self._was_reached else self._refusal_to_connect()
        if refusal is None:
            try:
                return await self._state()
            except ApiError as error:
                if self._was_reached or error.code not in FORBIDDEN:
                    raise
                refusal = error
        return SchedulerState(Phase.GONE, explain_refusal(refusal, self._api.namespace))

    def _refusal_to_connect(self) -> ApiError | None:
        """Return why no port may be forwarded, if that is so."""
        error = self._forwarder and self._forwarder.last_error
        return error if isinstance(error, ApiError) and error.code in FORBIDDEN else None

    async def _state(self) -> SchedulerState:
        mine = selector({RUN: self._run.name, DASK_COMPONENT: "scheduler"})
        pod = first_pod(await self._api.list("pods", mine))
        if self._pod is None:
            self._pod = pod
        if self._pod is None:
            return await self._state_without_pod(mine)
        name = self._pod["metadata"]["name"]
        if pod is None or pod["metadata"]["uid"] != self._pod["metadata"]["uid"]:
            return _gone(Reason.CANCELLED, f"its pod {name} was deleted")
        state = pod_state(pod, "scheduler")
        if state.phase is Phase.GONE:
            log = await self._api.first_log(name, "scheduler")
            return _gone(state.reason, state.detail, log)
        if self._pulls_in_vain(state):
            return _gone(Reason.IMAGE, state.detail)
        if state.ready:
            return SchedulerState(
                Phase.RUNNING, Explanation(Reason.STARTING, f"its pod runs {state.detail}")
            )
        return SchedulerState(Phase.PENDING, Explanation(state.reason, state.detail))

    def _pulls_in_vain(self, state: PodState) -> bool:
        # While the kubelet tries again, it says that it creates the container.
        if state.waiting not in PULLING:
            return False
        if self._pulling_since is None:
            self._pulling_since = _now()
        return _now() - self._pulling_since > PULL_PATIENCE

    async def _state_without_pod(self, mine: str) -> SchedulerState:
        try:
            cluster = await self._api.get("daskclusters", self._run.name)
        except ApiError as error:
            if error.code == 404:
                return _gone(Reason.CANCELLED, "its DaskCluster was deleted")
            raise
        deployments = await self._api.list("deployments", mine)
        for deployment in deployments:
            failure = replica_failure(deployment)
            if failure:
                return SchedulerState(Phase.PENDING, Explanation(*failure))
        said = operator_complaint(cluster)
        if said:
            problem = Explanation(Reason.REFUSED, f"the Dask operator could not start it: {said}")
            return SchedulerState(Phase.PENDING, problem)
        phase = cluster.get("status", {}).get("phase")
        if not deployments and _now() - self._requested_at > OPERATOR_PATIENCE:
            summary = (
                f"the Dask operator has not acted for {OPERATOR_PATIENCE:g} s; "
                "is it running, and does it watch this namespace?"
            )
            if phase:
                summary = (
                    f"the Dask operator has made no scheduler for {OPERATOR_PATIENCE:g} s, "
                    f"although the phase of the DaskCluster is {phase}; its log may say why"
                )
            return SchedulerState(Phase.PENDING, Explanation(Reason.NETWORK, summary))
        text = "its Deployment has no pod yet" if deployments else "it has no Deployment yet"
        return SchedulerState(Phase.PENDING, Explanation(Reason.STARTING, text))

    # -- End

    async def stop(self) -> Sequence[Leftover]:
        """Remove the DaskCluster, and with it all that belongs to the run."""
        if self._forwarder is not None:
            self._forwarder.stop()
        if not self._may_exist:
            return []
        await self._api.settle()
        with suppress(ApiError, ApiUnreachableError):  # also where nothing may be listed
            await self._api.delete("daskclusters", self._run.name)
        return await remove_run(self._api, self._run.name, self._close_timeout)

    async def remove(self) -> Sequence[Leftover]:
        """Close the connections to the API server."""
        await self._api.close()
        return []


def _gone(reason: Reason, summary: str, log: str = "") -> SchedulerState:
    return SchedulerState(Phase.GONE, Explanation(reason, summary, log_tail=log))


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _reaches(host: str, port: int) -> bool:
    """Return whether something listens there."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
