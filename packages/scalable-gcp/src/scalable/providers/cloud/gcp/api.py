"""The only module that talks to Google Cloud: calls of Compute Engine through its REST clients, in threads.

Where the variable ``SCALABLE_GCE_ENDPOINT`` is set, calls go there in place of ``https://compute.googleapis.com``: to
an endpoint of Private Service Connect (``https://compute-name.p.googleapis.com``), or to a service that stands in for
Compute Engine on this machine (``http://127.0.0.1:8080``). Over ``http``, a token would be readable on the way, so such
an endpoint must be a loopback address, and calls to it carry no credentials at all: none are looked for.

Only methods that return the bare operation are used (``bulk_insert_unary``): the objects that the others return poll
``compute.googleapis.com`` whatever the endpoint is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import google.auth
from google.api_core import exceptions, retry
from google.auth import credentials as auth
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import compute_v1
from google.protobuf.json_format import ParseError

from scalable.cluster.port import Leftover
from scalable.errors import ProviderNotSetUpError, describe_error
from scalable.providers.blocking import BlockingCalls
from scalable.providers.cloud.gcp.refusals import is_expired, is_transient

__all__ = ["ENDPOINT", "GceApi", "GceError", "GceUnreachableError", "service_url"]

ENDPOINT = "SCALABLE_GCE_ENDPOINT"
"""The variable with the endpoint of Compute Engine."""

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_DEADLINE = 110.0
"""Seconds for one call with its retries; below the limit of the engine, so that it learns the reason."""
_REQUEST_TIMEOUT = 60.0
_RETRY_TIMEOUT = 45.0
_SETTLE_LIMIT = 60.0
"""Seconds for calls under way that nobody waits for any more."""
_MAX_DELETIONS = 16
"""Deletions at a time."""

_REMEDY = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the key "
    "file of a service account"
)


class GceError(Exception):
    """Compute Engine has refused a call, or an operation has failed.

    Parameters
    ----------
    call : str
        The call: ``Instances.bulkInsert``.
    code : str
        Its code or reason: ``ZONE_RESOURCE_POOL_EXHAUSTED``, ``accessNotConfigured``.
    text : str
        Its message.
    status : int
        The status of its answer.
    """

    def __init__(self, call: str, code: str, text: str, status: int = 400) -> None:
        self.call, self.code, self.text, self.status = call, code, text, status
        super().__init__(f"{call}: {code}: {text}")


class GceUnreachableError(OSError):
    """Compute Engine does not answer."""


_is_server_error = retry.if_exception_type(
    exceptions.BadGateway, exceptions.GatewayTimeout, ConnectionError
)


def _is_transient(error: Exception) -> bool:
    if isinstance(
        error, exceptions.Forbidden
    ):  # as which requests are refused that are too many at present
        found = _translated(error, "")
        return isinstance(found, GceError) and is_transient(found)
    return bool(_is_server_error(error) or retry.if_transient_error(error))


_RETRY = retry.Retry(_is_transient, initial=0.5, maximum=10, timeout=_RETRY_TIMEOUT)


class GceApi:
    """Calls of Compute Engine in one project, from coroutines of any event loop.

    Parameters
    ----------
    name : str
        What the threads are called: the run's name.
    project : str or None
        The project; None for the one of the credentials.
    """

    def __init__(self, name: str, project: str | None) -> None:
        self._wanted = project
        self._lock = threading.Lock()
        self._free: dict[str, list[Any]] = {}
        """Clients that no thread uses now; a client is used by one thread at a time."""
        self._credentials: tuple[auth.Credentials, str | None] | None = None
        self._creating = BlockingCalls(name, deadline=_DEADLINE)
        self._calls = BlockingCalls(name, deadline=_DEADLINE)
        self._deletions = asyncio.Semaphore(_MAX_DELETIONS)
        self._requested: set[str] = set()
        """The ids of the requests that create machines."""

    # -- Credentials

    async def check_credentials(self) -> str:
        """Find credentials and project, perhaps by asking the machine's own metadata; return the project.

        Raises
        ------
        ProviderNotSetUpError
            There are none, or the endpoint is not safe.
        """
        return await self._calls.run(lambda: self.project)

    @property
    def project(self) -> str:
        """The project."""
        project = self._wanted or self._find()[1]
        if not project:
            remedy = "set the target's project_id, or GOOGLE_CLOUD_PROJECT"
            raise ProviderNotSetUpError("gcp", "no project is set", remedy)
        return project

    def _find(self) -> tuple[auth.Credentials, str | None]:
        with self._lock:
            if self._credentials is None:
                self._credentials = _find_credentials()
            return self._credentials

    # -- Calls

    async def create(self, zone: str, body: Mapping[str, Any], request_id: str) -> Any:
        """Make one attempt to create machines, for which `settle` waits also if nobody else does; return its operation.

        Raises
        ------
        GceError
            Compute Engine refuses it.
        GceUnreachableError
            It is not known what has come of it.
        """
        self._requested.add(request_id)
        resource = compute_v1.BulkInsertInstanceResource.from_json(json.dumps(body))
        request = {
            "zone": zone,
            "request_id": request_id,
            "bulk_insert_instance_resource_resource": resource,
        }
        return await self._creating.run(
            self._ask, "Instances", "bulk_insert_unary", request, once=True
        )

    async def call(self, service: str, method: str, **request: Any) -> Any:
        """Make a call that creates nothing."""
        return await self._calls.run(self._ask, service, method, request)

    async def delete(self, zone: str, name: str) -> None:
        """Request the end of a machine; one that is gone already is no error."""
        async with self._deletions:
            try:
                await self.call("Instances", "delete_unary", zone=zone, instance=name)
            except GceError as error:
                if error.status != 404:
                    raise

    async def instances(self, zones: Sequence[str], label: str, value: str) -> list[Any]:
        """Return the machines with a label, from one list for each zone."""
        lists = await asyncio.gather(
            *(
                self.call("Instances", "list", zone=zone, filter=f'labels.{label} = "{value}"')
                for zone in zones
            )
        )
        return [each for some in lists for each in some]

    async def console(self, zone: str, name: str) -> str:
        """Return what a machine has written to its console; empty where that cannot be read."""
        try:
            found = await self.call("Instances", "get_serial_port_output", zone=zone, instance=name)
        except (GceError, GceUnreachableError):
            return ""  # refused unless the machine runs
        return str(found.contents)

    async def is_creating(self, zones: Sequence[str]) -> bool:
        """Return whether machines that were requested here are still being created, also if no answer told so."""
        if not self._requested:
            return False
        only = '(operationType = "bulkInsert") AND (status != "DONE")'
        lists = await asyncio.gather(
            *(self.call("ZoneOperations", "list", zone=zone, filter=only) for zone in zones)
        )
        return any(each.client_operation_id in self._requested for some in lists for each in some)

    async def zones(self) -> list[str]:
        """Return the zones of all regions."""
        return sorted(zone.name for zone in await self.call("Zones", "list"))

    async def rest(
        self,
        service: str,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        creates: bool = False,
    ) -> Mapping[str, Any]:
        """Return the answer of another service of Google's, such as ``secretmanager``, as JSON.

        Parameters
        ----------
        service, verb, path : str
            The service, and the request to it.
        body : mapping, optional
            Of the request.
        creates : bool
            Whether it creates something. `settle` waits for such a call also if nobody else does.
        """
        calls = self._creating if creates else self._calls
        return await calls.run(self._rest, service, verb, path, body)

    def _rest(
        self, service: str, verb: str, path: str, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        url = service_url(service, path)
        try:
            with AuthorizedSession(self._find()[0]) as session:  # type: ignore[no-untyped-call]
                return _RETRY(_request)(session, verb, url, body)
        except _ERRORS as error:
            raise _translated(error, f"{service}: {verb} {path.partition('?')[0]}") from error

    async def settle(self) -> list[Leftover]:
        """Create nothing from now on; wait for what is being created, and return what is not answered in time."""
        return [call.leftover for call in await self._creating.settle(_SETTLE_LIMIT)]

    async def close(self) -> None:
        """Close all connections. A further call opens new ones."""
        with self._lock:
            free, self._free = self._free, {}
        for client in (each for some in free.values() for each in some):
            client.transport.close()

    def _ask(
        self, service: str, method: str, request: Mapping[str, Any], *, once: bool = False
    ) -> Any:
        name = f"{service}.{method.removesuffix('_unary')}"
        with self._lock:
            free = self._free.setdefault(service, [])
            client = free.pop() if free else None
        try:
            if client is None:
                client = getattr(compute_v1, f"{service}Client")(
                    credentials=self._find()[0], client_options={"api_endpoint": _endpoint()}
                )
            try:
                answer = getattr(client, method)(
                    request={"project": self.project, **request},
                    retry=None if once else _RETRY,
                    timeout=_REQUEST_TIMEOUT,
                )
                # Further pages are fetched here, in the thread.
                return list(answer) if hasattr(answer, "pages") else answer
            finally:
                with self._lock:
                    self._free.setdefault(service, []).append(client)
        except _ERRORS as error:
            found = _translated(error, name)
            if isinstance(found, GceError) and is_expired(found):
                with self._lock:  # credentials may have been renewed in their file
                    self._credentials, self._free = None, {}
            raise found from error


def _request(
    session: AuthorizedSession, verb: str, url: str, body: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    send: Any = session.request  # untyped
    answer = send(verb, url, json=body, timeout=_REQUEST_TIMEOUT)
    if not answer.ok:
        raise exceptions.from_http_response(answer)  # type: ignore[no-untyped-call]
    found: Mapping[str, Any] = answer.json()
    return found


_ERRORS = (
    exceptions.GoogleAPICallError,
    exceptions.RetryError,
    GoogleAuthError,
    ConnectionError,
    OSError,
    ParseError,
)
"""What Google's libraries raise. The last one is none of the others: an answer that is not of Google, but of a proxy on
the way."""


def _translated(error: Exception, call: str) -> Exception:
    """Return an error of Google's libraries as ours."""
    if isinstance(error, exceptions.RetryError) and isinstance(error.cause, Exception):
        return _translated(error.cause, call)
    if isinstance(error, exceptions.GoogleAPICallError):
        reasons = [each.get("reason", "") for each in error.errors if isinstance(each, Mapping)]
        code = next(filter(None, reasons), None) or error.reason or type(error).__name__
        text = " ".join(str(error.message).split())
        return GceError(call, str(code), text, int(error.code or 500))
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return GceError(call, "unauthenticated", " ".join(str(error).split()), 401)
    return GceUnreachableError(f"{call}: {' '.join(describe_error(error).split())}")


def _endpoint() -> str:
    """Return the endpoint of Compute Engine.

    Raises
    ------
    ProviderNotSetUpError
        A token would be readable on the way there.
    """
    endpoint = os.environ.get(ENDPOINT, "") or "https://compute.googleapis.com"
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return endpoint.rstrip("/")
    remedy = f"set {ENDPOINT} to an https:// URL, or unset it"
    raise ProviderNotSetUpError(
        "gcp", f"{ENDPOINT} is no https:// URL, and not a loopback address", remedy
    )


def service_url(service: str, path: str) -> str:
    """Return the URL of a request to another service of Google's, which what stands in for Compute Engine has as well.

    Examples
    --------
    >>> service_url("iam", "/v1/projects/-/serviceAccounts/me")
    'https://iam.googleapis.com/v1/projects/-/serviceAccounts/me'
    """
    endpoint = _endpoint()
    own = endpoint if endpoint.startswith("http:") else f"https://{service}.googleapis.com"
    return own + path


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _find_credentials() -> tuple[auth.Credentials, str | None]:
    if _endpoint().startswith("http:"):
        return auth.AnonymousCredentials(), os.environ.get("GOOGLE_CLOUD_PROJECT")  # type: ignore[no-untyped-call]
    try:
        found, project = google.auth.default(scopes=_SCOPES)
    except DefaultCredentialsError as error:
        said = " ".join(describe_error(error).split())
        raise ProviderNotSetUpError("gcp", f"no credentials were found: {said}", _REMEDY) from error
    return found, project
