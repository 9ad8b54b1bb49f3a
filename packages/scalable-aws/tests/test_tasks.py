from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider, provider
from scalable.providers.cloud.aws.names import Run
from scalable.providers.cloud.aws.tasks import PORT, Place, batches, worker_definition
from scalable.testing.offline import compare_rendered, manifest_of, rendered, spec_of

RENDERED = Path(__file__).parent / "rendered"

OPTIONS = """
    region: us-east-1
    image: ghcr.io/jgcri/scalable-worker:2026.8
    subnets: [subnet-0a1b2c3d]
    tags: {cost center: "${COST_CENTER}"}
    environment: {LICENSE: "${LICENSE}"}
    workers: {gcam: 12, plots: 0}
"""
COMPONENTS = """
gcam:
    image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/gcam:7.1
    cpus: 4
    memory: 16G
    env: {TOKEN: "${TOKEN}"}
    tags: {model: gcam}
    preload_script: /opt/gcam/preload.py
plots: {slots: 2}
"""


def artifacts(spec: DeploymentSpec) -> dict[str, str]:
    return rendered(AWSBatchProvider(), spec)


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> DeploymentSpec:
    monkeypatch.setattr(provider, "current_owner", lambda: "me")
    env = {
        "COST_CENTER": "climate lab",
        "LICENSE": "secret-of-the-environment",
        "TOKEN": "other-secret",
    }
    manifest = parse_manifest(manifest_of("aws", OPTIONS, COMPONENTS), env=env)
    return DeploymentSpec.from_manifest(manifest, target_name="here")


def test_the_requests_of_a_run(spec: DeploymentSpec) -> None:
    compare_rendered(artifacts(spec), RENDERED)


def test_no_rendered_request_has_a_secret(spec: DeploymentSpec) -> None:
    everything = "".join(artifacts(spec).values())
    assert "secret" not in everything.replace('"secrets"', "")
    assert "${LICENSE}" in everything
    assert "${TOKEN}" in everything
    assert "PRIVATE KEY" not in everything


def test_definitions_refer_to_the_private_key(spec: DeploymentSpec) -> None:
    definition = json.loads(artifacts(spec)["10-RegisterTaskDefinition-gcam.json"])
    (container,) = definition["containerDefinitions"]
    assert {each["name"] for each in container["secrets"]} == {
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY" for role in ("SCHEDULER", "WORKER", "CLIENT")
    }
    assert not any("KEY" in each["name"] for each in container["environment"])


@pytest.mark.parametrize(
    ("n", "counts"), [(0, []), (1, [1]), (10, [10]), (11, [10, 1]), (35, [10, 10, 10, 5])]
)
def test_ten_tasks_for_each_call(n: int, counts: list[int]) -> None:
    found = [*batches("0" * 32, n)]
    assert [batch.n for batch in found] == counts
    assert len({batch.token for batch in found}) == len(found)
    assert all(len(batch.token) <= 64 for batch in found)


def test_options_of_tasks() -> None:
    role = "arn:aws:iam::123456789012:role/data"
    own = "security_groups: [sg-0a1b2c3d]\nexecution_role_arn: arn:aws:iam::123456789012:role/run"
    options = f"spot: true\npublic_ip: false\ntask_role_arn: {role}\nworkers: 1\n{own}"
    found = artifacts(spec_of("aws", options, "gcam: {}"))
    definition = json.loads(found["06-RegisterTaskDefinition-gcam.json"])
    assert definition["taskRoleArn"] == role
    assert definition["containerDefinitions"][0]["stopTimeout"] == 120
    run = json.loads(found["07-RunTask-gcam.json"])
    assert run["capacityProviderStrategy"] == [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    assert "launchType" not in run
    network = run["networkConfiguration"]["awsvpcConfiguration"]
    assert network["assignPublicIp"] == "DISABLED"
    assert network["securityGroups"] == ["sg-0a1b2c3d"]
    # The scheduler is on demand, and nothing is made that the target names.
    assert json.loads(found["05-RunTask-scheduler.json"])["launchType"] == "FARGATE"
    assert not any("Role" in name or "SecurityGroup" in name for name in found)


class _Metadata(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked == 1:  # as a link-local address that is not there yet
            self.close_connection = True
            return
        body = json.dumps({"TaskARN": "arn:aws:ecs:us-east-1:1:task/c/0123abc"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[dict[str, str]]:
    """The variables of a task whose metadata can be asked for."""
    _Metadata.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v4/0123abc"
        yield {
            **os.environ,
            "ECS_CONTAINER_METADATA_URI_V4": url,
            "HTTP_PROXY": "http://127.0.0.1:9",
        }
        server.shutdown()


def starting(options: str = "") -> list[str]:
    """Return what a task of Fargate runs, without the command of Dask's worker."""
    spec = spec_of("aws", f"region: us-east-1\n{options}", "gcam: {}")
    aws = AWSBatchProvider()
    parsed = aws.parse_options(spec)
    (request,) = provider._worker_requests(spec, parsed).values()
    place = Place("us-east-1", "vpc-1", ["subnet-1"], ["sg-1"], "role", "key", "certificate")
    definition = worker_definition(Run("r", "me"), place, request, parsed, "tls://10.0.0.1:8786")
    (container,) = definition.params["containerDefinitions"]
    command: list[str] = container["command"]
    return [sys.executable, *command[1 : command.index("gcam") + 1]]


@pytest.mark.parametrize("options", ["", "spot: true"])
def test_a_task_learns_its_name_from_its_metadata(metadata: dict[str, str], options: str) -> None:
    show = [sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(3)", "--memory-limit"]
    done = subprocess.run(
        [*starting(options), *show],
        env=metadata,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "['--memory-limit', '--name', 'gcam-0123abc']"
    assert done.returncode == 3
    assert _Metadata.asked == 2


@pytest.mark.parametrize("options", ["", "spot: true"])
def test_a_worker_that_has_not_joined_ends_when_it_is_told_to(
    metadata: dict[str, str], options: str
) -> None:
    wait = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"]
    with subprocess.Popen(
        [*starting(options), *wait], env=metadata, stdout=subprocess.PIPE
    ) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == b"up\n"
        task.terminate()
        assert task.wait(60) == 128 + signal.SIGTERM


def test_one_that_has_joined_is_left_to_be_drained(metadata: dict[str, str]) -> None:
    code = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
input()
"""
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        port = str(scheduler.getsockname()[1])
        program = [word.replace(str(PORT), port) for word in starting("spot: true")]
        with subprocess.Popen(
            [*program, sys.executable, "-c", code.strip(), port],
            env=metadata,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as task:
            assert task.stdout is not None
            assert task.stdout.readline() == b"up\n"
            task.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                task.wait(3)
            task.communicate(b"drained\n", timeout=60)
            assert task.returncode == 0
