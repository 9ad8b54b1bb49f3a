from __future__ import annotations

import asyncio
import http.server
import threading
from typing import Any

import pytest
from aws_stubs import StubbedApi

from scalable.cluster.port import GroupSpec, Phase, Reason, Unit
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.cloud.aws import AWSBatchProvider, provider
from scalable.providers.cloud.aws.api import AwsApi, AwsError
from scalable.providers.cloud.aws.ec2_backend import Ec2Backend
from scalable.providers.cloud.aws.fargate_backend import FargateBackend
from scalable.providers.cloud.aws.logs import MAX_LINES
from scalable.providers.cloud.aws.names import Run, log_group
from scalable.providers.cloud.aws.tasks import MachineImage, Place
from scalable.testing.offline import spec_of

PLACE = Place(
    "us-east-1",
    "vpc-1",
    ["subnet-1", "subnet-2"],
    ["sg-1"],
    "arn:key",
    "CERT",
    execution_role="role",
    profile="p",
    ami=MachineImage("ami-1"),
)
GROUP = GroupSpec("gcam")


def backend_of(api: AwsApi, options: str) -> Any:
    spec = spec_of("aws", options, "gcam: {}")
    parsed = AWSBatchProvider().parse_options(spec)
    requests = provider._worker_requests(spec, parsed)
    common = (api, Run("r", "me"), parsed, PLACE, requests)
    if parsed.cluster_type == "fargate":
        assert isinstance(api, StubbedApi)
        api.answer("ecs", "register_task_definition", {"taskDefinition": {}})
        return FargateBackend(*common, scheduler="tls://s", scheduler_task="s", close_timeout=5)
    machines = {"gcam": "c6i.large"}
    return Ec2Backend(
        *common, machines, scheduler="tls://s", scheduler_instance="i-5", close_timeout=5
    )


def tasks(*names: str, failures: int = 0) -> dict[str, Any]:
    reason = "Capacity is unavailable at this time"
    return {
        "tasks": [{"taskArn": f"arn:aws:ecs:us-east-1:1:task/c/{name}"} for name in names],
        "failures": [{"reason": reason}] * failures,
    }


def instances(*names: str) -> dict[str, Any]:
    return {"Instances": [{"InstanceId": name} for name in names]}


def units_of(result: Any) -> list[str]:
    return [unit.id for unit in result.units]


def test_a_call_on_spare_capacity_that_was_answered_is_not_repeated_with_the_one_on_demand() -> (
    None
):
    api = StubbedApi()
    backend = backend_of(api, "region: us-east-1\nspot: true\nspot_fallback: true")

    async def scenario() -> None:
        api.answer("ecs", "run_task", tasks("a", failures=2))
        api.refuse("ecs", "run_task", "ServerException", status=500)
        with pytest.raises(AwsError):
            await backend.launch(GROUP, 3, "f00")
        api.answer("ecs", "run_task", tasks("b", "c"))
        assert units_of(await backend.launch(GROUP, 3, "f00")) == ["gcam-a", "gcam-b", "gcam-c"]
        assert units_of(await backend.launch(GROUP, 3, "f00")) == ["gcam-a", "gcam-b", "gcam-c"]

    asyncio.run(scenario())
    api.check()


@pytest.mark.parametrize(
    ("kind", "method", "lost"),
    [("fargate", "run_task", "ServerException"), ("ec2", "run_instances", "InternalError")],
)
@pytest.mark.parametrize(
    "code", ["ThrottlingException", "RequestLimitExceeded", "ExpiredTokenException", "AccessDenied"]
)
def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_started(
    kind: str, method: str, lost: str, code: str
) -> None:
    api = StubbedApi()
    service = "ecs" if kind == "fargate" else "ec2"
    backend = backend_of(api, f"region: us-east-1\ncluster_type: {kind}")
    answer = tasks("a") if kind == "fargate" else instances("i-1")

    async def scenario() -> None:
        api.refuse(service, method, lost, status=500)
        api.refuse(service, method, code)
        for _ in range(2):
            with pytest.raises(AwsError):
                await backend.launch(GROUP, 1, "f00")
        api.answer(service, method, answer)
        assert len((await backend.launch(GROUP, 1, "f00")).units) == 1

    asyncio.run(scenario())
    api.check()


def test_a_refusal_without_a_lost_answer_is_one() -> None:
    api = StubbedApi()
    backend = backend_of(api, "region: us-east-1")

    async def scenario() -> None:
        api.refuse("ecs", "run_task", "ThrottlingException")
        with pytest.raises(LaunchError) as error:
            await backend.launch(GROUP, 1, "f00")
        assert not isinstance(error.value, LaunchRefusedError)
        api.refuse("ecs", "run_task", "AccessDeniedException")
        with pytest.raises(LaunchRefusedError):
            await backend.launch(GROUP, 1, "f01")

    asyncio.run(scenario())


def test_instances_that_have_ended_before_a_lost_answer_was_repeated_are_launched_anew() -> None:
    api = StubbedApi()
    backend = backend_of(api, "region: us-east-1\ncluster_type: ec2")

    async def scenario() -> None:
        api.refuse("ec2", "run_instances", "InternalError", status=500)
        with pytest.raises(AwsError):
            await backend.launch(GROUP, 1, "f00")
        api.refuse("ec2", "run_instances", "IdempotentInstanceTerminated")
        with pytest.raises(LaunchError) as error:
            await backend.launch(GROUP, 1, "f00")
        assert not isinstance(error.value, LaunchRefusedError)

    asyncio.run(scenario())
    api.check()


def test_a_zone_without_capacity_after_a_lost_answer_is_one() -> None:
    api = StubbedApi()
    backend = backend_of(api, "region: us-east-1\ncluster_type: ec2")

    async def scenario() -> None:
        api.refuse("ec2", "run_instances", "InternalError", status=500)
        with pytest.raises(AwsError):
            await backend.launch(GROUP, 2, "f00")
        api.refuse("ec2", "run_instances", "InsufficientInstanceCapacity", status=500)
        api.answer("ec2", "run_instances", instances("i-1"))
        result = await backend.launch(GROUP, 2, "f00")
        assert units_of(result) == ["gcam-i-1"]
        assert result.shortfall.reason is Reason.CAPACITY

    asyncio.run(scenario())
    api.check()


def test_stopping_an_instance_that_aws_does_not_show_yet_is_tried_again() -> None:
    api = StubbedApi()
    backend = backend_of(api, "region: us-east-1\ncluster_type: ec2")

    async def scenario() -> None:
        api.answer("ec2", "run_instances", instances("i-1", "i-2"))
        units = (await backend.launch(GROUP, 2, "f00")).units
        text = "The instance ID 'i-2' does not exist"
        api.refuse("ec2", "terminate_instances", "InvalidInstanceID.NotFound", text)
        api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-1"]})
        with pytest.raises(LookupError, match="i-2"):
            await backend.stop(units)

    asyncio.run(scenario())
    api.check()


class _Ec2(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        code = "<Code>InsufficientInstanceCapacity</Code><Message>none</Message>"
        body = f"<Response><Errors><Error>{code}</Error></Errors></Response>".encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def test_a_zone_without_capacity_is_asked_once_and_not_six_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ec2)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        api = AwsApi("test", "us-east-1")
        backend = backend_of(api, "region: us-east-1\ncluster_type: ec2")

        async def scenario() -> None:
            with pytest.raises(LaunchError) as error:
                await backend.launch(GROUP, 1, "f00")
            assert error.value.explanation is not None
            assert error.value.explanation.reason is Reason.CAPACITY
            await api.close()

        asyncio.run(scenario())
        server.shutdown()
    assert _Ec2.asked == len(PLACE.subnets)


@pytest.mark.parametrize(
    ("kind", "native", "stream"),
    [
        ("fargate", "arn:aws:ecs:us-east-1:1:task/c/0123abc", "gcam/dask/0123abc"),
        ("ec2", "i-0123", "gcam/i-0123"),
    ],
)
def test_the_log_of_a_worker_is_read_to_its_end_and_no_further_than_asked(
    kind: str, native: str, stream: str
) -> None:
    api = StubbedApi()
    backend = backend_of(api, f"region: us-east-1\ncluster_type: {kind}")
    unit = Unit(f"gcam-{native}", "gcam", "f00", native)
    asked = {
        "logGroupName": log_group("r"),
        "logStreamName": stream,
        "limit": MAX_LINES,
        "startFromHead": False,
    }
    events = [{"message": "member 1\n"}, {"message": "member 2\n"}]

    async def scenario() -> None:
        for _ in range(2):
            api.answer("logs", "get_log_events", {"events": events}, asked)
        assert await backend.read_log(unit, 1000) == "member 1\nmember 2"
        assert await backend.read_log(unit, 4) == "er 2"
        # A worker that has written nothing has no stream, and a log that cannot be read is no failure.
        for code in ("ResourceNotFoundException", "AccessDeniedException"):
            api.refuse("logs", "get_log_events", code)
            assert await backend.read_log(unit, 1000) == ""

    asyncio.run(scenario())
    if kind == "ec2":
        api.check()


def test_notices_that_may_not_be_read_hide_no_instance() -> None:
    api = StubbedApi()
    tags = [
        {"Key": "scalable-component", "Value": "gcam"},
        {"Key": "scalable-request", "Value": "f"},
    ]
    one = {"InstanceId": "i-1", "State": {"Name": "running"}, "Tags": tags}
    for code in ("UnauthorizedOperation", "InternalError"):
        api.answer("ec2", "describe_instances", {"Reservations": [{"Instances": [one]}]})
        api.refuse("ec2", "describe_spot_instance_requests", code, status=403)
    backend = backend_of(api, "region: us-east-1\ncluster_type: ec2\nspot: true")
    (state,) = asyncio.run(backend.observe()).values()
    assert state.phase is Phase.RUNNING
    with pytest.raises(AwsError, match="InternalError"):  # it may be read the next time
        asyncio.run(backend.observe())
    api.check()
