from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scalable.errors import ProviderNotSetUpError
from scalable.providers.cloud.gcp import api
from scalable.providers.cloud.gcp.api import ENDPOINT, GceApi, GceError, GceUnreachableError

TOO_MANY = """{"error": {"code": 403, "message": "Quota exceeded for quota metric 'Queries'",
    "errors": [{"reason": "rateLimitExceeded"}]}}"""
DENIED = """{"error": {"code": 403, "message": "Required 'compute.zones.list' permission",
    "errors": [{"reason": "forbidden"}]}}"""
ZONES = """{"items": [{"name": "us-east1-b"}]}"""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str]]]:
    """What requests are answered, one after the other."""
    found: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = found.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_port}")
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def zones() -> list[str]:
    async def ask() -> list[str]:
        api = GceApi("test", "climate-lab")
        try:
            return await api.zones()
        finally:
            await api.close()

    return asyncio.run(ask())


def test_requests_that_are_too_many_at_present_are_made_again(
    answers: list[tuple[int, str]],
) -> None:
    answers += [(403, TOO_MANY), (403, TOO_MANY), (200, ZONES)]
    assert zones() == ["us-east1-b"]


def test_a_permission_that_is_missing_is_not_asked_for_again(
    answers: list[tuple[int, str]],
) -> None:
    answers += [(403, DENIED)]
    with pytest.raises(GceError, match=r"forbidden: .*compute\.zones\.list"):
        zones()


@pytest.mark.parametrize("page", ["<html>Log in</html>", ""])
def test_the_page_of_a_proxy_is_no_answer(answers: list[tuple[int, str]], page: str) -> None:
    answers += [(200, page)]
    with pytest.raises(GceUnreachableError, match=r"Zones\.list"):
        zones()


def test_a_file_of_credentials_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    with pytest.raises(ProviderNotSetUpError, match=r"nowhere\.json was not found") as error:
        api._find_credentials()
    assert "\n" not in str(error.value)
