"""The only module that talks to the API server: requests, the streams of forwarded ports, and their errors.

kr8s finds the server and the credentials (kubeconfig, commands that issue tokens, a pod's service account), and renews
them. Everything else is plain HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import httpx_ws

from scalable.errors import ProviderNotSetUpError, describe_error

if TYPE_CHECKING:
    from httpx_ws import AsyncWebSocketSession

__all__ = ["ApiError", "ApiUnreachableError", "KubernetesApi", "PodStream"]

HOMES = {
    "daskclusters": "apis/kubernetes.dask.org/v1",
    "daskworkergroups": "apis/kubernetes.dask.org/v1",
    "deployments": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "localqueues": "apis/kueue.x-k8s.io/v1beta1",
    "workloads": "apis/kueue.x-k8s.io/v1beta1",
}
"""The API that a kind of object belongs to, if not the core's."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod has the credentials of its service account, and the name of its namespace."""

_CLOSE_PATIENCE = 3.0
"""Seconds for the answers that nobody waits for any more when the connections are closed."""

_PING_PATIENCE = 300.0
"""Seconds for the answer to a ping of a stream. A laptop that sleeps or changes its network is back before that."""

_NORMAL_CLOSURE = 1000
"""The code of a websocket that was closed as intended (RFC 6455)."""

_PAGE = 500
"""Objects in one answer to a list, as kubectl's."""


class ApiError(Exception):
    """The API server has refused a request.

    Parameters
    ----------
    code : int
        The status of its answer.
    text : str
        Its message.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


class ApiUnreachableError(OSError):
    """The API server does not answer.

    Attributes
    ----------
    was_sent : bool
        Whether the request may have reached it.
    """

    was_sent = True


class KubernetesApi:
    """Requests to the API server, in one namespace. All on one event loop.

    Parameters
    ----------
    context : str or None
        The context of the kubeconfig; None for the current one.
    namespace : str or None
        The namespace; None for the kubeconfig's, or that of the pod in which this runs.
    """

    def __init__(self, context: str | None, namespace: str | None) -> None:
        self.namespace = namespace or "default"
        self.server = ""
        self._context, self._wanted = context, namespace
        self._auth: Any = None
        self._client: httpx.AsyncClient | None = None
        self._expired: list[httpx.AsyncClient] = []
        self._opening = asyncio.Lock()
        self._sending: set[asyncio.Task[httpx.Response]] = set()

    def for_another_loop(self) -> KubernetesApi:
        """Return the same, not opened yet, to be used on another event loop."""
        return KubernetesApi(self._context, self._wanted)

    # -- Credentials

    async def open(self) -> None:
        """Read the credentials. Nothing is sent.

        Raises
        ------
        ProviderNotSetUpError
            There are none, or not those of the context.
        """
        async with self._opening:
            if self._client is None:
                await self._open()

    async def _open(self) -> None:
        from kr8s.asyncio import Api

        # Not by kr8s.asyncio.api(), whose objects are shared and which warns of versions that it was not tested with.
        auth: Any = Api(
            bypass_factory=True,
            context=self._context,
            serviceaccount=_SERVICE_ACCOUNT,
            namespace=self._wanted or "default",  # see `_own_namespace`
        ).auth
        try:
            await auth
            client = await _make_client(auth)
        except Exception as error:  # kr8s raises what it meets: ValueError, KeyError, OSError
            where = f"context {self._context!r}" if self._context else "no credentials"
            remedy = "set KUBECONFIG, or the target's context to one that `kubectl config get-contexts` lists"
            detail = f"{where}: {' '.join(describe_error(error).split())}"
            raise ProviderNotSetUpError("kubernetes", detail, remedy) from error
        self.server = str(auth.server)
        self.namespace = self._wanted or _own_namespace(auth)
        self._auth, self._client = auth, client

    def _credentials(self) -> dict[str, Any]:
        """Return what each request needs beside its content."""
        token, name = self._auth.token, self._auth.tls_server_name
        return {
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "extensions": {"sni_hostname": name} if name else {},
        }

    async def close(self) -> None:
        """Close all connections, also under a request that has no answer within seconds."""
        async with self._opening:
            clients = [*self._expired, *([self._client] if self._client else [])]
            self._client, self._expired = None, []
        if self._sending:
            await asyncio.wait([*self._sending], timeout=_CLOSE_PATIENCE)
        under_way = [*self._sending]
        for sending in under_way:
            sending.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        for client in clients:
            await client.aclose()

    # -- Requests

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a request, and return its answer, which is not an error.

        Raises
        ------
        ApiError
            The server refuses it.
        ApiUnreachableError
            The server does not answer.
        """
        client = self._opened()
        answer = await self._send(client, method, path, body, params)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await self._renew(client)
            answer = await self._send(self._opened(), method, path, body, params)
        if answer.is_error:
            raise ApiError(answer.status_code, _message(answer))
        if answer.is_redirect:  # to a page on which people log in, for example
            raise self._stranger(f"it answers {answer.status_code}")
        return answer

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send a request, and return the object that is its answer; raises what `request` does."""
        answer = await self.request(method, path, body=body, params=params)
        try:
            found = answer.json()
        except ValueError as error:
            raise self._stranger("its answer is no JSON") from error
        if not isinstance(found, dict):
            raise self._stranger("its answer is no object")
        return found

    def _stranger(self, why: str) -> ApiUnreachableError:
        """Return the error of an answer that no API server gives, but a proxy on the way."""
        message = f"what answers at {self.server} is not the API server ({why}); check the network, a VPN or a proxy"
        return ApiUnreachableError(message)

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            raise ApiUnreachableError("the connection to the API server is closed")
        return self._client

    async def _send(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
    ) -> httpx.Response:
        """Return the answer to a request. If this is cancelled, the request goes on, and `settle` waits for it.

        What was to be created is known then, and no socket is left: httpcore 1.0.9 forgets that of a TLS handshake
        that is cancelled.
        """
        sent = self._credentials()
        if method == "PATCH":
            sent["headers"]["Content-Type"] = "application/merge-patch+json"
        sending = asyncio.ensure_future(
            client.request(method, path, json=body, params=params, **sent)
        )
        self._sending.add(sending)
        sending.add_done_callback(self._sent)
        try:
            return await asyncio.shield(sending)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            unreachable = ApiUnreachableError(
                f"the API server {self.server} does not answer: {why}"
            )
            unreachable.was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise unreachable from error

    def _sent(self, sending: asyncio.Task[httpx.Response]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled():
            sending.exception()  # of which asyncio would complain if nobody waits for it any more

    async def settle(self) -> None:
        """Wait until no request is under way; each has a limit of its own."""
        while self._sending:
            await asyncio.wait([*self._sending])

    async def _renew(self, client: httpx.AsyncClient) -> None:
        """Read the credentials again, because those of this client have expired.

        Others may still use its connections, such as to a forwarded port, so that these are closed at the end.
        """
        async with self._opening:
            if self._client is not client:  # somebody has done it, or all is closed
                return
            try:
                await self._auth.reauthenticate()
                renewed = await _make_client(self._auth)
            except (
                Exception
            ) as error:  # as in `_open`, and whatever becomes of the command that issues tokens
                why = " ".join(describe_error(error).split())
                message = f"the credentials have expired, and cannot be renewed: {why}"
                raise ApiError(httpx.codes.UNAUTHORIZED, message) from error
            self._expired.append(client)
            self._client = renewed

    def _path(self, kind: str, name: str = "") -> str:
        home = HOMES.get(kind, "api/v1")
        return f"/{home}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return an object."""
        return await self.ask("GET", self._path(kind, name))

    async def list(self, kind: str, selector: str = "", **params: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that have these labels."""
        found: list[dict[str, Any]] = []
        wanted: dict[str, Any] = {**params, "limit": _PAGE}
        if selector:
            wanted["labelSelector"] = selector
        while True:
            try:
                answer = await self.ask("GET", self._path(kind), params=wanted)
            except ApiError as error:
                # The place in the list is kept for some minutes only.
                if error.code != httpx.codes.GONE or not wanted.pop("continue", ""):
                    raise
                found.clear()
                continue
            found += answer["items"]
            token = answer["metadata"].get("continue")
            if not token:
                return found
            wanted["continue"] = token

    async def create(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object and return it."""
        return await self.ask("POST", self._path(kind), body=body)

    async def patch(self, kind: str, name: str, body: Mapping[str, Any]) -> None:
        """Change an object by a merge patch."""
        await self.request("PATCH", self._path(kind, name), body=body)

    async def delete(self, kind: str, name: str) -> None:
        """Delete an object, and all that it owns thereafter; one that does not exist is not an error."""
        body = {"propagationPolicy": "Background"}
        try:
            await self.request("DELETE", self._path(kind, name), body=body)
        except ApiError as error:
            if error.code != httpx.codes.NOT_FOUND:
                raise

    async def log(
        self, pod: str, container: str, *, previous: bool, lines: int = 20, size: int = 100_000
    ) -> str:
        """Return the last lines of a container's log, at most `size` characters; empty if there is none."""
        params = {"container": container, "previous": str(previous).lower(), "tailLines": lines}
        try:
            answer = await self.request("GET", self._path("pods", f"{pod}/log"), params=params)
        except ApiError:  # the log is only an addition to what is known of a container
            return ""
        return answer.text[-size:].strip()

    async def first_log(
        self, pod: str, container: str, *, lines: int = 20, size: int = 100_000
    ) -> str:
        """Return the last lines of a container's first run, which may have been followed by another."""
        # While it is started again, the kubelet may know of no previous run, and of the new one, which says nothing.
        for previous in (True, False, True):
            text = await self.log(pod, container, previous=previous, lines=lines, size=size)
            if text:
                return text
        return ""

    async def follow_log(self, pod: str, container: str, *, since: str = "") -> AsyncIterator[str]:
        """Yield the lines of a container's log, each after its time, until the container ends or the server ends it.

        Parameters
        ----------
        pod, container : str
            The container, which has started.
        since : str
            The time of a line, by which lines before its second are left out; empty for all lines.

        Raises
        ------
        ApiError
            The server refuses it.
        ApiUnreachableError
            The server does not answer, or the connection breaks.
        """
        client = self._opened()
        params = {"container": container, "follow": "true", "timestamps": "true"}
        if since:
            params["sinceTime"] = since.partition(".")[0].rstrip("Z") + "Z"
        path = self._path("pods", f"{pod}/log")
        try:
            async with client.stream("GET", path, params=params, **self._credentials()) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise ApiError(answer.status_code, _message(answer))
                if answer.is_redirect:
                    raise self._stranger(f"it answers {answer.status_code}")
                async for line in answer.aiter_lines():
                    yield line
        except (
            httpx.ReadTimeout
        ):  # nothing was written, or the connection is cut: asked again, it shows
            return
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            message = f"the API server {self.server} does not answer: {why}"
            raise ApiUnreachableError(message) from error

    # -- Streams

    @asynccontextmanager
    async def stream(self, pod: str, port: int) -> AsyncIterator[PodStream]:
        """Open a stream to a port of a pod.

        Raises
        ------
        ApiError
            The API server, or the kubelet behind it, refuses it.
        """
        client = self._opened()
        try:
            async with httpx_ws.aconnect_ws(
                self._path("pods", f"{pod}/portforward"),
                client,
                params={"ports": str(port)},
                subprotocols=["v4.channel.k8s.io"],
                keepalive_ping_timeout_seconds=_PING_PATIENCE,
                **self._credentials(),
            ) as session:
                yield PodStream(session)
        except httpx_ws.WebSocketUpgradeError as error:
            code = error.response.status_code
            if code == httpx.codes.UNAUTHORIZED:
                await self._renew(client)  # for the next one, because who is connected tries again
            if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                # Which of these verbs is checked depends on the release of Kubernetes.
                text = f"get and create of pods/portforward are forbidden in namespace {self.namespace!r}"
            else:
                text = f"no port can be forwarded to pod {pod}"
            raise ApiError(code, f"{text}: the API server answers {code}") from error


class PodStream:
    """Messages to and from a port of a pod.

    Each begins with the number of a channel: 0 for data, 1 for an error. The first of each channel has the port's
    number and nothing else.

    Parameters
    ----------
    session : AsyncWebSocketSession
        The websocket.
    """

    def __init__(self, session: AsyncWebSocketSession) -> None:
        self._session = session

    async def send_bytes(self, data: bytes) -> None:
        """Send a message.

        Raises
        ------
        EOFError
            The other end has closed the stream.
        """
        with _end_as_eof():
            await self._session.send_bytes(data)

    async def receive_bytes(self) -> bytes:
        """Return the next message.

        Raises
        ------
        EOFError
            The other end has closed the stream.
        """
        with _end_as_eof():
            return await self._session.receive_bytes()


@contextlib.contextmanager
def _end_as_eof() -> Iterator[None]:
    try:
        yield
    except httpx_ws.WebSocketDisconnect as error:
        if error.code == _NORMAL_CLOSURE:
            raise EOFError from error
        why = error.reason or f"code {error.code}"
        raise ConnectionError(f"the API server has closed the stream: {why}") from error
    except httpx_ws.WebSocketNetworkError as error:
        raise ConnectionError("the connection to the API server is broken") from error


async def _make_client(auth: Any) -> httpx.AsyncClient:
    """Return a client with the keys and certificates that kr8s has found."""
    try:
        for path in (auth.client_cert_file, auth.client_key_file, auth.server_ca_file):
            if path and not Path(path).exists():  # which ssl would not name
                raise FileNotFoundError(f"there is no file {path}")
        verify = await auth.ssl_context()
    finally:
        _remove_written_keys(auth)
    return httpx.AsyncClient(
        base_url=auth.server,
        verify=verify,
        proxy=auth.proxy,
        timeout=_TIMEOUT,
        # A connection for each that goes through a forwarded port.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    )


def _own_namespace(auth: Any) -> str:
    """Return the namespace of the context that is used, or, in a pod without a kubeconfig, that of the pod.

    kr8s 0.20.15 has that of the current context, whichever is used, and never that of a pod.
    """
    if auth.active_context:
        context = auth.kubeconfig.get_context(auth.active_context)
        return str(context.get("namespace") or "default")
    try:
        return (Path(_SERVICE_ACCOUNT) / "namespace").read_text("utf-8").strip() or "default"
    except OSError:
        return "default"


def _remove_written_keys(auth: Any) -> None:
    """Remove the files into which kr8s writes keys and certificates that are in a kubeconfig itself.

    It leaves them in the directory for temporary files, and writes others whenever credentials are read again.
    """
    context = auth.kubeconfig.get_context(auth.active_context) if auth.active_context else {}
    if not context.get("cluster"):
        return
    user = auth.kubeconfig.get_user(context["user"])
    cluster = auth.kubeconfig.get_cluster(context["cluster"])
    for given, key, path in (
        (user, "client-key-data", auth.client_key_file),
        (user, "client-certificate-data", auth.client_cert_file),
        (cluster, "certificate-authority-data", auth.server_ca_file),
    ):
        if key in given and path:
            Path(path).unlink(missing_ok=True)


def _message(answer: httpx.Response) -> str:
    """Return the message of an error of the API server, in one line; a page of a proxy is none."""
    text = ""
    with contextlib.suppress(ValueError, AttributeError):
        text = str(answer.json().get("message", ""))
    if not text and not answer.text.lstrip().startswith("<"):
        text = answer.text
    return " ".join((text or answer.reason_phrase).split())
