"""Secret Manager and service accounts, as far as a run uses them.

https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gce_lists
from gce_rules import RefusedError, require
from gce_server import Method, Request

ACCOUNT = "1-compute@developer.gserviceaccount.com"
"""The default service account of the project."""

_ROOT = "/v1/projects/{project}"
_READER = "roles/secretmanager.secretAccessor"
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"


@dataclass
class _Secret:
    labels: Mapping[str, str]
    readers: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


class Secrets:
    """The secrets of a project, and its service accounts.

    Parameters
    ----------
    project : str
        The project.
    """

    def __init__(self, project: str) -> None:
        self.accounts: dict[str, bool] = {ACCOUNT: True}
        """Whether each is enabled."""
        self.refusals_to_read = 0
        """How many reads are refused from now on, because a permission takes effect after a while."""
        self._project = project
        self._secrets: dict[str, _Secret] = {}

    @property
    def names(self) -> list[str]:
        """Return the names of the secrets that there are."""
        return [*self._secrets]

    def clear(self) -> None:
        """Forget everything."""
        self._secrets.clear()
        self.accounts, self.refusals_to_read = {ACCOUNT: True}, 0

    def methods(self) -> list[Method]:
        """Return the methods of the API."""
        one = "secrets/{name}"
        return [
            Method("secrets.create", "POST", "secrets", self._create, _ROOT),
            Method("secrets.list", "GET", "secrets", self._list, _ROOT),
            Method("secrets.delete", "DELETE", one, self._delete, _ROOT),
            Method("secrets.setIamPolicy", "POST", f"{one}:setIamPolicy", self._set_policy, _ROOT),
            Method("secrets.addVersion", "POST", f"{one}:addVersion", self._add_version, _ROOT),
            Method(
                "secrets.versions.access",
                "GET",
                f"{one}/versions/latest:access",
                self._access,
                _ROOT,
                takes_token=True,
            ),
            Method("serviceAccounts.get", "GET", "serviceAccounts/{name}", self._account, _ROOT),
        ]

    def _create(self, request: Request) -> Mapping[str, Any]:
        name = request.query.get("secretId", "")
        body = _body(request, {"replication", "labels", "ttl"})
        require(re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name), "secretId", name, "Invalid secret ID.")
        require(body.get("replication") == {"automatic": {}}, "replication", body, "Required.")
        require(re.fullmatch(r"[0-9]+s", body["ttl"]), "ttl", body["ttl"], "Illegal duration.")
        require(int(body["ttl"][:-1]) <= 86400 * 36500, "ttl", body["ttl"], "Too long.")
        if name in self._secrets:
            raise RefusedError(409, "ALREADY_EXISTS", f"Secret [{name}] already exists.")
        self._secrets[name] = _Secret(body.get("labels", {}))
        return self._shown(name)

    def _list(self, request: Request) -> Mapping[str, Any]:
        shown = [self._shown(name) for name in self._secrets]
        found = gce_lists.page(shown, request.query, 3)
        return {"secrets": found.pop("items"), **found}

    def _delete(self, request: Request) -> Mapping[str, Any]:
        self._get(request)
        del self._secrets[request.name]
        return {}

    def _set_policy(self, request: Request) -> Mapping[str, Any]:
        secret = self._get(request)
        (binding,) = _body(request, {"policy"})["policy"]["bindings"]
        require(binding["role"] == _READER, "role", binding["role"], "Tests know another one.")
        for member in binding["members"]:
            kind, _, account = member.partition(":")
            is_known = kind == "serviceAccount" and account in self.accounts
            require(is_known, "member", member, f"Service account {account} does not exist.")
        secret.readers = binding["members"]
        return {"bindings": [binding]}

    def _add_version(self, request: Request) -> Mapping[str, Any]:
        secret = self._get(request)
        data = _body(request, {"payload"})["payload"]["data"]
        require(re.fullmatch(_BASE64, data), "payload.data", "...", "Base64 decoding failed.")
        secret.versions.append(data)
        return {"name": f"{self._shown(request.name)['name']}/versions/{len(secret.versions)}"}

    def _access(self, request: Request) -> Mapping[str, Any]:
        secret = self._get(request)
        # The token of each machine is that of the default account.
        is_allowed = (
            request.token == "Bearer tests" and f"serviceAccount:{ACCOUNT}" in secret.readers
        )
        if not is_allowed or self.refusals_to_read > 0:
            self.refusals_to_read -= 1
            message = "Permission 'secretmanager.versions.access' denied for the secret."
            raise RefusedError(403, "PERMISSION_DENIED", message)
        if not secret.versions:
            raise RefusedError(404, "NOT_FOUND", "Secret Version [latest] not found.")
        return {"name": request.name, "payload": {"data": secret.versions[-1]}}

    def _account(self, request: Request) -> Mapping[str, Any]:
        name = request.name.replace("%40", "@")
        if name not in self.accounts:
            raise RefusedError(404, "NOT_FOUND", f"Unknown service account: {name}")
        return {"email": name, **({} if self.accounts[name] else {"disabled": True})}

    def _get(self, request: Request) -> _Secret:
        if request.parts["project"] != self._project or request.name not in self._secrets:
            raise RefusedError(404, "NOT_FOUND", f"Secret [{request.name}] not found.")
        return self._secrets[request.name]

    def _shown(self, name: str) -> dict[str, Any]:
        return {"name": f"projects/1/secrets/{name}", "labels": self._secrets[name].labels}


def _body(request: Request, fields: set[str]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.body)
    require({*body} <= fields, "body", {*body} - fields, "Cannot find field.")
    return body
