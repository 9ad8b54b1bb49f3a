"""The metadata server of an instance, as its programs see it."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gce_boot import END

_PREFIX = "/computeMetadata/v1/"


class Metadata:
    """A server of values, some of which change while clients wait for that.

    Parameters
    ----------
    address : str
        Where it listens, on a free port.
    values : mapping of str to str
        By their path: ``instance/name``.
    on_end : callable
        Is called when the instance shuts down by itself.
    """

    def __init__(self, address: str, values: Mapping[str, str], on_end: Callable[[], None]) -> None:
        self._values = {**values}
        self._changed = threading.Condition()
        self._is_closed = False
        self._on_end = on_end
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = outer._answer(self.path, self.headers.get("Metadata-Flavor"))
                self.send_response(status)
                self.send_header("Metadata-Flavor", "Google")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.send_response(200 if self.path == END else 405)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if self.path == END:
                    outer._on_end()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                pass  # clients are killed

        self._server = Server((address, 0), Handler)
        self.host = f"{address}:{self._server.server_address[1]}"
        run = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        run.start()

    def change(self, path: str, value: str) -> None:
        """Change a value."""
        with self._changed:
            self._values[path] = value
            self._changed.notify_all()

    def close(self) -> None:
        """End it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, whole: str, flavor: str | None) -> tuple[int, bytes]:
        path, _, query = whole.partition("?")
        if flavor != "Google":
            return 403, b"Missing Metadata-Flavor:Google header."
        key = path.removeprefix(_PREFIX)
        asked = dict(urllib.parse.parse_qsl(query))
        if unknown := {*asked} - {"alt", "last_etag", "timeout_sec", "wait_for_change"}:
            return 501, f"tests do not know {sorted(unknown)}".encode()
        if not path.startswith(_PREFIX) or key not in self._values:
            return 404, b""
        if asked.get("wait_for_change") == "true":
            first, limit = self._values[key], float(asked.get("timeout_sec", 3600))
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._values[key] != first, limit)
        return 200, self._values[key].encode()
