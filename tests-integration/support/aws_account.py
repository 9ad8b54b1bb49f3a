"""An AWS account for tests: moto's state, real processes as tasks and instances, and stricter than moto.

Whoever makes clients of boto3 while it is provided reaches it, by variables of the environment::

    with aws_account.provide(directory, patch) as account:
        account.target            # what a target needs to be in it: region, vpc, subnets, public_ip
        account.calls("RunTask")  # how often the client has called it
        account.log               # the calls themselves: service, operation, params, at, status
        account.actions           # what the caller's IAM policy must allow for them: {"ecs:RunTask", ...}
        account.inventory()       # everything that is in the account: [] when nothing is
        account.tasks, account.instances          # that have not ended; `tasks_of`, `instances_of` by a tag
        account.client("ecs")     # of boto3, whose calls are not counted, refused or lost

Tasks and instances run on addresses of 127.0.0.0/8 that no other account on this machine has. Images are this Python
with its packages, unless ``images`` says otherwise. What may go wrong:

``fault(call, error, times=, skip=, after=, before=)``
    A call fails; without an error its answer is lost; with ``after``, once AWS has done it.
``deny(*actions)``
    The caller may not do what these name: ``ecs:RunTask``.
``capacity``, ``conditions.spare``
    How many more tasks and instances start, on demand and on spare capacity; None for any number.
``provisioning``
    Seconds until a task or an instance runs.
``interfaces_linger``
    Seconds for which a network interface, and so its security groups, is in use after its task or instance.
``roles_take``
    Seconds until a new role can be used.
``images[name] = Image(env=, command=, is_missing=)``
    What a container has of its image, runs instead of what it is told, and whether it can be pulled.
``interrupt(id, notice=)``
    Spot takes a task or an instance.
``end_task(id, stop_code=, reason=, container_reason=)``
    AWS ends a task.
``kill(id)``
    What a container runs crashes.
``end_instance(id)``
    AWS ends an instance.

What is like AWS, and not like moto: RunTask starts at most ten, wherever there is capacity, and tells what is missing;
sizes, limits, tokens, tags, roles, networks and pages are checked; secrets and logs need the rights of the role; tasks
have metadata, an end with a reason, logs; what is in use cannot be deleted; instances run their user data, have
metadata that ask for a token, and a role.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from aws_conditions import REGION, Conditions, Image
from aws_gateway import Answer, Call, Fault, Gateway, Page, RefusedError
from aws_identity import Identity
from aws_instances import Instance, Instances
from aws_machines import Machines
from aws_tasks import Task, Tasks
from slurm_site import wait_until

__all__ = ["AwsAccount", "Image", "RefusedError", "provide"]

_CLIENT, _OWN = "TESTSCLIENT", "TESTSOWN"
"""The access keys of the client and of the account's own tools."""

_SWITCHES = {
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
}


class AwsAccount:
    """The account: see above.

    Parameters
    ----------
    directory : Path
        For files of tasks and instances.
    """

    def __init__(self, directory: Path) -> None:
        self.region = REGION
        self.conditions = Conditions()
        self.target: dict[str, Any] = {}
        self._octet, self._claim = _claim_network()
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="aws")
        self._machines = Machines(self._exited)
        self._identity = Identity(self.conditions, self._moto)
        parts = (self.conditions, self._identity, self._machines, self._moto, self._pool, directory)
        self._tasks, self._instances = Tasks(*parts), Instances(*parts)
        rules = {
            **self._identity.rules,
            **self._tasks.rules,
            **self._instances.rules,
            "DeleteSecurityGroup": self._delete_security_group,
            "GetLogEvents": self._get_log,
        }
        pages: Mapping[str, Page] = {
            "/v4/": self._tasks.metadata,
            "/imds/": self._instances.metadata,
        }
        regions = frozenset(boto3.Session().get_available_regions("ecs"))
        self.gateway = Gateway(rules, pages, regions)
        self.gateway.is_other = lambda call: call.key == _OWN
        self.url = self.gateway.url
        self._tasks.metadata_url = f"{self.url}/v4/"
        self._instances.metadata_url = f"{self.url}/imds/"
        self._server_log = (directory / "moto.log").open("wb")
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("aws_moto.py")],
            env={**os.environ, **_SWITCHES},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._server_log,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        self._port = int(self._server.stdout.readline())
        self.gateway.upstream_port = self._port

    def close(self) -> None:
        """End everything."""
        self._machines.close()
        self._pool.shutdown(cancel_futures=True)
        self.gateway.close()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._server_log.close()
        self._claim.close()
        for client in self._clients.values():
            client.close()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which boto3 reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "NO_PROXY": "*",
            "no_proxy": "*",
            "AWS_ACCESS_KEY_ID": _CLIENT,
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def renew(self) -> None:
        """Make it a new account, without faults, in which nothing is but a network, which always has the same ids."""
        # By their rules, so that what is still to start does not.
        for task in self.tasks:
            self._tasks.end(task, "UserInitiated", "", grace=0)
        for instance in self.instances:
            self._instances.end(instance, None, grace=0)
        for key in self._machines.alive:  # also what ends slowly
            self._machines.stop(key, 0)
        wait_until(lambda: not self._busy(), "no task or instance runs")
        self.gateway.faults.clear()
        self.gateway.denied.clear()
        fresh = Conditions()
        for name in (
            "capacity",
            "spare",
            "provisioning",
            "interfaces_linger",
            "roles_take",
            "images",
        ):
            setattr(self.conditions, name, getattr(fresh, name))
        self._ask_moto("POST", "/moto-api/reset")
        self._ask_moto("POST", "/moto-api/seed?a=1")
        self._identity.renew()
        self._tasks.renew()
        self._instances.renew()
        self._make_network()
        self._ask_moto("POST", f"/moto-api/seed?a={time.time_ns() % 2**31}")
        self._moto("ecs").put_account_setting(name="taskLongArnFormat", value="enabled")
        self.gateway.log.clear()

    # -- What is in it

    def client(self, service: str) -> Any:
        """Return a client whose calls are not counted, refused or lost, but subject to AWS's rules."""
        return self._client(service, self.url, _OWN)

    def calls(self, name: str) -> int:
        """Return how often the client has called an operation."""
        return self.gateway.counts()[name]

    @property
    def log(self) -> Sequence[Call]:
        """Return the calls of the client, in their order."""
        return [*self.gateway.log]

    @property
    def actions(self) -> set[str]:
        """Return what the policy of the caller must allow for the calls of the log."""
        return {call.action for call in self.log}

    @property
    def tasks(self) -> Sequence[Task]:
        """Return the tasks that have not ended."""
        return [each for each in [*self._tasks.by_id.values()] if each.ended is None]

    @property
    def instances(self) -> Sequence[Instance]:
        """Return the instances that have not ended."""
        return [each for each in [*self._instances.by_id.values()] if each.ended is None]

    def inventory(self) -> list[str]:
        """Return everything that is in the account and costs money, or is left of somebody."""
        ecs, ec2, iam = self.client("ecs"), self.client("ec2"), self.client("iam")
        left = [f"task {each.id} {each.status}" for each in self.tasks]
        left += [f"instance {each.id} {each.state}" for each in self.instances]
        left += [f"process {key}" for key in self._machines.alive]
        left += [f"cluster {arn.rpartition('/')[2]}" for arn in _all(ecs, "list_clusters")]
        for status in ("ACTIVE", "INACTIVE"):
            arns = _all(ecs, "list_task_definitions", status=status)
            left += [f"task definition {arn.rpartition('/')[2]} {status}" for arn in arns]
        left += [f"role {each['RoleName']}" for each in _all(iam, "list_roles")]
        left += [
            f"instance profile {each['InstanceProfileName']}"
            for each in _all(iam, "list_instance_profiles")
        ]
        policies = _all(iam, "list_policies", Scope="Local")
        left += [f"policy {each['PolicyName']}" for each in policies]
        groups = _all(self.client("logs"), "describe_log_groups")
        left += [f"log group {each['logGroupName']}" for each in groups]
        left += [
            f"security group {each['GroupName']}"
            for each in _all(ec2, "describe_security_groups")
            if each["GroupName"] != "default"
        ]
        left += [f"volume {each['VolumeId']}" for each in _all(ec2, "describe_volumes")]
        left += [f"key pair {each['KeyName']}" for each in ec2.describe_key_pairs()["KeyPairs"]]
        parameters = _all(self.client("ssm"), "describe_parameters")
        left += [
            f"parameter {each['Name']}"
            for each in parameters
            if not each["Name"].startswith("/aws/")
        ]
        return left

    # -- What may go wrong

    def fault(
        self,
        call: str,
        error: str | None = None,
        text: str = "a fault of a test",
        *,
        times: float = 1,
        skip: int = 0,
        after: bool = False,
        status: int | None = None,
        before: Callable[[], None] | None = None,
    ) -> Fault:
        """Let calls go wrong, and return what may be changed or removed from ``gateway.faults`` later.

        Parameters
        ----------
        call : str
            Their name, ``RunTask``; ``*`` for all.
        error : str, optional
            The code of the error; without one, the answer is lost.
        text : str
            Its message.
        times, skip : float, int
            How many go wrong, which may be `math.inf`, after so many that do not.
        after : bool
            Whether AWS does before what it is asked for.
        status : int, optional
            Of the answer.
        before : callable, optional
            Is called before all else, such as to kill the client.
        """
        if status is None:
            is_server = error is not None and error.startswith(("Internal", "Server", "Service"))
            status = 503 if is_server else 400
        fault = Fault(call, error, text, status, times, skip, after, before)
        self.gateway.faults.append(fault)
        return fault

    def deny(self, *actions: str) -> None:
        """Let the caller be denied what these name: ``ecs:RunTask``."""
        self.gateway.denied.update(actions)

    @property
    def capacity(self) -> int | None:
        """How many more tasks and instances start; None for any number."""
        return self.conditions.capacity

    @capacity.setter
    def capacity(self, n: int | None) -> None:
        self.conditions.capacity = n

    @property
    def images(self) -> dict[str, Image]:
        """What is special in images, by name."""
        return self.conditions.images

    def end_task(
        self,
        task: str,
        *,
        stop_code: str = "ServiceSchedulerInitiated",
        reason: str = "Task ended by AWS",
        container_reason: str = "",
        grace: float | None = None,
    ) -> None:
        """Let AWS end a task, by its id or ARN; its process is killed after `grace` seconds."""
        found = self._tasks.by_id[task.rpartition("/")[2]]
        self._tasks.end(found, stop_code, reason, container_reason=container_reason, grace=grace)

    def end_instance(self, instance: str) -> None:
        """Let AWS end an instance."""
        reason = ("Server.InternalError", "Server.InternalError: Internal error on launch")
        self._instances.end(self._instances.by_id[instance], reason)

    def interrupt(self, which: str, *, notice: float = 120.0) -> None:
        """Let Spot take a task or an instance, with so many seconds of notice.

        A task has its notice by SIGTERM, and no more than the ``stopTimeout`` of its container; an instance by its
        metadata.
        """
        name = which.rpartition("/")[2]
        if (task := self._tasks.by_id.get(name)) is not None:
            grace = min(notice, task.container.get("stopTimeout", 30))
            self._tasks.end(
                task, "SpotInterruption", "Your Spot Task was interrupted.", grace=grace
            )
            return
        instance = self._instances.by_id[name]
        instance.notice_until = time.time() + notice
        reason = (
            "Server.SpotInstanceTermination",
            "Server.SpotInstanceTermination: Spot instance termination",
        )
        timer = threading.Timer(notice, self._instances.end, [instance, reason])
        timer.daemon = True
        timer.start()

    def kill(self, task: str) -> None:
        """Kill what a task runs."""
        self._tasks.kill(self._tasks.by_id[task.rpartition("/")[2]])

    # -- Inside

    def _client(self, service: str, url: str, key: str) -> Any:
        with self._lock:
            if (service, url) not in self._clients:
                make: Callable[..., Any] = boto3.client
                self._clients[service, url] = make(
                    service,
                    endpoint_url=url,
                    region_name=REGION,
                    aws_access_key_id=key,
                    aws_secret_access_key="tests",
                )
            return self._clients[service, url]

    def _moto(self, service: str) -> Any:
        return self._client(service, f"http://127.0.0.1:{self._port}", _OWN)

    def _ask_moto(self, verb: str, path: str) -> None:
        url = f"http://127.0.0.1:{self._port}{path}"
        request = urllib.request.Request(url, method=verb, data=b"")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            answer.read()

    def _make_network(self) -> None:
        ec2 = self._moto("ec2")
        vpc = ec2.create_vpc(CidrBlock=f"127.{self._octet}.0.0/16")["Vpc"]["VpcId"]
        # Otherwise, moto fails at each task.
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        subnets = [
            ec2.create_subnet(
                VpcId=vpc,
                CidrBlock=f"127.{self._octet}.{part}.0/20",
                AvailabilityZone=f"{REGION}{zone}",
            )["Subnet"]["SubnetId"]
            for zone, part in (("a", 128), ("b", 144))
        ]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        only = [{"Name": "vpc-id", "Values": [vpc]}]
        (table,) = ec2.describe_route_tables(Filters=only)["RouteTables"]
        ec2.create_route(
            RouteTableId=table["RouteTableId"],
            DestinationCidrBlock="0.0.0.0/0",
            GatewayId=gateway,
        )
        self.target = {"region": REGION, "vpc": vpc, "subnets": subnets, "public_ip": False}

    def _busy(self) -> bool:
        return bool(self._machines.alive or self.tasks or self.instances)

    def _exited(self, key: str, status: int) -> None:
        if (task := self._tasks.by_id.get(key)) is not None:
            self._tasks.exited(task, status)
        elif (instance := self._instances.by_id.get(key)) is not None:
            self._instances.exited(instance)

    def _get_log(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        name = str(call.params.get("logStreamName", "")).rpartition("/")[2]
        if (task := self._tasks.by_id.get(name)) is not None:
            self._tasks.ship(task)
        elif (instance := self._instances.by_id.get(name)) is not None:
            self._instances.ship(instance)
        return forward()

    def _delete_security_group(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        group = call.params.get("GroupId", "")
        if self._tasks.uses(group) or self._instances.uses(group):
            raise RefusedError("DependencyViolation", f"resource {group} has a dependent object")
        return forward()


def _all(client: Any, operation: str, **params: Any) -> list[Any]:
    pages = client.get_paginator(operation).paginate(**params)
    (key,) = pages.result_keys
    return [item for page in pages for item in key.search(page) or ()]


def _claim_network() -> tuple[int, socket.socket]:
    """Return N so that 127.N.0.0/16 is nobody else's, as long as the socket exists."""
    for octet in range(10, 250):
        claim = socket.socket()
        try:
            claim.bind((f"127.{octet}.255.254", 45678))
        except OSError:
            claim.close()
            continue
        return octet, claim
    raise AssertionError("all of 127.0.0.0/8 is taken")


@contextlib.contextmanager
def provide(directory: Path, patch: pytest.MonkeyPatch) -> Iterator[AwsAccount]:
    """Provide an account, which boto3 reaches by the environment."""
    if sys.platform != "linux":
        pytest.skip("only Linux has all addresses of 127.0.0.0/8")
    account = AwsAccount(directory)
    try:
        for name in [*os.environ]:
            if name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in account.environment.items():
            patch.setenv(name, value)
        account.renew()
        yield account
    finally:
        account.close()


def manifest(target: Mapping[str, Any], **sections: Any) -> str:
    """Return a manifest whose only target, ``here``, is in an account."""
    whole = {
        "version": 1,
        "project": {"name": "tests"},
        "targets": {"here": {"provider": "aws", **target}},
        **sections,
    }
    return json.dumps(whole, ensure_ascii=False)  # as YAML has it
