"""Rules of AWS that moto does not have: sizes, limits, policies. Pure functions, each with its source."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from typing import Any

# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
FARGATE_MEMORY: Mapping[int, Iterable[int]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4097, 1024),
    1024: range(2048, 8193, 1024),
    2048: range(4096, 16385, 1024),
    4096: range(8192, 30721, 1024),
    8192: range(16384, 61441, 4096),
    16384: range(32768, 122881, 8192),
    32768: (61440, 122880, 249856),
}
"""The MiB of memory that a task may have, by its CPU units."""

# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
TASKS_OF_A_CALL = 10
OVERRIDES_LIMIT = 8192
TOKEN_LIMIT = 64
TASKS_DESCRIBED_AT_ONCE = 100
TAGS_LIMIT = 50
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html
DEFINITION_LIMIT = 65536
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
USER_DATA_LIMIT = 16384


def is_fargate_size(cpu: object, memory: object) -> bool:
    """Return whether Fargate has a task of this size.

    Examples
    --------
    >>> is_fargate_size("256", "512"), is_fargate_size("256", "4096"), is_fargate_size(None, None)
    (True, False, False)
    """
    try:
        return int(f"{memory}") in FARGATE_MEMORY.get(int(f"{cpu}"), ())
    except ValueError:
        return False


def allows(policies: Iterable[str | Mapping[str, Any]], action: str, resource: str) -> bool:
    """Return whether policies of a role allow an action.

    Parameters
    ----------
    policies : iterable of str or mapping
        The policies; JSON or what it contains.
    action, resource : str
        ``ssm:GetParameters`` and the ARN of what it is done to.

    Examples
    --------
    >>> policy = {"Statement": [{"Effect": "Allow", "Action": "ssm:Get*", "Resource": "arn:aws:ssm:*:*:parameter/a/*"}]}
    >>> allows([policy], "ssm:GetParameters", "arn:aws:ssm:us-east-1:1:parameter/a/key")
    True
    >>> allows([policy], "ssm:GetParameters", "arn:aws:ssm:us-east-1:1:parameter/b/key")
    False
    """
    for policy in policies:
        data = json.loads(policy) if isinstance(policy, str) else policy
        for statement in _as_list(data["Statement"]):
            if (
                statement["Effect"] == "Allow"
                and any(_matches(action, each) for each in _as_list(statement["Action"]))
                and any(_matches(resource, each) for each in _as_list(statement["Resource"]))
            ):
                return True
    return False


def may_be_assumed(document: str | Mapping[str, Any], service: str) -> bool:
    """Return whether a role's trust policy lets a service of AWS assume it."""
    data = json.loads(document) if isinstance(document, str) else document
    return any(
        statement["Effect"] == "Allow"
        and "sts:AssumeRole" in _as_list(statement["Action"])
        and service in _as_list(statement.get("Principal", {}).get("Service", []))
        for statement in _as_list(data["Statement"])
    )


def _matches(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
