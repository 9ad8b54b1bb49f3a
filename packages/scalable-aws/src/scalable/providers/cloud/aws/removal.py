"""Removing what a run has made, by its names, with a limit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import Leftover
from scalable.errors import NativeTimeoutError, describe_error
from scalable.providers.cloud.aws.api import AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.foundation import POLICY_NAME
from scalable.providers.cloud.aws.names import (
    RUN,
    family,
    key_parameter,
    log_group,
    profile_name,
    resource_name,
    role_name,
)
from scalable.providers.cloud.aws.refusals import (
    explain_refusal,
    is_denied,
    is_expired,
    is_missing,
    is_transient,
)
from scalable.providers.cloud.aws.states import STOP_REASON, task_id

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsApi
    from scalable.providers.cloud.aws.options import Kind

__all__ = [
    "list_instances",
    "list_tasks",
    "remove_run",
    "stop_all",
    "stop_run",
    "stop_tasks",
    "terminate",
    "terminate_run",
]

Step = tuple[str, str, Callable[[], Awaitable[None]]]
"""What is removed: its kind, its name, and how."""

_POLL = 1.0
_STOPS_AT_ONCE = 20
"""StopTask takes one task; more at once would be throttled."""

_BUSY = frozenset(
    {
        *("DependencyViolation", "InvalidGroup.InUse", "ClusterContainsTasksException"),
        *("UpdateInProgressException", "OperationAbortedException", "DeleteConflict"),
        *("ConcurrentModification", "ConcurrentModificationException"),
    }
)
"""Codes of what is still in use: network interfaces go up to some minutes after their tasks. IAM may not know yet that
what a role or profile had in it is gone."""

_SHOWN_WITHIN = 30.0
"""Seconds after which every list has what was started:
https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html."""


_RENEWED_WITHIN = 30.0
"""Seconds for which a call is repeated that is refused because credentials have expired. Each reads them again, and
what stays behind costs money."""


async def list_tasks(api: AwsApi, run: str) -> list[str]:
    """Return the ARNs of the tasks of a run that are to run."""
    return await api.pages(
        "ecs", "ListTasks", "taskArns", cluster=resource_name(run), desiredStatus="RUNNING"
    )


async def stop_tasks(api: AwsApi, run: str, tasks: Collection[str]) -> None:
    """Stop tasks of a run, some of them at a time; one that has ended is not an error.

    Raises
    ------
    AwsError, AwsUnreachableError
        One could not be stopped; all others were tried.
    """
    some = asyncio.Semaphore(_STOPS_AT_ONCE)

    async def stop(task: str) -> None:
        async with some:
            try:
                await api.call(
                    "ecs", "StopTask", cluster=resource_name(run), task=task, reason=STOP_REASON
                )
            except AwsError as error:
                if not (is_missing(error) or error.code == "InvalidParameterException"):
                    raise  # AWS says of a task that ended long ago that it was not found

    failed = await asyncio.gather(*map(stop, tasks), return_exceptions=True)
    for each in failed:
        if isinstance(each, BaseException):
            raise each


async def stop_run(
    api: AwsApi,
    run: str,
    limit: float,
    *,
    known: Collection[str] = (),
    but: Collection[str] = (),
) -> list[Leftover]:
    """Stop the tasks of a run, but for some; return those that still run after `limit` seconds.

    Tasks that are `known` are stopped even if the list does not show them yet.
    """
    heard = _now()
    deadline = heard + limit
    left: list[str] = []
    unlisted = {*known}
    while True:
        try:
            left = [task for task in {*await list_tasks(api, run), *unlisted} if task not in but]
            if not left:
                return []
            await stop_tasks(api, run, left)
            unlisted.clear()
            heard = _now()
            problem, lasting = "it still runs", False
        except AwsError as error:
            if is_missing(error):
                return []
            problem, lasting = str(explain_refusal(error)), _is_lasting(error, heard)
        except (AwsUnreachableError, NativeTimeoutError) as error:
            problem, lasting = describe_error(error), False
        if lasting or _now() > deadline:
            why = f"{problem}; {_remedy(run)}"
            if not left:
                return [Leftover("tasks of ECS cluster", resource_name(run), why, is_certain=False)]
            return [Leftover("Fargate task", task_id(task), why) for task in left]
        await asyncio.sleep(_POLL)


async def list_instances(api: AwsApi, run: str) -> list[dict[str, Any]]:
    """Return the instances of a run, also those that were terminated within the last hour."""
    reservations = await api.pages(
        "ec2",
        "DescribeInstances",
        "Reservations",
        Filters=[{"Name": f"tag:{RUN}", "Values": [run]}],
    )
    return [each for reservation in reservations for each in reservation["Instances"]]


async def terminate(api: AwsApi, instances: Collection[str]) -> set[str]:
    """Terminate instances, in one call; return those that AWS does not know: no longer, or not yet.

    A call that names one of those terminates none of the others, which therefore takes a second call. So does one that
    names an instance which may not be terminated: then each takes a call.

    Raises
    ------
    AwsError, AwsUnreachableError
        One could not be terminated; all others were tried, unless AWS is in trouble.
    """
    unknown, refused = await _terminate(api, instances)
    for error in refused.values():
        raise error
    return unknown


async def _terminate(
    api: AwsApi, instances: Collection[str]
) -> tuple[set[str], dict[str, AwsError]]:
    """Do what `terminate` does; return those that AWS does not know, and those that may not be terminated, with why."""
    rest, unknown, refused = {*instances}, set[str](), dict[str, AwsError]()
    while rest:
        try:
            await api.call("ec2", "TerminateInstances", InstanceIds=sorted(rest))
        except AwsError as error:
            named = rest.intersection(_INSTANCE.findall(error.text))
            if is_missing(error) and named:
                unknown |= named
                rest -= named
                continue
            if is_transient(error) or is_expired(error):
                raise
            if len(rest) == 1:
                return unknown, dict.fromkeys(rest, error)
            for each in sorted(rest):
                more, other = await _terminate(api, [each])
                unknown |= more
                refused |= other
        break
    return unknown, refused


_INSTANCE = re.compile(r"\bi-[0-9a-f]+")


async def terminate_run(
    api: AwsApi,
    run: str,
    limit: float,
    *,
    known: Collection[str] = (),
    but: Collection[str] = (),
) -> list[Leftover]:
    """Terminate the instances of a run, but for some; return those that exist after `limit` seconds.

    Instances that are `known` are terminated even if the list does not show them yet.
    """
    began = heard = _now()
    deadline = began + limit
    left: list[str] = []
    asked: set[str] = set()
    refused: dict[str, str] = {}
    while True:
        try:
            states = {
                each["InstanceId"]: each["State"]["Name"] for each in await list_instances(api, run)
            }
            unlisted = {*known} - states.keys() - asked if _now() - began < _SHOWN_WITHIN else set()
            exist = {name for name, state in states.items() if state != "terminated"}
            left = sorted((exist | unlisted) - {*but})
            if not left:
                return []
            new = {*left} - asked - refused.keys()
            unknown, denied = await _terminate(api, new)
            asked |= new - unknown - denied.keys()
            refused |= {name: str(explain_refusal(error)) for name, error in denied.items()}
            heard = _now()
            # Those that may not be terminated are left once all others have gone.
            problem, lasting = "it is shutting down", {*left} <= refused.keys()
        except AwsError as error:
            problem, lasting = str(explain_refusal(error)), _is_lasting(error, heard)
        except (AwsUnreachableError, NativeTimeoutError) as error:
            problem, lasting = describe_error(error), False
        if lasting or _now() > deadline:
            why = f"{problem}; {_remedy(run)}"
            if not left:
                return [Leftover("instances tagged", f"{RUN}={run}", why, is_certain=False)]
            return [
                Leftover("EC2 instance", each, f"{refused.get(each, problem)}; {_remedy(run)}")
                for each in left
            ]
        await asyncio.sleep(_POLL)


async def remove_run(
    api: AwsApi,
    run: str,
    limit: float,
    kinds: Set[Kind],
    own_roles: Set[Kind] = frozenset(),
) -> list[Leftover]:
    """Remove everything that belongs to a run; return what is left after `limit` seconds.

    The rest is removed even if a part of it cannot be. What a run is found by goes last, and stays with a rest: its
    ECS cluster, or, where it has none, its log group.

    Parameters
    ----------
    api, run : AwsApi, str
        AWS, and the run.
    limit : float
        Seconds.
    kinds : set of {"fargate", "ec2"}
        What its scheduler and workers are.
    own_roles : set of {"fargate", "ec2"}
        For what the target names a role. The run has made none then, and who removes it may have no permission to ask.
    """
    deadline = _now() + limit
    cluster: Step = "ECS cluster", resource_name(run), lambda: _remove_cluster(api, run)
    logs: Step = "log group", log_group(run), lambda: _remove_logs(api, run)
    steps: list[Step] = [
        ("parameter", key_parameter(run), lambda: _remove_parameter(api, run)),
        ("security group", resource_name(run), lambda: _remove_groups(api, run, kinds)),
    ]
    if "fargate" in kinds:
        steps += [
            ("task definitions", family(run, "*"), lambda: _remove_definitions(api, run)),
            logs,
        ]
    roles: dict[Kind, Step] = {
        "fargate": ("IAM role", role_name(run), lambda: _remove_role(api, role_name(run))),
        "ec2": ("instance profile", profile_name(run), lambda: _remove_profile(api, run)),
    }
    for kind in sorted(kinds):
        what, name, remove = roles[kind]
        steps.append((what, name, _if_allowed(remove) if kind in own_roles else remove))
    left = await stop_all(api, run, limit, kinds)
    found = await asyncio.gather(*(_until_done(step, run, deadline) for step in steps))
    left += [each for some in found for each in some]
    if not left and "ec2" in kinds:  # what was started by a call whose answer nobody has seen
        left += await terminate_run(api, run, deadline - _now())
    if not left:
        left += await _until_done(cluster if "fargate" in kinds else logs, run, deadline)
    return left


async def stop_all(
    api: AwsApi, run: str, limit: float, kinds: Set[Kind], known: Mapping[Kind, str] | None = None
) -> list[Leftover]:
    """Stop the tasks of a run, and terminate its instances; return those that still run after `limit` seconds.

    Those that are `known`, by their kind, are stopped even if no list shows them yet.
    """
    known = known or {}
    stops = {"fargate": stop_run, "ec2": terminate_run}
    found = await asyncio.gather(
        *(
            stops[kind](api, run, limit, known=[known[kind]] if known.get(kind) else [])
            for kind in sorted(kinds)
        )
    )
    return [each for some in found for each in some]


async def _until_done(step: Step, run: str, deadline: float) -> Sequence[Leftover]:
    """Repeat a step until nothing is left for it to remove, or it cannot succeed."""
    kind, name, remove = step
    heard = _now()
    while True:
        try:
            await remove()
        except AwsError as error:
            if is_missing(error):
                return []
            if error.code in _BUSY:
                heard, problem, lasting = _now(), str(error), False
            else:
                problem, lasting = str(explain_refusal(error)), _is_lasting(error, heard)
        except (AwsUnreachableError, NativeTimeoutError) as error:
            problem, lasting = describe_error(error), False
        else:
            return []
        if lasting or _now() > deadline:
            return [Leftover(kind, name, f"{problem}; {_remedy(run)}")]
        await asyncio.sleep(_POLL)


async def _remove_definitions(api: AwsApi, run: str) -> None:
    families = await api.pages(
        "ecs", "ListTaskDefinitionFamilies", "families", familyPrefix=family(run, ""), status="ALL"
    )
    for each in families:
        active, inactive = [
            await api.pages(
                "ecs", "ListTaskDefinitions", "taskDefinitionArns", familyPrefix=each, status=status
            )
            for status in ("ACTIVE", "INACTIVE")
        ]
        for arn in active:
            await api.call("ecs", "DeregisterTaskDefinition", taskDefinition=arn)
        # Ten at a time is the limit of AWS, and there are rarely two.
        arns = [*active, *inactive]
        for start in range(0, len(arns), 10):
            some = arns[start : start + 10]
            await api.call("ecs", "DeleteTaskDefinitions", taskDefinitions=some)


async def _remove_role(api: AwsApi, name: str) -> None:
    await _if_there(api.call("iam", "DeleteRolePolicy", RoleName=name, PolicyName=POLICY_NAME))
    await _if_there(api.call("iam", "DeleteRole", RoleName=name))


async def _remove_profile(api: AwsApi, run: str) -> None:
    name = profile_name(run)
    await _if_there(
        api.call("iam", "RemoveRoleFromInstanceProfile", InstanceProfileName=name, RoleName=name)
    )
    await _if_there(api.call("iam", "DeleteInstanceProfile", InstanceProfileName=name))
    await _remove_role(api, name)


async def _if_there(call: Awaitable[Any]) -> None:
    try:
        await call
    except AwsError as error:
        if not is_missing(error):
            raise


def _if_allowed(remove: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Return a step that a lacking permission does not fail."""

    async def step() -> None:
        try:
            await remove()
        except AwsError as error:
            if not is_denied(error):
                raise

    return step


async def _remove_parameter(api: AwsApi, run: str) -> None:
    await api.call("ssm", "DeleteParameter", Name=key_parameter(run))


async def _remove_logs(api: AwsApi, run: str) -> None:
    await api.call("logs", "DeleteLogGroup", logGroupName=log_group(run))


async def _remove_groups(api: AwsApi, run: str, kinds: Set[Kind]) -> None:
    # Not by the name, which people may use, too.
    only = [{"Name": f"tag:{RUN}", "Values": [run]}]
    groups = await api.pages("ec2", "DescribeSecurityGroups", "SecurityGroups", Filters=only)
    for group in groups:
        try:
            await _if_there(api.call("ec2", "DeleteSecurityGroup", GroupId=group["GroupId"]))
        except AwsError as error:
            if error.code in _BUSY:
                await _stop_again(api, run, kinds)
            raise


async def _remove_cluster(api: AwsApi, run: str) -> None:
    try:
        await api.call("ecs", "DeleteCluster", cluster=resource_name(run))
    except AwsError as error:
        if error.code in _BUSY:
            await _stop_again(api, run, {"fargate"})
        raise


async def _stop_again(api: AwsApi, run: str, kinds: Set[Kind]) -> None:
    """Stop what the list has not shown before, such as what a call has started whose answer nobody has seen."""
    if "fargate" in kinds:
        await stop_tasks(api, run, await list_tasks(api, run))
    if "ec2" not in kinds:
        return
    instances = await list_instances(api, run)
    ending = ("shutting-down", "terminated")
    await terminate(
        api, [each["InstanceId"] for each in instances if each["State"]["Name"] not in ending]
    )


def _is_lasting(error: AwsError, heard: float) -> bool:
    """Return whether a removal is refused for good, which AWS has not refused before `heard`."""
    if is_expired(error):
        return _now() - heard > _RENEWED_WITHIN
    return not is_transient(error)


def _remedy(run: str) -> str:
    return f"`scalable reap {run}` removes it later"


def _now() -> float:
    return asyncio.get_running_loop().time()
