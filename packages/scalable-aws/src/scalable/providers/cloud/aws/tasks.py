"""A target as requests to ECS: task definitions, and the tasks of scheduler and workers. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scalable.providers.cloud.aws.fargate import TaskSize
from scalable.providers.cloud.aws.names import (
    COMPONENT,
    REQUEST,
    Run,
    family,
    log_group,
    lower_tags,
    resource_name,
)
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.request import WorkerRequest
from scalable.providers.scheduler import scheduler_arguments
from scalable.providers.tls import KEY_VARIABLES, dask_environment
from scalable.providers.worker import (
    server_command,
    thread_environment,
    watched_worker,
    worker_arguments,
)

__all__ = [
    "MAX_DEFINITION",
    "MAX_TASKS",
    "PORT",
    "SCHEDULER",
    "Batch",
    "MachineImage",
    "Place",
    "Request",
    "batches",
    "log_stream",
    "run_scheduler",
    "run_workers",
    "scheduler_definition",
    "worker_definition",
]

PORT = 8786
"""The scheduler's port."""

SCHEDULER = "0-scheduler"
"""What stands for the scheduler where workers have the name of their component, which begins with a letter."""

MAX_DEFINITION = 64 * 1024
"""Bytes of a task definition: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html."""

MAX_TASKS = 10
"""Tasks of one RunTask call: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html."""

_CONTAINER = "dask"
_STOP_SECONDS = 5
"""Seconds between SIGTERM and SIGKILL for a container that is stopped; its worker has been drained before."""
_SPOT_STOP_SECONDS = 120
"""The same with spare capacity, whose end SIGTERM announces: the most that Fargate allows.
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-capacity-providers.html"""

_LATEST = "LATEST"

# One RunTask call starts several tasks with one command, so each worker learns its name from the metadata of its task:
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html. It is asked
# without a proxy, because the address is that of the task itself.
_NAMED = """\
import json, os, sys, time, urllib.request
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
for pause in (1, 2, 4, 8, None):
    try:
        with ask(os.environ["ECS_CONTAINER_METADATA_URI_V4"] + "/task", timeout=10) as answer:
            task = json.load(answer)["TaskARN"].rpartition("/")[2]
        break
    except OSError:
        if pause is None:
            raise
        time.sleep(pause)
command = [*sys.argv[2:], "--name", sys.argv[1] + "-" + task]
"""


class Request(NamedTuple):
    """A call of AWS's API.

    Parameters
    ----------
    service : str
        As boto3 calls it: ``ecs``.
    operation : str
        As AWS calls it: ``RunTask``.
    params : mapping
        Its parameters.
    """

    service: str
    operation: str
    params: Mapping[str, Any]

    def __repr__(self) -> str:
        """Return its name, without the parameters, which may be secrets."""
        return f"Request({self.service!r}, {self.operation!r})"


class Batch(NamedTuple):
    """Tasks of a launch that one RunTask call starts.

    Parameters
    ----------
    token : str
        By which AWS knows a call that is repeated, for 24 hours.
    n : int
        How many there are.
    """

    token: str
    n: int


class MachineImage(NamedTuple):
    """What instances boot.

    Parameters
    ----------
    id : str
        Its id.
    root_device : str
        The name of its root device.
    gib : int
        Size of that device in GiB, below which AWS refuses a volume.
    others : tuple of str
        The names of its other volumes.
    """

    id: str
    root_device: str = "/dev/xvda"
    gib: int = 0
    others: tuple[str, ...] = ()


_NO_IMAGE = MachineImage("")  # with Fargate


@dataclass(frozen=True)
class Place:
    """Where a run's scheduler and workers are, and what they may use.

    Parameters
    ----------
    region, vpc : str
        Region and VPC.
    subnets, security_groups : sequence of str
        Their ids.
    key : str
        ARN of the parameter with the run's private key.
    certificate : str
        The run's certificate, which is no secret.
    execution_role : str
        ARN of the role with which Fargate pulls images, writes logs and reads the key.
    profile : str
        Name of the instance profile with whose role EC2 instances do the same.
    ami, gpu_ami : MachineImage
        Machine images of instances without and with GPUs.
    """

    region: str
    vpc: str
    subnets: Sequence[str]
    security_groups: Sequence[str]
    key: str
    certificate: str
    execution_role: str = ""
    profile: str = ""
    ami: MachineImage = _NO_IMAGE
    gpu_ami: MachineImage = _NO_IMAGE


def batches(request_id: str, n: int) -> Iterator[Batch]:
    """Yield the RunTask calls of a launch.

    Examples
    --------
    >>> [*batches("f00", 12)]
    [Batch(token='f00-0', n=10), Batch(token='f00-10', n=2)]
    """
    for start in range(0, n, MAX_TASKS):
        yield Batch(f"{request_id}-{start}", min(MAX_TASKS, n - start))


def scheduler_definition(run: Run, place: Place, image: str, options: AWSOptions) -> Request:
    """Return the request for the scheduler's task definition."""
    arguments = scheduler_arguments(port=PORT, orphan_timeout=options.orphan_timeout)
    return _definition(
        run,
        place,
        options,
        part=SCHEDULER,
        size=TaskSize(options.scheduler_cpu, options.scheduler_mem),
        image=image,
        command=[*server_command(options.python, "scheduler"), *arguments],
        env={},
        tags=run.all_tags,
    )


def worker_definition(
    run: Run, place: Place, request: WorkerRequest, options: AWSOptions, scheduler: str
) -> Request:
    """Return the request for the task definition of a component's workers.

    Parameters
    ----------
    run : Run
        The run.
    place : Place
        Where its tasks are.
    request : WorkerRequest
        The component's worker.
    options : AWSOptions
        The target's options.
    scheduler : str
        The scheduler's address for workers.
    """
    size = _size(request)
    arguments = worker_arguments(
        scheduler,
        tag=request.tag,
        slots=request.slots,
        memory=request.memory or size.memory * 2**20,
        directory="/tmp",  # noqa: S108 - of a container that nobody else uses
        preload=request.preload,
        extra=("--protocol", "tls"),
    )
    program = _NAMED + watched_worker(PORT, silence=options.silence, through_notice=options.spot)
    naming = [options.python, "-P", "-c", program, request.tag]
    return _definition(
        run,
        place,
        options,
        part=request.tag,
        size=size,
        image=request.image,
        command=[*naming, *server_command(options.python, "worker"), *arguments],
        env={**thread_environment(request.cpus, request.slots), **request.env},
        tags={**request.labels, **run.all_tags, COMPONENT: request.tag},
        stop_seconds=_SPOT_STOP_SECONDS if options.spot else _STOP_SECONDS,
    )


def _size(request: WorkerRequest) -> TaskSize:
    size = request.task
    if size is None:  # refused by `AWSBatchProvider.check`
        raise ValueError(f"no Fargate task is large enough for {request.tag}")
    return size


def _definition(
    run: Run,
    place: Place,
    options: AWSOptions,
    *,
    part: str,
    size: TaskSize,
    image: str,
    command: Sequence[str],
    env: Mapping[str, str],
    tags: Mapping[str, str],
    stop_seconds: int = _STOP_SECONDS,
) -> Request:
    everything = {**env, **dask_environment(place.certificate)}
    container = {
        "name": _CONTAINER,
        "image": image,
        "essential": True,
        # It has all of its task.
        "cpu": size.cpu,
        "memory": size.memory,
        # Without it, an image's own entry point would get the command, and may expect anything.
        "entryPoint": ["env"],
        "command": [*command],
        "environment": [{"name": key, "value": value} for key, value in everything.items()],
        "secrets": [{"name": name, "valueFrom": place.key} for name in KEY_VARIABLES],
        "stopTimeout": stop_seconds,
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-region": place.region,
                "awslogs-group": log_group(run.name),
                "awslogs-stream-prefix": part,
            },
        },
    }
    role = {"taskRoleArn": options.task_role_arn} if options.task_role_arn else {}
    return Request(
        "ecs",
        "RegisterTaskDefinition",
        {
            "family": family(run.name, part),
            "executionRoleArn": place.execution_role,
            **role,
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
            "cpu": str(size.cpu),
            "memory": str(size.memory),
            "containerDefinitions": [container],
            "tags": lower_tags(tags),
        },
    )


def run_scheduler(run: Run, place: Place, options: AWSOptions) -> Request:
    """Return the request for the scheduler's task, which is never on spare capacity."""
    batch = Batch(f"{run.name}-{SCHEDULER}", 1)
    return _run(run, place, options, batch, SCHEDULER, run.all_tags, {"launchType": "FARGATE"})


def run_workers(
    run: Run,
    place: Place,
    options: AWSOptions,
    request: WorkerRequest,
    batch: Batch,
    request_id: str,
    *,
    spot: bool,
) -> Request:
    """Return the request for tasks of a component's workers."""
    spare = {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}
    capacity = spare if spot else {"launchType": "FARGATE"}
    tags = {**request.labels, **run.all_tags, COMPONENT: request.tag, REQUEST: request_id}
    return _run(run, place, options, batch, request.tag, tags, capacity)


def _run(
    run: Run,
    place: Place,
    options: AWSOptions,
    batch: Batch,
    part: str,
    tags: Mapping[str, str],
    capacity: Mapping[str, Any],
) -> Request:
    return Request(
        "ecs",
        "RunTask",
        {
            "cluster": resource_name(run.name),
            "taskDefinition": family(run.name, part),
            "count": batch.n,
            "clientToken": batch.token,
            **capacity,
            "platformVersion": _LATEST,
            "networkConfiguration": {
                "awsvpcConfiguration": {
                    "subnets": [*place.subnets],
                    "securityGroups": [*place.security_groups],
                    "assignPublicIp": "ENABLED" if options.public_ip else "DISABLED",
                }
            },
            "enableECSManagedTags": False,
            "tags": lower_tags(tags),
        },
    )


def log_stream(part: str, task: str) -> str:
    """Return the name of the log stream of a task.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/specify-log-config.html

    Examples
    --------
    >>> log_stream("gcam", "arn:aws:ecs:us-east-1:123456789012:task/scalable-aws-1/0123456789abcdef")
    'gcam/dask/0123456789abcdef'
    """
    return f"{part}/{_CONTAINER}/{task.rpartition('/')[2]}"
