"""The secrets of runs: their creation, removal and list. See `scalable.providers.cloud.gcp.keys`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from scalable.cluster.port import Leftover
from scalable.errors import NativeTimeoutError, describe_error
from scalable.providers.base import Owned
from scalable.providers.cloud.gcp.api import GceError, GceUnreachableError, service_url
from scalable.providers.cloud.gcp.keys import Keys, secret_requests
from scalable.providers.cloud.gcp.names import OWNER, RUN, Run, owner_value
from scalable.providers.cloud.gcp.refusals import explain_refusal
from scalable.providers.labels import owner_of_label

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi

__all__ = ["default_account", "delete_secret", "list_secrets", "store_key"]

_SERVICE = "secretmanager"


async def store_key(
    api: GceApi, project: str, run: Run, account: str, lifetime: float, keys: Keys
) -> Keys:
    """Keep the private key in Secret Manager, and return keys that say where it is.

    Raises
    ------
    GceError
        Secret Manager refuses it.
    GceUnreachableError
        It is not known what has come of it.
    """
    if account == "default":
        account = await default_account(api)
    for verb, path, body in secret_requests(project, run, account, lifetime, keys.private):
        try:
            await api.rest(_SERVICE, verb, path, body, creates=True)
        except GceError as error:
            if error.status != 409:  # of a call whose answer was lost: its name is this run's alone
                raise
    path = f"/v1/projects/{project}/secrets/{run.name}/versions/latest:access"
    return Keys(keys.certificate, "", service_url(_SERVICE, path))


async def default_account(api: GceApi) -> str:
    """Return the address of the project's default service account; empty if there is none."""
    found = await api.call("Projects", "get")
    return str(found.default_service_account)


async def delete_secret(api: GceApi, run: str) -> list[Leftover]:
    """Delete the secret of a run, if there is one; return it if it cannot be deleted."""
    try:
        await api.rest(_SERVICE, "DELETE", f"/v1/projects/{api.project}/secrets/{run}")
    except GceError as error:
        if error.status == 404:
            return []
        problem = str(explain_refusal(error, _SERVICE))
    except (GceUnreachableError, NativeTimeoutError) as error:
        problem = describe_error(error)
    else:
        return []
    return [Leftover("secret", run, f"{problem}; `scalable reap {run}` removes it later")]


async def list_secrets(api: GceApi) -> list[Owned]:
    """Return the secrets of all runs in the project."""
    found: list[Owned] = []
    token = ""
    while True:
        query = f"filter={quote(f'labels.{RUN}:*')}&pageToken={quote(token)}"
        page = await api.rest(_SERVICE, "GET", f"/v1/projects/{api.project}/secrets?{query}")
        for each in page.get("secrets", []):
            name, labels = each["name"].rpartition("/")[2], each.get("labels", {})
            run, owner = labels.get(RUN), labels.get(OWNER, "")
            if run:
                owner = owner_of_label(owner, owner_value)
                found.append(Owned("secret", name, run, owner, "kept", api.project))
        token = page.get("nextPageToken", "")
        if not token:
            return found
