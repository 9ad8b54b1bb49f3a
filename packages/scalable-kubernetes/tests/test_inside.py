"""Workflows inside the cluster: their objects, and how they are followed."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, serving

from scalable.errors import SessionError
from scalable.providers.base import Submission
from scalable.providers.kubernetes import KubernetesProvider, inside
from scalable.providers.kubernetes.objects import Run
from scalable.providers.kubernetes.workflow import workflow_job, workflow_secret
from scalable.testing.offline import spec_of

RUN = Run("here-123456", "me")
FILES = {"scalable.yaml": b"{}", "workflow.py": b"print(1)", "models/a.py": b"A = 1"}
SUBMISSION = Submission(FILES, ["run", "scalable.yaml", "--", "$HOME"], {"TOKEN": "s3cret"})
OPTIONS = """
namespace: models
workflow: {image: "ensemble:1", cpu: 500m, memory: 1Gi, service_account: me, mounts: {"pvc:results": /results}}
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serving(tmp_path) as (server, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr(inside, "_POLL", 0.05)
        yield server


def job_of(options: str = OPTIONS) -> dict[str, Any]:
    parsed = KubernetesProvider().parse_options(spec_of("kubernetes", options))
    return workflow_job(RUN, SUBMISSION, "ensemble:1", parsed)


def test_a_workflow_runs_once_with_its_account_and_its_mounts() -> None:
    job = job_of()
    assert job["spec"]["backoffLimit"] == 0
    pod = job["spec"]["template"]["spec"]
    assert (pod["restartPolicy"], pod["serviceAccountName"]) == ("Never", "me")
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == {"cpu": "500m", "memory": str(2**30)}
    assert {"name": "mount-0", "mountPath": "/results"} in container["volumeMounts"]
    assert container["args"] == ["run", "scalable.yaml", "--", "$$HOME"]
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels["scalable/run"] == RUN.name


def test_what_comes_from_the_environment_is_in_the_secret_alone() -> None:
    assert "s3cret" not in str(job_of())
    assert "s3cret" not in repr(SUBMISSION)
    (container,) = job_of()["spec"]["template"]["spec"]["containers"]
    (key,) = (e["valueFrom"]["secretKeyRef"] for e in container["env"] if e["name"] == "TOKEN")
    secret = workflow_secret(RUN, SUBMISSION, {"uid": "u"})
    assert key["name"] == secret["metadata"]["name"]
    assert base64.b64decode(secret["data"][key["key"]]) == b"s3cret"
    packed = base64.b64decode(secret["data"]["files.zip"])
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == FILES


def test_modules_that_no_secret_can_have() -> None:
    large = Submission({"a.py": bytes(range(256)) * 10, "b.py": _noise(800_000)}, ["run"])
    with pytest.raises(SessionError, match="build them into the image"):
        workflow_secret(RUN, large, {"uid": "u"})


def _noise(n: int) -> bytes:
    import random

    return random.Random(1).randbytes(n)


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("workflow: {mounts: {'gs:a': /a}}", 'workflow.mounts."gs:a"', "pvc:CLAIM"),
        ("workflow: {mounts: {'pvc:a': a}}", 'workflow.mounts."pvc:a"', "an absolute path"),
        ("workflow: {cpu: lots}", "workflow.cpu", "an amount of CPU"),
        ("workflow: {service_account: a_b}", "workflow.service_account", "must be a name"),
        ("workflow: {img: a}", "workflow.img", "unknown key"),
    ],
)
def test_bad_options(option: str, path: str, message: str) -> None:
    (issue,) = KubernetesProvider().validate(spec_of("kubernetes", option)).errors
    assert message in issue.message
    assert (issue.path, issue.line) == (f"targets.here.{path}", 6)


# -- Followed from its start to its end


def run_inside(server: ApiServer, written: list[str]) -> int:
    spec = spec_of("kubernetes", OPTIONS)
    return KubernetesProvider().run_inside(spec, SUBMISSION, written.append)


def container(state: dict[str, Any]) -> dict[str, Any]:
    return {"phase": "Running", "containerStatuses": [{"name": "workflow", "state": state}]}


def runs(job: dict[str, Any]) -> bool:
    """Return whether the controller of Jobs makes pods for it."""
    return not job["spec"].get("suspend")


def play(server: ApiServer, *statuses: dict[str, Any], log: str = "") -> threading.Thread:
    """Be the controller and the kubelet of the Job: its pod has these states, one after the other."""

    def act() -> None:
        while not any(runs(job) for job in server.of_kind("jobs").values()):
            time.sleep(0.01)
        (job,) = server.of_kind("jobs").values()
        owner = [{"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}]
        metadata = {"name": "p", "ownerReferences": owner, **job["spec"]["template"]["metadata"]}
        spec = {**job["spec"]["template"]["spec"], "nodeName": "node"}
        server.put("pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})
        for status in statuses:
            time.sleep(0.2)
            if ("pods", "p") in server.objects:
                server.change("pods", "p", status=status)
            server.logs["p"] = log

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


LOG = "2026-11-28T14:00:00.1Z one\n2026-11-28T14:00:00.12Z two\n2026-11-28T14:00:01Z three\n"


@pytest.mark.parametrize(("code", "reason"), [(0, "Completed"), (3, "Error")])
def test_its_log_is_written_once_and_its_exit_status_returned(
    server: ApiServer, code: int, reason: str
) -> None:
    ended = {"terminated": {"exitCode": code, "reason": reason}}
    playing = play(server, container({"running": {}}), container(ended), log=LOG)
    written: list[str] = []
    assert run_inside(server, written) == code
    playing.join()
    assert (
        written[0] == "the workflow runs as Job " + written[0].split()[5] + " in namespace models"
    )
    assert written[-3:] == ["one", "two", "three"]
    assert server.objects == {}


@pytest.mark.parametrize(
    ("code", "text"),
    [(503, "etcd has no leader"), (429, "too many requests"), (401, "Unauthorized")],
)
def test_it_goes_on_while_the_api_server_has_a_problem(
    server: ApiServer, code: int, text: str
) -> None:
    ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    playing = play(server, container({"running": {}}), container(ended), log=LOG)

    def fail() -> None:
        while ("pods", "p") not in server.objects:
            time.sleep(0.01)
        server.refusals += [(code, text)] * 4

    threading.Thread(target=fail, daemon=True).start()
    written: list[str] = []
    assert run_inside(server, written) == 0
    playing.join()
    assert any(text in line for line in written)
    assert written[-3:] == ["one", "two", "three"]


def test_a_client_that_is_killed_at_any_step_leaves_no_pod_that_waits_for_its_secret(
    server: ApiServer,
) -> None:
    ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    playing = play(server, container({"running": {}}), container(ended), log=LOG)
    original, steps = server.answer, []

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        answered = original(method, path, body)
        jobs, secrets = server.of_kind("jobs"), server.of_kind("secrets")
        if method in ("POST", "PATCH"):
            waiting = [name for name, job in jobs.items() if runs(job) and name not in secrets]
            steps.append((method, waiting))
        return answered

    server.answer = answer  # type: ignore[method-assign]
    assert run_inside(server, []) == 0
    playing.join()
    assert steps == [("POST", []), ("POST", []), ("PATCH", [])]


def test_a_job_that_may_not_be_started_is_removed(server: ApiServer) -> None:
    original = server.answer

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "PATCH":
            return 403, {"message": 'jobs.batch is forbidden: cannot patch resource "jobs"'}
        return original(method, path, body)

    server.answer = answer  # type: ignore[method-assign]
    with pytest.raises(SessionError, match=r'cannot patch resource "jobs".*Role'):
        run_inside(server, [])
    assert server.objects == {}


def test_a_permission_that_is_missing_is_named(server: ApiServer) -> None:
    server.refusals = [
        (403, f'jobs.batch is forbidden: User "me" cannot {verb} resource "jobs"')
        for verb in ("create", "delete")
    ]
    with pytest.raises(SessionError, match='cannot create resource "jobs"'):
        run_inside(server, [])
    assert server.objects == {}


def test_a_job_that_may_not_be_removed_is_named(server: ApiServer) -> None:
    play(server, container({"terminated": {"exitCode": 0}}), log=LOG)

    def write(line: str) -> None:
        if line == "three":  # then the pod has ended, and its Job is removed
            server.refusals = [(403, 'User "me" cannot delete resource "jobs"')]

    with pytest.raises(SessionError, match=r'cannot delete resource "jobs".*kubectl delete job '):
        KubernetesProvider().run_inside(spec_of("kubernetes", OPTIONS), SUBMISSION, write)


def test_why_it_does_not_start(server: ApiServer) -> None:
    waiting = {"waiting": {"reason": "InvalidImageName", "message": "no such name"}}
    play(server, container(waiting))
    with pytest.raises(SessionError, match="InvalidImageName: no such name"):
        run_inside(server, [])
    assert server.objects == {}


PULL = {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}


@pytest.mark.parametrize(
    ("state", "limit", "said"),
    [
        (PULL, "_PULL_PATIENCE", "ErrImagePull: manifest unknown"),
        ({"waiting": {"reason": "ContainerCreating"}}, "start", 'FailedMount: claim "results"'),
    ],
)
def test_a_workflow_that_cannot_start_keeps_no_place_on_a_node(
    server: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, Any],
    limit: str,
    said: str,
) -> None:
    monkeypatch.setattr(inside, "_CREATION_PATIENCE", 0.1)
    options = OPTIONS
    if limit == "start":
        options += "startup_timeout: 1"
    else:
        monkeypatch.setattr(inside, limit, 0.5)
    playing = play(server, container(state) | {"phase": "Pending"})

    def warn() -> None:
        playing.join()
        about = {"kind": "Pod", "uid": server.objects["pods", "p"]["metadata"]["uid"]}
        event = {"involvedObject": about, "reason": "FailedMount", "message": 'claim "results"'}
        server.put("events", {"metadata": {"name": "e"}, **event})

    threading.Thread(target=warn, daemon=True).start()
    spec = spec_of("kubernetes", options)
    with pytest.raises(SessionError, match=said):
        KubernetesProvider().run_inside(spec, SUBMISSION, lambda _: None)
    assert not {kind for kind, _ in server.objects} - {"events"}


def test_a_job_that_somebody_removes(server: ApiServer) -> None:
    playing = play(server, container({"running": {}}))

    def remove() -> None:
        playing.join()
        (name,) = server.of_kind("jobs")
        server.delete("jobs", name)

    threading.Thread(target=remove, daemon=True).start()
    with pytest.raises(SessionError, match="removed by somebody else"):
        run_inside(server, [])
    assert server.objects == {}


def test_ending_it_removes_its_job(server: ApiServer) -> None:
    written: list[str] = []

    async def main() -> None:
        from scalable.providers.kubernetes.api import KubernetesApi

        options = KubernetesProvider().parse_options(spec_of("kubernetes", OPTIONS))
        api = KubernetesApi(None, "models")
        running = asyncio.ensure_future(
            inside.run_inside(api, RUN, SUBMISSION, "i", options, written.append)
        )
        while ("pods", "p") not in server.objects:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await api.close()

    play(server, container({"running": {}}))
    asyncio.run(main())
    assert "removes its cluster" in written[-1]
    assert server.objects == {}
