"""The engine's port on a server that keeps objects as Kubernetes does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, serving

from scalable.cluster.port import GroupSpec, Phase, Reason
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.kubernetes import KubernetesProvider, backend, removal
from scalable.providers.kubernetes.api import ApiError, KubernetesApi
from scalable.providers.kubernetes.backend import KubernetesBackend
from scalable.providers.kubernetes.objects import Run, dask_cluster
from scalable.providers.kubernetes.removal import remove_run
from scalable.providers.kubernetes.request import worker_request
from scalable.testing.offline import spec_of

RUN = Run("here-123456", "me")
GCAM = GroupSpec("gcam")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving(tmp_path) as (server, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


def drive(use: Callable[[KubernetesBackend], Awaitable[None]], options: str = "") -> None:
    """Use a backend, on an event loop of its own."""
    spec = spec_of("kubernetes", options, "gcam: {}\nplots: {}")
    parsed = KubernetesProvider().parse_options(spec)
    requests = {
        tag: worker_request(component, parsed, "image")
        for tag, component in spec.components.items()
    }

    async def main() -> None:
        api = KubernetesApi(None, "models")
        await api.open()
        try:
            await use(KubernetesBackend(api, RUN, requests, None, close_timeout=5, log_bytes=1000))
        finally:
            await api.close()

    asyncio.run(main())


def test_a_launch_is_one_object_and_asking_twice_makes_nothing(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        result = await backend.launch(GCAM, 3, "a")
        assert [unit.request_id for unit in result.units] == ["a"] * 3
        assert await backend.launch(GCAM, 3, "a") == result
        assert server.requests.count(("POST", "daskworkergroups")) == 1
        states = await backend.observe()
        assert {unit.id for unit in result.units} == {*states} == {*server.of_kind("deployments")}
        assert {state.phase for state in states.values()} == {Phase.RUNNING}

    drive(use)


def test_a_launch_whose_object_exists_already_is_the_same(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        made = await backend.launch(GCAM, 2, "a")
        backend._launched.clear()  # as if its answer had been lost
        assert {u.id for u in (await backend.launch(GCAM, 2, "a")).units} == {
            u.id for u in made.units
        }
        assert len(server.of_kind("deployments")) == 2

    drive(use)


LATE = (504, "the server was unable to return a response in the time allotted")


def test_an_error_of_the_server_does_not_say_that_nothing_was_made(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        server.late_refusals = [LATE]
        with pytest.raises(ApiError) as error:
            await backend.launch(GCAM, 2, "a")
        assert error.value.code == 504
        # Nor does what it refuses before it looks for the name.
        server.refusals = [(429, "too many requests"), (403, "forbidden")]
        for _ in range(2):
            with pytest.raises(ApiError):
                await backend.launch(GCAM, 2, "a")
        assert len((await backend.launch(GCAM, 2, "a")).units) == 2
        assert len(server.of_kind("daskworkergroups")) == 1
        assert len(server.of_kind("deployments")) == 2

    drive(use)


def test_a_login_that_has_expired_fails_no_group_for_good(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        server.refusals = [(401, "Unauthorized")] * 2
        with pytest.raises(LaunchError, match="log in again") as refused:
            await backend.launch(GCAM, 2, "a")
        assert not isinstance(refused.value, LaunchRefusedError)
        server.refusals = [(403, "you may not")]
        with pytest.raises(LaunchRefusedError, match="you may not"):
            await backend.launch(GCAM, 2, "b")

    drive(use)


def test_the_part_of_a_launch_that_a_quota_allows_is_kept(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        server.room = 2
        result = await backend.launch(GCAM, 5, "a")
        assert len(result.units) == 2
        assert result.shortfall is not None
        assert result.shortfall.reason is Reason.QUOTA
        assert "exceeded quota: few" in result.shortfall.summary
        # The operator tries again, when there is room.
        server.room = None
        (group,) = server.of_kind("daskworkergroups").values()
        server.act_on(group)
        assert len(server.of_kind("deployments")) == 2

    drive(use)


def test_a_launch_without_any_room_is_undone_and_may_succeed_later(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        server.room = 0
        with pytest.raises(LaunchError, match="exceeded quota: few") as refused:
            await backend.launch(GCAM, 2, "a")
        assert not isinstance(refused.value, LaunchRefusedError)
        assert server.objects == {}
        server.room = None
        assert len((await backend.launch(GCAM, 2, "b")).units) == 2

    drive(use)


def test_what_the_operator_replaces_in_a_part_of_a_launch_is_removed(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        server.room = 2
        first, second = (await backend.launch(GCAM, 3, "a")).units
        await backend.stop([first])
        server.room = None
        (group,) = server.of_kind("daskworkergroups").values()
        server.act_on(group)  # it lacks the one that was stopped
        assert len(server.of_kind("deployments")) == 2
        states = await backend.observe()
        assert second.id in states
        assert {*server.of_kind("deployments")} == {second.id}
        assert {*states} <= {first.id, second.id}

    drive(use)


def test_an_operator_that_works_in_batches_is_waited_for(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        server.room = 1
        launching = asyncio.ensure_future(backend.launch(GCAM, 2, "a"))
        server.has_operator = True
        said = '{"message": "Added maximum number of workers for this batch but still need more"}'
        while not server.of_kind("daskworkergroups"):
            await asyncio.sleep(0.01)
        (group,) = server.of_kind("daskworkergroups").values()
        group["metadata"]["annotations"] = {"kopf.zalando.org/daskworkergroup_create": said}
        await asyncio.sleep(0.3)
        server.room = None
        server.act_on(group)
        assert len((await launching).units) == 2

    drive(use)


def test_an_operator_that_does_nothing_is_named(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "OPERATOR_PATIENCE", 0.3)

    async def use(backend: KubernetesBackend) -> None:
        server.has_operator = False
        with pytest.raises(LaunchError, match="operator has not acted"):
            await backend.launch(GCAM, 2, "a")
        assert server.objects == {}

    drive(use)


def test_the_first_pod_of_a_worker_is_the_worker(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        (unit,) = (await backend.launch(GCAM, 1, "a")).units
        await backend.observe()
        (pod,) = server.of_kind("pods")
        (deployment,) = server.of_kind("deployments").values()
        server.delete("pods", pod)
        server.add_pod(deployment)
        state = (await backend.observe())[unit.id]
        assert (state.phase, state.reason) == (Phase.GONE, Reason.CANCELLED)
        assert pod in state.detail
        assert server.objects == {}  # with its replacement, and the group that has no others
        assert (await backend.describe(unit)).reason is Reason.CANCELLED

    drive(use)


def test_a_worker_that_has_ended_has_its_reason_and_its_log(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        one, other = (await backend.launch(GCAM, 2, "a")).units
        pod = next(name for name in server.of_kind("pods") if name.startswith(one.id))
        ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
        status = {"name": "worker", "ready": False, "state": ended}
        server.change("pods", pod, status={"phase": "Running", "containerStatuses": [status]})
        states = await backend.observe()
        assert states[one.id].reason is Reason.OUT_OF_MEMORY
        assert states[other.id].phase is Phase.RUNNING
        assert f"the log of {pod}" in (await backend.describe(one)).log_tail
        # It was read before the pod went, and is told once.
        assert f"the log of {pod}" in await backend.read_log(one, 1000)
        assert await backend.read_log(one, 1000) == ""
        assert "the log of" in await backend.read_log(other, 1000)
        assert {*server.of_kind("deployments")} == {other.id}
        assert len(server.of_kind("daskworkergroups")) == 1

    drive(use)


def test_why_a_queue_has_not_admitted_a_worker(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        (unit,) = (await backend.launch(GCAM, 1, "a")).units
        ((name, pod),) = server.of_kind("pods").items()
        del pod["spec"]["nodeName"]
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
        server.change("pods", name, status={"phase": "Pending", "conditions": [gated]})
        pending = {"type": "QuotaReserved", "status": "False", "reason": "Pending"}
        owner = {"uid": pod["metadata"]["uid"]}
        workload: dict[str, Any] = {
            "metadata": {"name": "pod-1", "ownerReferences": [owner]},
            "status": {"conditions": [{**pending, "message": "insufficient quota for cpu"}]},
        }
        server.put("workloads", workload)
        state = (await backend.observe())[unit.id]
        assert (state.phase, state.reason) == (Phase.PENDING, Reason.QUOTA)
        assert state.detail == "Kueue: Pending: insufficient quota for cpu"

    drive(use, "queue: main")


def test_after_the_sweep_nothing_is_launched(server: ApiServer) -> None:
    async def use(backend: KubernetesBackend) -> None:
        await backend.launch(GCAM, 2, "a")
        assert await backend.sweep() == []
        assert server.objects == {}
        with pytest.raises(LaunchRefusedError, match="closed"):
            await backend.launch(GCAM, 1, "b")
        assert server.objects == {}

    drive(use)


@pytest.mark.parametrize("has_operator", [True, False])
def test_a_run_is_removed_whether_or_not_there_is_an_operator(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, has_operator: bool
) -> None:
    monkeypatch.setattr(removal, "_OPERATOR_PATIENCE", 0.2)

    async def main() -> None:
        api = KubernetesApi(None, "models")
        await api.open()
        options = KubernetesProvider().parse_options(spec_of("kubernetes"))
        await api.create("daskclusters", dask_cluster(RUN, "image", options))
        await api.create("daskclusters", dask_cluster(Run("other-1", "me"), "image", options))
        server.has_operator = has_operator
        assert await remove_run(api, RUN.name, 10) == []
        await api.close()

    asyncio.run(main())
    assert {*server.of_kind("daskclusters")} == {"other-1"}


def test_what_cannot_be_removed_in_time_is_named(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        api = KubernetesApi(None, "models")
        await api.open()
        options = KubernetesProvider().parse_options(spec_of("kubernetes"))
        await api.create("daskclusters", dask_cluster(RUN, "image", options))
        server.has_operator = False
        (left,) = await remove_run(api, RUN.name, 0.3)
        await api.close()
        assert (left.kind, left.name) == ("DaskCluster", RUN.name)
        assert f"scalable reap {RUN.name}" in left.error

    asyncio.run(main())
