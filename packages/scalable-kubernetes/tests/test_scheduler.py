"""The scheduler of a run on a server that keeps objects as Kubernetes does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, serving, write_kubeconfig

from scalable.cluster.port import Phase, Reason
from scalable.errors import SchedulerStartError
from scalable.providers.kubernetes import KubernetesProvider, removal, scheduler
from scalable.providers.kubernetes.api import KubernetesApi
from scalable.providers.kubernetes.objects import Run, dask_cluster
from scalable.providers.kubernetes.scheduler import KubernetesScheduler
from scalable.providers.tls import make_credentials
from scalable.testing.offline import spec_of

RUN = Run("here-123456", "me")
MINE = {"scalable/run": RUN.name, "dask.org/component": "scheduler"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving(tmp_path) as (server, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


def drive(use: Callable[[KubernetesScheduler], Awaitable[None]]) -> None:
    options = KubernetesProvider().parse_options(spec_of("kubernetes"))

    async def main() -> None:
        made = KubernetesScheduler(
            KubernetesApi(None, "models"),
            RUN,
            dask_cluster(RUN, "image", options),
            make_credentials(),
            close_timeout=5,
        )
        try:
            await use(made)
        finally:
            await made.remove()

    asyncio.run(main())


def add_pod(server: ApiServer, name: str, **status: Any) -> None:
    spec = {"containers": [{"name": "scheduler"}], "nodeName": "node"}
    metadata = {"name": name, "labels": MINE}
    server.put("pods", {"metadata": metadata, "spec": spec, "status": status})


def container(state: dict[str, Any], *, ready: bool = False) -> list[dict[str, Any]]:
    return [{"name": "scheduler", "ready": ready, "state": state}]


def test_the_keys_of_a_run_go_with_its_cluster(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        (cluster,) = server.of_kind("daskclusters").values()
        (secret,) = server.of_kind("secrets").values()
        (owner,) = secret["metadata"]["ownerReferences"]
        assert owner["uid"] == cluster["metadata"]["uid"]
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


def test_a_client_that_is_killed_at_any_step_leaves_no_scheduler_that_waits_for_keys(
    server: ApiServer,
) -> None:
    original, steps = server.answer, []

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        answered = original(method, path, body)
        steps.append((method, [*server.of_kind("daskclusters")], [*server.of_kind("secrets")]))
        return answered

    async def use(scheduler: KubernetesScheduler) -> None:
        server.answer = answer  # type: ignore[method-assign]
        await scheduler.start()
        for _, clusters, secrets in steps:
            assert len(clusters) <= len(secrets)
        assert [method for method, _, _ in steps] == ["POST", "POST", "PATCH"]
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


def test_keys_that_may_not_be_changed_are_removed_at_the_end_all_the_same(
    server: ApiServer,
) -> None:
    original = server.answer

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "PATCH":
            return 403, {"message": 'secrets is forbidden: cannot patch resource "secrets"'}
        return original(method, path, body)

    async def use(scheduler: KubernetesScheduler) -> None:
        server.answer = answer  # type: ignore[method-assign]
        await scheduler.start()
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


def test_without_the_operator_a_start_leaves_nothing(server: ApiServer) -> None:
    original = server.answer

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if "kubernetes.dask.org" in path:
            return 404, "404 page not found"
        return original(method, path, body)

    async def use(scheduler: KubernetesScheduler) -> None:
        server.answer = answer  # type: ignore[method-assign]
        with pytest.raises(SchedulerStartError, match="helm install"):
            await scheduler.start()
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


def test_a_start_that_is_refused_leaves_nothing(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        server.refusals = [(404, "404 page not found")]
        with pytest.raises(SchedulerStartError, match="helm install"):
            await scheduler.start()
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


def test_a_start_that_is_refused_in_its_middle_leaves_nothing(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        create = server._create

        def refuse(kind: str, made: dict[str, Any]) -> tuple[int, Any]:
            return (403, {"message": "no"}) if kind == "secrets" else create(kind, made)

        server._create = refuse  # type: ignore[method-assign]
        with pytest.raises(SchedulerStartError, match="no"):
            await scheduler.start()
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


LATE = (504, "the server was unable to return a response in the time allotted")
BUSY = (429, "too many requests")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_PAUSES", (0.01, 0.01))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("answers", [[LATE], [LATE, LATE]], ids=["keys", "keys and cluster"])
def test_a_start_goes_on_where_the_server_has_done_what_it_says_it_has_not(
    server: ApiServer, answers: list[tuple[int, str]]
) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        server.late_refusals = [*answers]
        await scheduler.start()
        (cluster,) = server.of_kind("daskclusters").values()
        assert scheduler.owner is not None
        assert scheduler.owner["uid"] == cluster["metadata"]["uid"]
        assert len(server.of_kind("secrets")) == 1
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


@pytest.mark.usefixtures("_quick")
def test_a_start_waits_for_a_server_that_is_busy(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        server.refusals = [BUSY, BUSY]
        await scheduler.start()
        assert await scheduler.stop() == []

    drive(use)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("later", [LATE, (403, "no")], ids=["in trouble", "refused"])
@pytest.mark.parametrize("kind", ["secrets", "daskclusters"])
def test_what_was_made_although_the_server_answers_with_errors_is_removed(
    server: ApiServer, kind: str, later: tuple[int, str]
) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        original = server.answer

        def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
            if method != "POST" or not path.endswith(f"/{kind}"):
                return original(method, path, body)
            code, message = later if server.of_kind(kind) else LATE
            original(method, path, body)
            return code, {"message": message}

        server.answer = answer  # type: ignore[method-assign]
        with pytest.raises(SchedulerStartError, match=later[1]):
            await scheduler.start()
        assert server.of_kind(kind)
        assert await scheduler.stop() == []
        assert server.objects == {}

    drive(use)


def test_a_server_that_is_not_reached_at_all_has_nothing_to_be_removed(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kubeconfig(tmp_path / "nowhere", "http://127.0.0.1:9")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))

    async def use(scheduler: KubernetesScheduler) -> None:
        with pytest.raises(SchedulerStartError, match=r"http://127\.0\.0\.1:9 does not answer"):
            await scheduler.start()
        assert await scheduler.stop() == []  # which would wait for it

    drive(use)


def test_from_its_pod_to_its_end(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        assert (await scheduler.state()).phase is Phase.PENDING
        add_pod(server, "p", containerStatuses=container({"running": {}}))
        assert (await scheduler.state()).phase is Phase.PENDING
        server.change(
            "pods", "p", status={"containerStatuses": container({"running": {}}, ready=True)}
        )
        assert (await scheduler.state()).phase is Phase.RUNNING
        # Its Deployment replaces it. That is another scheduler, which knows nothing of the run.
        server.delete("pods", "p")
        add_pod(server, "q", containerStatuses=container({"running": {}}, ready=True))
        state = await scheduler.state()
        assert state.phase is Phase.GONE
        assert "its pod p was deleted" in state.explanation.summary

    drive(use)


def test_its_end_has_the_words_of_kubernetes_and_its_log(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
        add_pod(server, "p", containerStatuses=container(ended))
        state = await scheduler.state()
        assert state.explanation.reason is Reason.OUT_OF_MEMORY
        assert "the log of p" in state.explanation.log_tail

    drive(use)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("", "is it running, and does it watch"),
        ("Created", "the phase of the DaskCluster is Created"),
    ],
)
def test_an_operator_that_does_nothing_is_named(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, phase: str, words: str
) -> None:
    monkeypatch.setattr(scheduler, "OPERATOR_PATIENCE", 0.05)

    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        if phase:
            server.change("daskclusters", RUN.name, status={"phase": phase})
        await asyncio.sleep(0.1)
        state = await scheduler.state()
        assert (state.phase, state.explanation.reason) == (Phase.PENDING, Reason.NETWORK)
        assert words in state.explanation.summary

    drive(use)


def test_a_cluster_that_somebody_deletes_is_gone(server: ApiServer) -> None:
    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        server.delete("daskclusters", RUN.name)
        state = await scheduler.state()
        assert (state.phase, state.explanation.reason) == (Phase.GONE, Reason.CANCELLED)

    drive(use)


def test_what_may_be_listed_is_removed_although_other_kinds_may_not(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_OPERATOR_PATIENCE", 0.5)

    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        server.has_operator = False  # who would take its finalizer from the DaskCluster
        server.unlisted = {"pods"}
        (left,) = await scheduler.stop()
        assert "pods is forbidden" in left.error
        assert "scalable reap" in left.error

    drive(use)
    assert server.objects == {}


def test_what_may_not_be_deleted_keeps_nothing_else(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_OPERATOR_PATIENCE", 0.5)

    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        labels = {"scalable/run": RUN.name}
        for name in ("s", "t"):
            server.put("services", {"metadata": {"name": name, "labels": labels}})
        server.put("deployments", {"metadata": {"name": "d", "labels": labels}})
        server.undeletable = {"services"}
        for left in (found := await scheduler.stop()):
            assert "services is forbidden" in left.error
        assert sorted(left.name for left in found) == ["s", "t"]

    drive(use)
    assert {kind for kind, _ in server.objects} == {"services"}


def test_an_owner_removes_what_may_not_be_deleted(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_OPERATOR_PATIENCE", 0.5)

    async def use(scheduler: KubernetesScheduler) -> None:
        await scheduler.start()
        server.has_operator = False  # so that the DaskCluster stays for a while
        assert scheduler.owner is not None
        labels = {"scalable/run": RUN.name}
        owned = {"name": "s", "labels": labels, "ownerReferences": [scheduler.owner]}
        server.put("services", {"metadata": owned})
        server.undeletable = {"services"}
        assert await scheduler.stop() == []

    drive(use)
    assert server.objects == {}
