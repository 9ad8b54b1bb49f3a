from __future__ import annotations

import asyncio
import io
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_stubs import StubbedApi

from scalable.cluster.port import Phase, Reason
from scalable.providers.cloud.aws import AWSOptions, scheduler, setup
from scalable.providers.cloud.aws.api import AwsApi, AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.foundation import put_key, put_role_policy
from scalable.providers.cloud.aws.instances import run_worker_instances
from scalable.providers.cloud.aws.names import Run
from scalable.providers.cloud.aws.refusals import explain_refusal, is_lasting
from scalable.providers.cloud.aws.request import WorkerRequest
from scalable.providers.cloud.aws.scheduler import Ec2Scheduler, FargateScheduler
from scalable.providers.cloud.aws.tasks import Place
from scalable.providers.tls import make_credentials

RUN = Run("r", "me")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_POLL", 0.0)


def test_what_is_new_may_not_be_known_everywhere_yet() -> None:
    api = StubbedApi()
    api.refuse("iam", "put_role_policy", "NoSuchEntity", "The role cannot be found", 404)
    api.answer("iam", "put_role_policy", {})
    asyncio.run(setup._make(api, put_role_policy(RUN, "role", "us-east-1", "aws", "1")))
    api.check()


def test_what_is_denied_is_not_waited_for() -> None:
    api = StubbedApi()
    api.refuse("iam", "put_role_policy", "AccessDenied", status=403)
    with pytest.raises(AwsError, match="AccessDenied"):
        asyncio.run(setup._make(api, put_role_policy(RUN, "role", "us-east-1", "aws", "1")))


def test_a_security_group_whose_answer_was_lost_may_be_shown_late() -> None:
    api = StubbedApi()
    api.refuse("ec2", "create_security_group", "InvalidGroup.Duplicate")
    api.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
    api.answer("ec2", "describe_security_groups", {"SecurityGroups": [{"GroupId": "sg-1"}]})
    assert asyncio.run(setup._make_group(api, RUN, "vpc-1")) == "sg-1"
    api.check()


def test_a_fargate_task_has_16_subnets_at_most() -> None:
    subnets = [{"SubnetId": f"s{i}", "AvailableIpAddressCount": i} for i in range(20)]
    found = setup.Network("vpc-1", tuple(subnets)).roomiest(16)
    assert len(found) == 16
    assert found[0] == "s19"


def scheduler_on(api: StubbedApi, kind: str) -> Any:
    cls = FargateScheduler if kind == "fargate" else Ec2Scheduler
    options = AWSOptions(cluster_type="fargate" if kind == "fargate" else "ec2")
    made = cls(api, RUN, options, make_credentials(), "image", gpus=False, close_timeout=5)
    made.native = "i-1"
    return made


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_a_scheduler_is_gone_when_it_is_not_shown_for_a_while(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = StubbedApi()
    it = scheduler_on(api, kind)
    task: dict[str, Any] = {"taskArn": "i-1", "lastStatus": "RUNNING", "desiredStatus": "RUNNING"}
    instance = {"InstanceId": "i-1", "State": {"Name": "running"}}

    def show() -> None:
        if kind == "fargate":
            api.answer("ecs", "describe_tasks", {"tasks": [task]})
        else:
            answer: Any = {"Reservations": [{"Instances": [instance]}]}
            api.answer("ec2", "describe_instances", answer)

    def hide() -> None:
        if kind == "fargate":
            missing = {"tasks": [], "failures": [{"arn": "i-1", "reason": "MISSING"}]}
            api.answer("ecs", "describe_tasks", missing)
        else:
            api.refuse("ec2", "describe_instances", "InvalidInstanceID.NotFound")

    async def scenario() -> None:
        hide()
        assert (await it.state()).phase is Phase.PENDING
        show()
        await it.state()
        hide()
        with pytest.raises(LookupError):
            await it.state()
        show()
        await it.state()
        assert it._absent_since is None
        for _ in range(2):
            hide()
            with pytest.raises(LookupError):
                await it.state()
        monkeypatch.setattr(scheduler, "_SHOWN_WITHIN", 0.0)
        hide()
        assert (await it.state()).phase is Phase.GONE

    asyncio.run(scenario())
    api.check()


def test_a_network_interface_that_is_new_is_waited_for() -> None:
    api = StubbedApi()
    it = scheduler_on(api, "fargate")
    details = [{"name": "networkInterfaceId", "value": "eni-1"}]
    it._seen = {"attachments": [{"details": details}]}
    api.refuse("ec2", "describe_network_interfaces", "InvalidNetworkInterfaceID.NotFound")
    with pytest.raises(ConnectionError):
        asyncio.run(it.connect())


def test_neither_the_key_nor_variables_are_shown() -> None:
    assert "very secret" not in repr(put_key(RUN, "very secret"))
    worker = WorkerRequest("gcam", "image", 1, 1024, env={"TOKEN": "very secret"})
    assert "very secret" not in repr(worker)


def test_credentials_that_have_expired_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    def write(key: str) -> None:
        path.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\n")

    def key_of(api: AwsApi) -> str:
        found = api._client("ecs", "us-east-1")._request_signer._credentials
        return str(found.access_key)

    api = AwsApi("test", "us-east-1")
    write("old")
    assert key_of(api) == "old"
    write("new")
    assert key_of(api) == "old"
    from botocore.exceptions import ClientError

    for code, key in (("AccessDeniedException", "old"), ("ExpiredTokenException", "new")):
        answer: Any = {"Error": {"Code": code, "Message": ""}}
        api._error(ClientError(answer, "ListTasks"), "ListTasks")
        assert key_of(api) == key


def test_what_a_proxy_answers_is_not_the_address_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = b"<html>Log in</html>"
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(text))
    with pytest.raises(AwsUnreachableError):
        asyncio.run(AwsApi("test", "us-east-1").public_address())
    text = b"203.0.113.7\n"
    assert asyncio.run(AwsApi("test", "us-east-1").public_address()) == "203.0.113.7"


@pytest.mark.parametrize(
    ("region", "hint"),
    [
        ("us-est-1", "botocore knows no region 'us-est-1' (did you mean 'us-"),
        ("us-gov-wst-1", "did you mean 'us-gov-west-1'?"),
        ("us-east-1", ""),
    ],
)
def test_a_region_that_may_not_exist_is_told_where_nothing_answers(region: str, hint: str) -> None:
    from botocore.exceptions import EndpointConnectionError

    url = f"https://ecs.{region}.amazonaws.com/"
    found = AwsApi("test", region)._error(EndpointConnectionError(endpoint_url=url), "ListTasks")
    assert isinstance(found, AwsUnreachableError)
    assert url in str(found)
    assert hint in str(found)
    assert ("botocore" in str(found)) == bool(hint)


def test_a_denied_call_is_one_short_line() -> None:
    from botocore.exceptions import ClientError

    message = "You are not authorized. Encoded authorization failure message: " + 900 * "x"
    answer: Any = {"Error": {"Code": "UnauthorizedOperation", "Message": message}}
    found = AwsApi("test", None)._error(ClientError(answer, "RunInstances"), "RunInstances")
    assert str(found) == "RunInstances: UnauthorizedOperation: You are not authorized."


def test_an_account_that_is_still_verified_is_asked_again() -> None:
    error = AwsError("RunInstances", "PendingVerification", "within minutes")
    assert explain_refusal(error).reason is Reason.QUOTA
    assert not is_lasting(error)


def test_a_volume_is_at_least_as_large_as_its_machine_image() -> None:
    api = StubbedApi()
    names = ("ami-0a1b2c3d", "ami-0a1b2c3e")
    for name in names:
        api.answer("ssm", "get_parameter", {"Parameter": {"Value": name}})
    images = [
        {
            "ImageId": name,
            "RootDeviceName": device,
            "BlockDeviceMappings": [
                {"DeviceName": device, "Ebs": {"VolumeSize": gib}},
                {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-1"}},
                {"DeviceName": "/dev/sdg", "VirtualName": "ephemeral0"},
            ],
        }
        for name, device, gib in zip(names, ("/dev/xvda", "/dev/sda1"), (8, 75), strict=True)
    ]
    api.answer("ec2", "describe_images", {"Images": images}, {"ImageIds": [*names]})
    options = AWSOptions(cluster_type="ec2")
    place = Place("us-east-1", "vpc-1", ["subnet-1"], ["sg-1"], "key", "cert", profile="p")
    image, gpu_image = asyncio.run(setup.find_images(api, options, gpus=True))
    place = replace(place, ami=image, gpu_ami=gpu_image)
    found = []
    for gpus in (0, 1):
        worker = WorkerRequest("ml", "image", 1, 1024, gpus=gpus)
        asked = run_worker_instances(
            RUN,
            place,
            options,
            worker,
            machine="g5.xlarge",
            subnet="subnet-1",
            token="t",
            n=1,
            request_id="f00",
            script="exit 0",
            spot=False,
        )
        volume, other = asked.params["BlockDeviceMappings"]
        assert other == {"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}
        found.append((asked.params["ImageId"], volume["DeviceName"], volume["Ebs"]["VolumeSize"]))
    assert found == [("ami-0a1b2c3d", "/dev/xvda", 50), ("ami-0a1b2c3e", "/dev/sda1", 75)]
    api.check()
