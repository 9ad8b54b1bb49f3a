from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from api_server import http_server, write_kubeconfig

from scalable.providers.kubernetes.api import ApiUnreachableError, KubernetesApi
from scalable.providers.tls import TlsFiles, make_credentials

PATIENCE = 60


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
        make = api._make_client

        async def make_client() -> object:
            made.append(await make())
            return made[-1]

        monkeypatch.setattr(api, "_make_client", make_client)
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
