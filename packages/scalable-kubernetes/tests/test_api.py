from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from api_server import http_server, write_kubeconfig

from scalable.errors import ProviderNotSetUpError
from scalable.providers.kubernetes import api as api_module
from scalable.providers.kubernetes.api import ApiError, ApiUnreachableError, KubernetesApi
from scalable.providers.tls import TlsFiles, make_credentials

PATIENCE = 60

T = TypeVar("T")


def asked(question: Callable[[KubernetesApi], Awaitable[T]], context: str | None = None) -> T:
    """Return the answer to a question, by an API that is opened for it."""

    async def ask() -> T:
        api = KubernetesApi(context, None)
        try:
            await api.open()
            return await question(api)
        finally:
            await api.close()

    return asyncio.run(ask())


async def namespace(api: KubernetesApi) -> str:
    return api.namespace


async def pods(api: KubernetesApi) -> list[dict[str, Any]]:
    return await api.list("pods")


class SlowServer:
    """A TLS server of one connection, which answers the client's first message when it may."""

    def __init__(self, files: TlsFiles) -> None:
        self.greeted, self.may_answer = threading.Event(), threading.Event()
        self.saw_end = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.cert, files.key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"

    def serve(self) -> None:
        connection, _ = self._listening.accept()
        connection.settimeout(PATIENCE)
        with self._listening, connection:
            connection.recv(1, socket.MSG_PEEK)
            self.greeted.set()
            assert self.may_answer.wait(PATIENCE)
            with (
                contextlib.suppress(OSError),  # a client that leaves ends it in one way or another
                self._context.wrap_socket(connection, server_side=True) as secured,
            ):
                secured.recv(65536)
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                secured.recv(1)
            self.saw_end = True


def test_a_request_that_is_given_up_in_a_handshake_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = SlowServer(make_credentials().write(tmp_path / "keys"))
    write_kubeconfig(tmp_path / "kubeconfig", server.url)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    async def use() -> bool:
        serving = asyncio.create_task(asyncio.to_thread(server.serve))
        api = KubernetesApi(None, "here")
        await api.open()
        asking = asyncio.create_task(api.get("pods", "one"))
        assert await asyncio.to_thread(server.greeted.wait, PATIENCE)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        server.may_answer.set()
        await api.close()
        done, _ = await asyncio.wait([serving], timeout=PATIENCE / 2)
        return bool(done)

    assert asyncio.run(use())
    assert server.saw_end


def handler_of(accepted: list[str]) -> type[BaseHTTPRequestHandler]:
    """Return what accepts the first of these tokens, and answers two requests with another one together."""
    together = threading.Barrier(2, timeout=PATIENCE)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            is_known = self.headers["Authorization"] == f"Bearer {accepted[0]}"
            if not is_known:
                together.wait()
            data = json.dumps({"path": self.path}).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def test_credentials_that_have_expired_are_read_once_for_all_who_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    accepted = ["old"]

    async def use(url: str) -> None:
        write_kubeconfig(kubeconfig, url, "old")
        api = KubernetesApi(None, "here")
        await api.open()
        made: list[object] = []
        make = api_module._make_client

        async def make_client(auth: object) -> object:
            made.append(await make(auth))
            return made[-1]

        monkeypatch.setattr(api_module, "_make_client", make_client)
        accepted[0] = "new"
        write_kubeconfig(kubeconfig, url, "new")
        found = await asyncio.gather(api.get("pods", "one"), api.get("pods", "two"))
        assert [each["path"].rpartition("/")[2] for each in found] == ["one", "two"]
        assert len(made) == 1
        await api.close()
        assert all(client.is_closed for client in made)  # type: ignore[attr-defined]
        with pytest.raises(ApiUnreachableError, match="closed"):
            await api.get("pods", "one")

    with http_server(handler_of(accepted)) as url:
        asyncio.run(use(url))


def write_contexts(path: Path, current: str | None, **namespaces: str | None) -> None:
    """Write a kubeconfig of several contexts, each with its namespace, or without one."""
    write_kubeconfig(path, "http://127.0.0.1:9")
    config = yaml.safe_load(path.read_text("utf-8"))
    config["contexts"] = [
        {
            "name": name,
            "context": {"cluster": "a", "user": "a", **({"namespace": each} if each else {})},
        }
        for name, each in namespaces.items()
    ]
    config["current-context"] = current
    path.write_text(yaml.safe_dump(config), "utf-8")


@pytest.mark.parametrize(
    ("context", "expected"),
    [(None, "mine"), ("here", "mine"), ("far", "theirs"), ("bare", "default")],
)
def test_the_namespace_is_that_of_the_context_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str | None, expected: str
) -> None:
    write_contexts(tmp_path / "config", "here", here="mine", far="theirs", bare=None)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert asked(namespace, context) == expected


def test_a_kubeconfig_needs_no_current_context_where_the_target_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_contexts(tmp_path / "config", "", here="mine")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert asked(namespace, "here") == "mine"
    with pytest.raises(ProviderNotSetUpError, match="context 'nowhere'"):
        asked(namespace, "nowhere")


def test_a_file_of_a_kubeconfig_that_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    write_kubeconfig(path, "https://127.0.0.1:9")
    config = yaml.safe_load(path.read_text("utf-8"))
    config["users"][0]["user"] = {
        "client-certificate": "/nowhere.crt",
        "client-key": "/nowhere.key",
    }
    path.write_text(yaml.safe_dump(config), "utf-8")
    with pytest.raises(ProviderNotSetUpError, match=r"there is no file /nowhere\.crt"):
        asked(namespace)


def test_in_a_pod_the_namespace_is_that_of_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("token")
    (account / "namespace").write_text("models\n")
    (account / "ca.crt").write_text(make_credentials().cert)
    monkeypatch.setattr(api_module, "_SERVICE_ACCOUNT", str(account))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert asked(namespace) == "models"


def test_the_keys_of_a_kubeconfig_are_left_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, temporary = tmp_path / "config", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("KUBECONFIG", str(path))
    keys = make_credentials()

    def packed(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    with http_server(proxy_of(401, "")) as url:
        write_kubeconfig(path, url)
        config = yaml.safe_load(path.read_text("utf-8"))
        config["users"][0]["user"] |= {
            "client-key-data": packed(keys.key),
            "client-certificate-data": packed(keys.cert),
        }
        config["clusters"][0]["cluster"] = {
            "server": url,
            "certificate-authority-data": packed(keys.cert),
        }
        path.write_text(yaml.safe_dump(config), "utf-8")

        async def use(api: KubernetesApi) -> None:
            await asyncio.gather(
                pods(api), pods(api), return_exceptions=True
            )  # which reads them again

        asked(use)
    assert [*temporary.iterdir()] == []
    own = keys.write(tmp_path / "own")
    config["users"][0]["user"] = {"client-key": own.key, "client-certificate": own.cert}
    path.write_text(yaml.safe_dump(config), "utf-8")
    asked(namespace)
    assert Path(own.key).exists()
    assert Path(own.cert).exists()


@pytest.mark.parametrize("answer", [(302, ""), (200, "<html>Log in</html>"), (200, "[]")])
def test_a_page_of_a_proxy_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str]
) -> None:
    with http_server(proxy_of(*answer)) as url:
        write_kubeconfig(tmp_path / "config", url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(ApiUnreachableError, match="is not the API server"):
            asked(pods)
        if answer[0] == 302:
            with pytest.raises(ApiUnreachableError, match="is not the API server"):
                asked(lambda api: api.delete("pods", "one"))


def test_the_page_of_a_proxy_is_not_shown_as_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_server(proxy_of(502, "<html>A page of many lines</html>")) as url:
        write_kubeconfig(tmp_path / "config", url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(ApiError, match=r"^Bad Gateway$"):
            asked(pods)


def proxy_of(status: int, text: str) -> type[BaseHTTPRequestHandler]:
    """Return what answers everything in this way."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "https://login.example")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_DELETE = do_GET  # noqa: N815 - of the library

        def log_message(self, *_: object) -> None:
            pass

    return Proxy


def test_credentials_that_cannot_be_renewed_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))

    issue = tmp_path / "issue"
    issue.write_text('#!/bin/sh\necho \'{"status": {"token": "a"}}\'\n')
    issue.chmod(0o755)
    with http_server(proxy_of(401, "")) as url:
        write_kubeconfig(path, url)
        config = yaml.safe_load(path.read_text("utf-8"))
        command = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(issue)}
        config["users"][0]["user"] = {"exec": command}
        path.write_text(yaml.safe_dump(config), "utf-8")

        async def use(api: KubernetesApi) -> None:
            issue.write_text(
                "#!/bin/sh\necho the session has ended >&2\necho run lab login >&2\nexit 1\n"
            )
            with pytest.raises(ApiError, match="ended run lab login") as error:
                await pods(api)
            assert error.value.code == 401
            assert "\n" not in str(error.value)

        asked(use)


def test_only_what_was_sent_may_have_been_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{port}")

        async def cut(api: KubernetesApi) -> bool:
            asking = asyncio.create_task(pods(api))
            connection, _ = await asyncio.to_thread(server.accept)
            connection.close()
            with pytest.raises(ApiUnreachableError) as error:
                await asking
            return error.value.was_sent

        assert asked(cut) is True

    async def refused(api: KubernetesApi) -> bool:
        with pytest.raises(ApiUnreachableError) as error:
            await pods(api)
        return error.value.was_sent

    assert asked(refused) is False


def test_a_list_whose_place_was_lost_begins_again() -> None:
    class Server(KubernetesApi):
        def __init__(self) -> None:
            super().__init__(None, "models")
            self.answers: list[Any] = [
                {"items": [{"n": 1}], "metadata": {"continue": "a"}},
                ApiError(410, "The provided continue parameter is too old"),
                {"items": [{"n": 1}], "metadata": {"continue": "b"}},
                {"items": [{"n": 2}], "metadata": {}},
                ApiError(410, "gone"),
            ]

        async def ask(self, method: str, path: str, **_: Any) -> dict[str, Any]:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, dict)
            return answer

    async def main() -> None:
        server = Server()
        assert await server.list("pods") == [{"n": 1}, {"n": 2}]
        with pytest.raises(ApiError):
            await server.list("pods")

    asyncio.run(main())
