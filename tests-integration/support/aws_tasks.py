"""ECS: tasks on Fargate as processes, and what AWS refuses of them.

moto has clusters, definitions and network interfaces. All that is said of a task's life is said here.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aws_rules
from aws_conditions import CAPACITY, Conditions, bound, container_environment
from aws_gateway import Answer, Call, RefusedError, Rule, paged
from aws_identity import Identity
from aws_machines import Machines

_JSON = {"Content-Type": "application/x-amz-json-1.1"}


@dataclass
class Task:
    """A task.

    Parameters
    ----------
    arn, cluster : str
        Its ARN, and the name of its cluster.
    shown : mapping
        What moto has answered when it was created.
    request : mapping
        The parameters of the RunTask call.
    definition : mapping
        Its task definition.
    """

    arn: str
    cluster: str
    shown: Mapping[str, Any]
    request: Mapping[str, Any]
    definition: Mapping[str, Any]
    status: str = "PROVISIONING"
    desired: str = "RUNNING"
    stop_code: str = ""
    reason: str = ""
    exit_code: int | None = None
    container_reason: str = ""
    ended: float | None = None
    shipped: int = 0
    created: float = field(default_factory=time.time)
    waking: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        """Return the end of its ARN."""
        return self.arn.rpartition("/")[2]

    @property
    def container(self) -> Mapping[str, Any]:
        """Return the definition of its container."""
        container: Mapping[str, Any] = self.definition["containerDefinitions"][0]
        return container

    @property
    def details(self) -> dict[str, str]:
        """Return what is known of its network interface."""
        (card,) = self.shown["attachments"]
        return {each["name"]: each["value"] for each in card["details"]}

    @property
    def address(self) -> str:
        """Return its address."""
        return self.details["privateIPv4Address"]

    @property
    def network(self) -> Mapping[str, Any]:
        """Return subnets and security groups that were asked for."""
        found: Mapping[str, Any] = self.request["networkConfiguration"]["awsvpcConfiguration"]
        return found

    @property
    def log_options(self) -> Mapping[str, str]:
        """Return the options of its log, empty if it has none."""
        found: Mapping[str, str] = self.container.get("logConfiguration", {}).get("options", {})
        return found

    @property
    def stream(self) -> str:
        """Return the name of its log stream."""
        return f"{self.log_options['awslogs-stream-prefix']}/{self.container['name']}/{self.id}"

    def view(self, *, tags: bool) -> dict[str, Any]:
        """Return it as DescribeTasks does."""
        (card,) = self.shown["attachments"]
        known = self.status != "PROVISIONING"
        details = [each for each in card["details"] if known or each["name"] == "subnetId"]
        container: dict[str, Any] = {
            "name": self.container["name"],
            "image": self.container["image"],
            "taskArn": self.arn,
            "lastStatus": "RUNNING" if self.status == "RUNNING" else "PENDING",
            "networkInterfaces": [],
        }
        if self.ended is not None:
            container["lastStatus"] = "STOPPED"
            if self.exit_code is not None:
                container["exitCode"] = self.exit_code
        if self.container_reason:
            container["reason"] = self.container_reason
        found = {
            **self.shown,
            "lastStatus": self.status,
            "desiredStatus": self.desired,
            "createdAt": self.created,
            "attachments": [
                {
                    **card,
                    "status": "DELETED" if self.ended else "ATTACHED" if known else "PRECREATED",
                    "details": details,
                }
            ],
            "containers": [container],
            "tags": self.request.get("tags", []) if tags else [],
        }
        for key, value in (("stopCode", self.stop_code), ("stoppedReason", self.reason)):
            found.pop(key, None)
            if value:
                found[key] = value
        return found


class Tasks:
    """The tasks of an account.

    Parameters
    ----------
    conditions : Conditions
        The circumstances.
    identity : Identity
        The account's roles.
    machines : Machines
        Runs their processes.
    moto : callable
        Returns a client of boto3 for a service of moto's, past the gateway.
    pool : Executor
        Does what a call does not wait for.
    directory : Path
        For their logs, and their own files.
    """

    def __init__(
        self,
        conditions: Conditions,
        identity: Identity,
        machines: Machines,
        moto: Callable[[str], Any],
        pool: Executor,
        directory: Path,
    ) -> None:
        self.by_id: dict[str, Task] = {}
        self.metadata_url = ""
        self._conditions, self._identity = conditions, identity
        self._machines, self._moto, self._pool = machines, moto, pool
        self._directory = directory
        self._lock = threading.RLock()
        self._tokens: dict[tuple[str, str], tuple[Mapping[str, Any], Answer]] = {}
        self._clusters: set[str] = set()

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Return what answers the calls."""
        return {
            "CreateCluster": self._create_cluster,
            "DeleteCluster": self._delete_cluster,
            "DescribeClusters": self._describe_clusters,
            "ListClusters": self._list_clusters,
            "RegisterTaskDefinition": self._register,
            "ListTaskDefinitions": paged("taskDefinitionArns", size=100),
            "ListTaskDefinitionFamilies": paged("families", size=100),
            "DeleteTaskDefinitions": self._delete_definitions,
            "RunTask": self._run,
            "ListTasks": self._list,
            "DescribeTasks": self._describe,
            "StopTask": self._stop,
        }

    # -- What is done to them, other than by calls

    def end(
        self,
        task: Task,
        stop_code: str,
        reason: str,
        *,
        container_reason: str = "",
        grace: float | None = None,
    ) -> None:
        """End a task: its process is told to, and killed after `grace` seconds, or those of its definition."""
        with self._lock:
            if task.desired == "STOPPED":
                return
            task.desired, task.stop_code, task.reason = "STOPPED", stop_code, reason
            task.container_reason = container_reason
        task.waking.set()
        seconds = task.container.get("stopTimeout", 30) if grace is None else grace
        self._machines.stop(task.id, seconds)

    def kill(self, task: Task) -> None:
        """Kill a task's process, as a crash does."""
        self._machines.stop(task.id, 0)

    def exited(self, task: Task, status: int) -> None:
        """Take note that a task's process has ended."""
        with self._lock:
            if not task.stop_code:
                task.desired, task.stop_code = "STOPPED", "EssentialContainerExited"
                task.reason = "Essential container in task exited"
            task.exit_code = status
            task.status = "DEPROVISIONING"
        self._pool.submit(self._finish, task)

    def uses(self, group: str) -> bool:
        """Return whether a network interface of a task is in a security group."""
        return any(
            group in task.network.get("securityGroups", ()) and not self._is_detached(task)
            for task in [*self.by_id.values()]
        )

    def renew(self) -> None:
        """Forget everything."""
        with self._lock:
            self.by_id.clear()
            self._tokens.clear()
            self._clusters.clear()

    def _is_detached(self, task: Task) -> bool:
        return (
            task.ended is not None
            and time.monotonic() - task.ended >= self._conditions.interfaces_linger
        )

    # -- Their life

    def _boot(self, task: Task) -> None:
        try:
            task.waking.wait(self._conditions.provisioning)
            task.status = "PENDING"
            try:
                env = self._environment(task)
            except RefusedError as refusal:
                with self._lock:
                    if not task.stop_code:
                        task.desired = "STOPPED"
                        task.stop_code, task.reason = "TaskFailedToStart", refusal.text
                        task.container_reason = refusal.text
                self._finish(task)
                return
            home = self._directory / task.id
            home.mkdir()
            env = {**container_environment(home), **env}
            with self._lock:
                if task.desired != "STOPPED":
                    self._machines.start(
                        task.id, self._command(task), env, home, self._log_file(task)
                    )
                    task.status = "RUNNING"
                    return
            self._finish(task)
        except Exception as error:  # noqa: BLE001 - shown as AWS shows what is its own fault
            task.desired, task.stop_code = "STOPPED", "TaskFailedToStart"
            task.reason = f"InternalError: {type(error).__name__}: {error}"
            self._finish(task)

    def _environment(self, task: Task) -> dict[str, str]:
        """Return the variables of a task's container.

        Raises
        ------
        RefusedError
            With the reason why it cannot start.
        """
        image = self._conditions.image(task.container["image"])
        if image.is_missing:
            name = task.container["image"]
            raise RefusedError(
                "", f"CannotPullContainerError: pull image manifest has been retried 1 time(s): "
                f"failed to resolve ref {name}: {name}: not found"
            )  # fmt: skip
        role = str(task.definition.get("executionRoleArn", "")).rpartition("/")[2]
        if task.log_options:
            self._create_stream(task, role)
        override = self._override(task)
        pairs = [*task.container.get("environment", []), *override.get("environment", [])]
        secrets = {
            each["name"]: self._secret(each["valueFrom"], role)
            for each in task.container.get("secrets", [])
        }
        return {
            **image.env,
            **{each["name"]: each["value"] for each in pairs},
            **secrets,
            "ECS_CONTAINER_METADATA_URI_V4": f"{self.metadata_url}{task.id}",
            "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
        }

    def _create_stream(self, task: Task, role: str) -> None:
        group = task.log_options["awslogs-group"]
        _, partition, _, region, account, _ = task.arn.split(":", 5)
        arn = f"arn:{partition}:logs:{region}:{account}:log-group:{group}:log-stream:{task.stream}"
        start = "ResourceInitializationError: failed to validate logger args: create stream: "
        logs = self._moto("logs")
        try:
            for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
                self._identity.check(role, action, arn)
            logs.create_log_stream(logGroupName=group, logStreamName=task.stream)
        except RefusedError as refusal:
            raise RefusedError(refusal.code, start + refusal.text) from refusal
        except logs.exceptions.ResourceNotFoundException as error:
            why = f"{start}ResourceNotFoundException: The specified log group does not exist."
            raise RefusedError("", why) from error

    def _secret(self, arn: str, role: str) -> str:
        start = (
            "ResourceInitializationError: unable to pull secrets or registry auth: execution resource "
            "retrieval failed: unable to retrieve secrets from ssm: "
        )
        try:
            self._identity.check(role, "ssm:GetParameters", arn)
        except RefusedError as refusal:
            raise RefusedError(refusal.code, start + refusal.text) from refusal
        name = arn.partition(":parameter")[2] or arn
        ssm = self._moto("ssm")
        found = ssm.get_parameters(Names=[name], WithDecryption=True)["Parameters"]
        if not found:
            raise RefusedError("", f"{start}invalid parameters: {name}")
        return str(found[0]["Value"])

    def _override(self, task: Task) -> Mapping[str, Any]:
        overrides = task.request.get("overrides", {}).get("containerOverrides", [])
        return next((each for each in overrides if each["name"] == task.container["name"]), {})

    def _command(self, task: Task) -> list[str]:
        image = self._conditions.image(task.container["image"])
        asked = self._override(task).get("command") or task.container.get("command", [])
        whole = [*task.container.get("entryPoint", []), *asked]
        return bound([*(image.command or whole)], task.address)

    def _log_file(self, task: Task) -> Path:
        return self._directory / f"{task.id}.log"

    def _finish(self, task: Task) -> None:
        self.ship(task)
        with self._lock:
            task.status, task.ended = "STOPPED", time.monotonic()
        timer = threading.Timer(self._conditions.interfaces_linger, self._detach, [task])
        timer.daemon = True
        timer.start()

    def _detach(self, task: Task) -> None:
        ec2 = self._moto("ec2")
        with contextlib.suppress(ec2.exceptions.ClientError):  # of an account that was renewed
            ec2.delete_network_interface(NetworkInterfaceId=task.details["networkInterfaceId"])

    def ship(self, task: Task) -> None:
        """Send CloudWatch what a task has written since the last time."""
        file = self._log_file(task)
        if not task.log_options or not file.exists():
            return
        with self._lock:
            data = file.read_bytes()[task.shipped :]
            whole = (
                data if task.ended or task.exit_code is not None else data[: data.rfind(b"\n") + 1]
            )
            lines = whole.decode(errors="replace").splitlines()
            now = int(time.time() * 1000)
            events = [{"timestamp": now, "message": line or " "} for line in lines]
            logs = self._moto("logs")
            group = task.log_options["awslogs-group"]
            for start in range(0, len(events), 1000):
                some = events[start : start + 1000]
                try:
                    logs.put_log_events(
                        logGroupName=group, logStreamName=task.stream, logEvents=some
                    )
                except logs.exceptions.ResourceNotFoundException:  # the group was deleted first
                    return
            task.shipped += len(whole)

    # -- Calls of clusters

    def _create_cluster(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        _check_tags(call.params.get("tags", []))
        answer = forward()
        if answer.status < 400:
            self._clusters.add(answer.data["cluster"]["clusterName"])
        return answer

    def _delete_cluster(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        name = self._cluster(call)
        if any(task.ended is None for task in self._of(name)):
            text = "The Cluster cannot be deleted while Tasks are active."
            raise RefusedError("ClusterContainsTasksException", text)
        answer = forward()
        self._clusters.discard(name)
        return answer

    def _describe_clusters(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        if len(call.params.get("clusters", ())) > 100:
            raise RefusedError(
                "InvalidParameterException", "Clusters cannot be more than 100 elements"
            )
        answer = forward()
        if answer.status >= 400:
            return answer
        data = answer.data
        for cluster in data["clusters"]:
            states = [task.status for task in self._of(cluster["clusterName"])]
            cluster["runningTasksCount"] = states.count("RUNNING")
            cluster["pendingTasksCount"] = sum(
                state in ("PROVISIONING", "PENDING") for state in states
            )
        return answer.with_data(data)

    def _list_clusters(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        def active() -> Answer:
            answer = forward()
            arns = answer.data["clusterArns"]
            live = [arn for arn in arns if arn.rpartition("/")[2] in self._clusters]
            return answer.with_data({"clusterArns": live})

        return paged("clusterArns", size=100)(call, active)

    def _cluster(self, call: Call) -> str:
        name = str(call.params.get("cluster", "default")).rpartition("/")[2]
        if name not in self._clusters:
            raise RefusedError("ClusterNotFoundException", "Cluster not found.")
        return name

    def _of(self, cluster: str) -> list[Task]:
        with self._lock:
            return [task for task in self.by_id.values() if task.cluster == cluster]

    # -- Calls of definitions

    def _register(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        asked = call.params
        _check_tags(asked.get("tags", []))
        if len(json.dumps(asked)) > aws_rules.DEFINITION_LIMIT:
            raise RefusedError(
                "ClientException", "Actual length: the task definition exceeds 64 KiB."
            )
        containers = asked["containerDefinitions"]
        if "FARGATE" in asked.get("requiresCompatibilities", ()):
            cpu, memory = asked.get("cpu"), asked.get("memory")
            if not aws_rules.is_fargate_size(cpu, memory):
                text = f"No Fargate configuration exists for given values: {cpu} CPU, {memory} memory. "
                raise RefusedError(
                    "ClientException",
                    f"{text}See the Amazon ECS documentation for the valid values.",
                )
            if asked.get("networkMode") != "awsvpc":
                text = "Fargate only supports network mode ‘awsvpc’."  # noqa: RUF001 - their words
                raise RefusedError("ClientException", text)
            if any(each.get("resourceRequirements") for each in containers):
                text = (
                    "Tasks using the Fargate launch type do not support GPU resource requirements."
                )
                raise RefusedError("ClientException", text)
        secret = any(each.get("secrets") for each in containers)
        if secret and not asked.get("executionRoleArn"):
            text = "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'."
            raise RefusedError("ClientException", text)
        if any(each.get("stopTimeout", 0) > 120 for each in containers):
            raise RefusedError(
                "ClientException", "Container stop timeout must be at most 120 seconds."
            )
        for each in containers:  # without which moto starts no task
            each.setdefault("memory", int(asked.get("memory", 512)))
        return forward()

    def _delete_definitions(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        if not 1 <= len(call.params["taskDefinitions"]) <= 10:
            text = "You must specify 1 to 10 task definitions."
            raise RefusedError("InvalidParameterException", text)
        return forward()

    # -- Calls of tasks

    def _run(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        cluster = self._cluster(call)
        asked = call.params
        n = int(asked.get("count", 1))
        self._check_run(asked, n)
        token = asked.get("clientToken")
        with self._lock:
            if token and (cluster, token) in self._tokens:
                before, answer = self._tokens[cluster, token]
                if before != asked:
                    text = "The parameters differ from those of an earlier request with this client token."
                    raise RefusedError("ConflictException", text)
                return answer
            definition = self._definition(asked["taskDefinition"])
            self._check_place(asked, definition)
            providers = asked.get("capacityProviderStrategy", ())
            spare = any(each["capacityProvider"] == "FARGATE_SPOT" for each in providers)
            given = self._conditions.take(n, spare=spare)
            if not given:
                raise RefusedError("ClientException", CAPACITY)
            call.params = {**asked, "count": given}
            try:
                answer = forward()
            finally:
                call.params = asked
            if answer.status >= 400:
                return answer
            made = [
                Task(shown["taskArn"], cluster, shown, asked, definition)
                for shown in answer.data["tasks"]
            ]
            self.by_id.update((task.id, task) for task in made)
            missing = [{"reason": "Capacity is unavailable at this time"}] * (n - given)
            answer = answer.with_data(
                {"tasks": [task.view(tags=True) for task in made], "failures": missing}
            )
            if token:
                self._tokens[cluster, token] = asked, answer
        for task in made:
            self._pool.submit(self._boot, task)
        return answer

    def _check_run(self, asked: Mapping[str, Any], n: int) -> None:
        _check_tags(asked.get("tags", []))
        if not 1 <= n <= aws_rules.TASKS_OF_A_CALL:
            raise RefusedError("InvalidParameterException", f"count must be from 1 to 10, is {n}")
        if len(json.dumps(asked.get("overrides", {}))) > aws_rules.OVERRIDES_LIMIT:
            text = f"Container Overrides length must be at most {aws_rules.OVERRIDES_LIMIT}"
            raise RefusedError("InvalidParameterException", text)
        token = asked.get("clientToken", "")
        if len(token) > aws_rules.TOKEN_LIMIT or not token.isascii():
            raise RefusedError(
                "InvalidParameterException", "clientToken: up to 64 ASCII characters"
            )
        if len(asked.get("startedBy", "")) > 128:
            raise RefusedError("InvalidParameterException", "startedBy: up to 128 characters")

    def _definition(self, name: str) -> Mapping[str, Any]:
        ecs = self._moto("ecs")
        try:
            found: Mapping[str, Any] = ecs.describe_task_definition(taskDefinition=name)[
                "taskDefinition"
            ]
        except ecs.exceptions.ClientException as error:
            raise RefusedError("ClientException", "TaskDefinition not found.") from error
        if found.get("status") not in (None, "ACTIVE"):
            raise RefusedError("ClientException", "TaskDefinition is inactive")
        return found

    def _check_place(self, asked: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
        network = asked.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
        ec2, vpcs = self._moto("ec2"), set()
        for kind, key, ids in (
            ("subnet", "Subnets", network.get("subnets", [])),
            ("security_group", "SecurityGroups", network.get("securityGroups", [])),
        ):
            name = {"subnet": "SubnetIds", "security_group": "GroupIds"}[kind]
            try:
                found = getattr(ec2, f"describe_{kind}s")(**{name: ids})[key] if ids else []
            except ec2.exceptions.ClientError as error:
                text = error.response["Error"]["Message"]
                raise RefusedError(
                    "InvalidParameterException", f"Error retrieving {kind}: {text}"
                ) from error
            vpcs |= {each["VpcId"] for each in found}
        if not network.get("subnets"):
            raise RefusedError("InvalidParameterException", "subnets can not be empty.")
        if len(vpcs) > 1:
            raise RefusedError(
                "InvalidParameterException", f"Subnets and groups of several VPCs: {vpcs}"
            )
        for key in ("executionRoleArn", "taskRoleArn"):
            if arn := definition.get(key):
                self._check_role(arn)

    def _check_role(self, arn: str) -> None:
        if not self._identity.may_be_assumed(arn.rpartition("/")[2], "ecs-tasks.amazonaws.com"):
            text = f"ECS was unable to assume the role '{arn}' that was provided for this task. Please verify "
            text += "that the role being passed has the proper trust relationship and permissions and that your "
            raise RefusedError(
                "ClientException", f"{text}IAM user has permissions to pass this role."
            )

    def _list(self, call: Call, _: Callable[[], Answer]) -> Answer:
        cluster, asked = self._cluster(call), call.params
        wanted = {
            "desired": asked.get("desiredStatus", "RUNNING"),
            **({"family": asked["family"]} if "family" in asked else {}),
            **({"started_by": asked["startedBy"]} if "startedBy" in asked else {}),
        }

        def is_wanted(task: Task) -> bool:
            facts = {
                "desired": task.desired,
                "family": task.definition["family"],
                "started_by": task.request.get("startedBy"),
            }
            return all(facts[key] == value for key, value in wanted.items())

        def found() -> Answer:
            return _answer(
                {"taskArns": [task.arn for task in self._of(cluster) if is_wanted(task)]}
            )

        return paged("taskArns", size=100)(call, found)

    def _describe(self, call: Call, _: Callable[[], Answer]) -> Answer:
        cluster, asked = self._cluster(call), call.params.get("tasks", [])
        if not asked:
            raise RefusedError("InvalidParameterException", "Tasks cannot be empty.")
        if len(asked) > aws_rules.TASKS_DESCRIBED_AT_ONCE:
            raise RefusedError(
                "InvalidParameterException", "Tasks cannot be more than 100 elements."
            )
        tags = "TAGS" in call.params.get("include", ())
        tasks, failures = [], []
        with self._lock:
            for each in asked:
                task = self.by_id.get(each.rpartition("/")[2])
                if task is None or task.cluster != cluster:
                    failures.append({"arn": each, "reason": "MISSING"})
                else:
                    tasks.append(task.view(tags=tags))
        return _answer({"tasks": tasks, "failures": failures})

    def _stop(self, call: Call, _: Callable[[], Answer]) -> Answer:
        cluster = self._cluster(call)
        task = self.by_id.get(str(call.params.get("task", "")).rpartition("/")[2])
        if task is None or task.cluster != cluster:
            raise RefusedError("InvalidParameterException", "The referenced task was not found.")
        reason = call.params.get("reason") or "Task stopped by user"
        self.end(task, "UserInitiated", reason)
        return _answer({"task": task.view(tags=False)})

    # -- Metadata

    def metadata(self, verb: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer a container that asks for its own metadata, or those of its task."""
        name, _, rest = path.partition("/")
        task = self.by_id.get(name)
        if task is None or verb != "GET" or rest not in ("", "task"):
            return Answer(404, {}, b"")
        container: dict[str, Any] = {
            "DockerId": f"{task.id}-1",
            "Name": task.container["name"],
            "Image": task.container["image"],
            "Labels": {"com.amazonaws.ecs.task-arn": task.arn},
        }
        whole = {
            "Cluster": task.shown["clusterArn"],
            "TaskARN": task.arn,
            "Family": task.definition["family"],
            "Revision": str(task.definition["revision"]),
            "DesiredStatus": task.desired,
            "KnownStatus": task.status,
            "LaunchType": "FARGATE",
            "Containers": [container],
        }
        return _answer(whole if rest else container)


def _answer(data: Mapping[str, Any]) -> Answer:
    return Answer(200, _JSON, json.dumps(data).encode())


def _check_tags(tags: Sequence[Mapping[str, str]]) -> None:
    if len(tags) > aws_rules.TAGS_LIMIT:
        raise RefusedError("InvalidParameterException", "Tags can not have more than 50 elements.")
    for tag in tags:
        key, value = tag["key"], tag.get("value", "")
        if not 1 <= len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:"):
            raise RefusedError("InvalidParameterException", f"Invalid tag {key!r}: {value!r}")
    if len({tag["key"] for tag in tags}) < len(tags):
        raise RefusedError("InvalidParameterException", "Duplicate tag keys found.")
