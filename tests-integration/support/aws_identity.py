"""Roles of an account, and what they may do. moto has them, and lets everybody do everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import aws_rules
from aws_conditions import Conditions
from aws_gateway import Answer, Call, RefusedError, Rule


class Identity:
    """The roles of an account.

    Parameters
    ----------
    conditions : Conditions
        The circumstances.
    moto : callable
        Returns a client of boto3 for a service of moto's, past the gateway.
    """

    def __init__(self, conditions: Conditions, moto: Callable[[str], Any]) -> None:
        self._conditions, self._moto = conditions, moto
        self._since: dict[str, float] = {}

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Return what answers the calls."""
        return {"CreateRole": self._create, "CreateInstanceProfile": self._create}

    def renew(self) -> None:
        """Forget everything."""
        self._since.clear()

    def is_known(self, name: str) -> bool:
        """Return whether a role or an instance profile was created long enough ago to be used."""
        age = time.monotonic() - self._since.get(name, float("-inf"))
        return age >= self._conditions.roles_take

    def may_be_assumed(self, role: str, service: str) -> bool:
        """Return whether there is a role, by its name, that a service may assume."""
        iam = self._moto("iam")
        try:
            document = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
        except iam.exceptions.NoSuchEntityException:
            return False
        return self.is_known(role) and aws_rules.may_be_assumed(document, service)

    def check(self, role: str, action: str, resource: str) -> None:
        """Raise what AWS answers, unless a role may do something.

        Raises
        ------
        RefusedError
            It may not, or there is no such role.
        """
        if not aws_rules.allows(self._policies(role), action, resource):
            text = f"AccessDeniedException: User: {role} is not authorized to perform: {action} on resource: {resource}"
            raise RefusedError("AccessDeniedException", text)

    def role_of(self, profile: str) -> str:
        """Return the name of the role of an instance profile, empty if there is none."""
        iam = self._moto("iam")
        try:
            found = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]
        except iam.exceptions.NoSuchEntityException:
            return ""
        return str(found["Roles"][0]["RoleName"]) if found["Roles"] else ""

    def _policies(self, role: str) -> list[Mapping[str, Any]]:
        iam = self._moto("iam")
        try:
            names = iam.list_role_policies(RoleName=role)["PolicyNames"]
            attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        except iam.exceptions.NoSuchEntityException:
            return []
        found = [
            iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names
        ]
        for each in attached:
            arn = each["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            answer = iam.get_policy_version(PolicyArn=arn, VersionId=version)
            found.append(answer["PolicyVersion"]["Document"])
        return found

    def _create(self, call: Call, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if answer.status < 400:
            name = call.params.get("RoleName") or call.params["InstanceProfileName"]
            self._since[name] = time.monotonic()
        return answer
