"""The only module that talks to AWS: calls through boto3, in threads, and their errors."""

from __future__ import annotations

import functools
import http.client
import ipaddress
import os
import re
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
)
from botocore.exceptions import ConnectionError as BrokenConnectionError
from botocore.parsers import ResponseParserError

from scalable.cluster.port import Leftover
from scalable.errors import ProviderNotSetUpError, describe_error, did_you_mean
from scalable.providers.blocking import BlockingCalls
from scalable.providers.cloud.aws.refusals import is_expired
from scalable.providers.cloud.aws.tasks import Request

__all__ = ["AwsApi", "AwsError", "AwsUnreachableError"]

T = TypeVar("T")

_CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=50,
    # Throttling, answers of a server in trouble and broken connections are tried again with growing, random pauses:
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
    retries={"mode": "standard", "total_max_attempts": 6},
    user_agent_extra="scalable",
)
_ONE_ATTEMPT = _CONFIG.merge(Config(retries={"total_max_attempts": 1}))
_DEADLINE = 110.0
"""Seconds for one call with its retries; below the limit of the engine, so that it learns the reason."""

_SETTLE_LIMIT = 30.0
"""Seconds for calls under way that nobody waits for any more."""

_WHO_AM_I = "https://checkip.amazonaws.com"
"""Answers with the public address of whoever asks."""

_ENCODED = re.compile(r"\s*Encoded authorization failure message: \S+")
"""What EC2 adds for administrators to the message of a denied call: hundreds of characters."""

_REMEDY = "run `aws configure` or `aws sso login`, or set AWS_PROFILE; `aws sts get-caller-identity` must work"


class AwsError(Exception):
    """AWS has refused a call.

    Parameters
    ----------
    operation : str
        The call: ``RunTask``.
    code : str
        Its code: ``AccessDeniedException``.
    text : str
        Its message.
    status : int
        The status of its answer.
    """

    def __init__(self, operation: str, code: str, text: str, status: int = 400) -> None:
        self.operation, self.code, self.text, self.status = operation, code, text, status
        super().__init__(f"{operation}: {code}: {text}")


class AwsUnreachableError(OSError):
    """AWS does not answer."""


class AwsApi:
    """Calls of AWS in one region, from coroutines of any event loop.

    Parameters
    ----------
    name : str
        What the threads are called: the run's name.
    region : str or None
        The region; None for the one of the AWS configuration.
    """

    def __init__(self, name: str, region: str | None) -> None:
        self._wanted = region
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._creating = BlockingCalls(name, deadline=_DEADLINE)
        self._calls = BlockingCalls(name, deadline=_DEADLINE)

    # -- Credentials

    @functools.cached_property
    def _session(self) -> boto3.Session:
        # botocore reads AWS_DEFAULT_REGION; AWS's other tools AWS_REGION.
        region = self._wanted or os.environ.get("AWS_REGION") or None
        try:
            return boto3.Session(region_name=region)
        except BotoCoreError as error:  # a profile that does not exist
            raise ProviderNotSetUpError("aws", describe_error(error), _REMEDY) from error

    @property
    def region(self) -> str:
        """The region.

        Raises
        ------
        ProviderNotSetUpError
            Neither the target nor the AWS configuration names one.
        """
        with self._lock:
            region = self._session.region_name
        if not region:
            remedy = "set the target's region, or AWS_DEFAULT_REGION"
            raise ProviderNotSetUpError("aws", "no region is set", remedy)
        return str(region)

    def _client(self, service: str, region: str, *, once: bool = False) -> Any:
        with self._lock:  # a session is not thread-safe, a client is
            if (service, region, once) not in self._clients:
                make: Callable[..., Any] = self._session.client
                config = _ONE_ATTEMPT if once else _CONFIG
                self._clients[service, region, once] = make(
                    service, region_name=region, config=config
                )
            return self._clients[service, region, once]

    async def close(self) -> None:
        """Close all connections. A further call opens new ones."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    async def check_credentials(self) -> None:
        """Find credentials, perhaps by asking the machine's own metadata.

        Raises
        ------
        ProviderNotSetUpError
            There are none.
        """
        await self._calls.run(self._find_credentials)

    def _find_credentials(self) -> None:
        with self._lock:
            session = self._session
        try:
            found = session.get_credentials()
        except BotoCoreError as error:
            raise ProviderNotSetUpError("aws", describe_error(error), _REMEDY) from error
        if found is None:
            raise ProviderNotSetUpError("aws", "no credentials were found", _REMEDY)

    # -- Calls

    async def create(self, request: Request, *, once: bool = False) -> dict[str, Any]:
        """Make a call that creates something, for which `settle` waits also if nobody else does any more.

        Parameters
        ----------
        request : Request
            The call.
        once : bool
            Whether it is made once only, whatever comes of it, so that an error is that of this one attempt.
        """
        return await self._creating.run(self._ask, request, None, once=once)

    async def call(self, service: str, operation: str, **params: Any) -> dict[str, Any]:
        """Make a call that creates nothing.

        Raises
        ------
        AwsError
            AWS refuses it.
        AwsUnreachableError
            AWS does not answer.
        """
        return await self._calls.run(self._ask, Request(service, operation, params), None)

    async def call_in(
        self, region: str, service: str, operation: str, **params: Any
    ) -> dict[str, Any]:
        """Make a call in another region, in which a service is that others do not have."""
        return await self._calls.run(self._ask, Request(service, operation, params), region)

    async def pages(self, service: str, operation: str, key: str, **params: Any) -> list[Any]:
        """Return the items of all pages of a list."""
        return await self._calls.run(self._list, Request(service, operation, params), key, None)

    async def pages_in(
        self, region: str, service: str, operation: str, key: str, **params: Any
    ) -> list[Any]:
        """Return the items of all pages of a list of another region, as `call_in` does for one answer."""
        request = Request(service, operation, params)
        return await self._calls.run(self._list, request, key, region)

    async def settle(self) -> list[Leftover]:
        """Create nothing from now on; wait for what is being created, and return what is not answered in time."""
        return [call.leftover for call in await self._creating.settle(_SETTLE_LIMIT)]

    async def public_address(self) -> str:
        """Return the address by which this machine is known outside of its own network.

        Raises
        ------
        AwsUnreachableError
            It cannot be learnt.
        """
        return await self._calls.run(_ask_for_address)

    def _ask(self, request: Request, region: str | None, *, once: bool = False) -> dict[str, Any]:
        try:
            client = self._client(request.service, region or self.region, once=once)
            answer: dict[str, Any] = getattr(client, xform_name(request.operation))(
                **request.params
            )
        except _ERRORS as error:
            raise self._error(error, request.operation) from error
        return answer

    def _list(self, request: Request, key: str, region: str | None) -> list[Any]:
        try:
            client = self._client(request.service, region or self.region)
            pages = client.get_paginator(xform_name(request.operation)).paginate(**request.params)
            return [item for page in pages for item in page.get(key, ())]
        except _ERRORS as error:
            raise self._error(error, request.operation) from error

    def _error(
        self, error: ClientError | BotoCoreError | ResponseParserError, operation: str
    ) -> Exception:
        """Return an error of botocore as ours; if credentials have expired, the next call looks for new ones.

        botocore reads credentials that are in a file once only.
        """
        found = _translated(error, operation)
        if isinstance(error, EndpointConnectionError):
            return AwsUnreachableError(f"{found}{self._region_hint()}")
        if isinstance(found, AwsError) and is_expired(found):
            with self._lock:
                self._clients = {}
                self.__dict__.pop("_session", None)
        return found

    def _region_hint(self) -> str:
        """Return that botocore does not know the region, if that is so; it may be newer than that."""
        with self._lock:
            session, region = self._session, str(self._session.region_name)
            known = {
                each
                for partition in session.get_available_partitions()
                for each in session.get_available_regions("ec2", partition)
            }
        if region in known:
            return ""
        hint = did_you_mean(region, known)
        return f"; botocore knows no region {region!r}{hint}: correct the target's region"


_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""What boto3 raises. The last one is none of the others: an answer that is not of AWS, but of a proxy on the way."""


def _translated(
    error: ClientError | BotoCoreError | ResponseParserError, operation: str
) -> Exception:
    """Return an error of botocore as ours."""
    if isinstance(error, ClientError):
        details: Mapping[str, Any] = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        text = " ".join(_ENCODED.sub("", str(details.get("Message", ""))).split())
        return AwsError(operation, str(details.get("Code", "Unknown")), text, status)
    text = " ".join(str(error).split())
    if isinstance(error, BrokenConnectionError | HTTPClientError | ResponseParserError):
        return AwsUnreachableError(f"{operation}: {text}")
    if isinstance(error, NoRegionError):
        return ProviderNotSetUpError("aws", text, "set the target's region")
    if isinstance(error, NoCredentialsError) or _LOGGED_OUT.search(type(error).__name__):
        return AwsError(operation, "ExpiredToken", f"{text}; {_REMEDY}")
    # A parameter that AWS would refuse, for example.
    return AwsError(operation, type(error).__name__, text)


_LOGGED_OUT = re.compile("SSO|Token|Credential|Login")
"""In the names of botocore's errors about credentials that are not there, or have to be renewed."""


def _ask_for_address() -> str:
    try:
        with urllib.request.urlopen(_WHO_AM_I, timeout=10) as answer:
            # Not whatever a proxy may answer instead.
            return str(ipaddress.IPv4Address(answer.read(100).decode().strip()))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise AwsUnreachableError(f"{_WHO_AM_I}: {describe_error(error)}") from error
