"""The server of the API over HTTP: which method of Compute Engine a request is, and its answer.

It knows nothing of instances: see `gce_project`.
"""

from __future__ import annotations

import json
import re
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gce_faults import AnswerLostError, Traffic, fail
from gce_rules import RefusedError, require

_QUERY = frozenset(
    {
        *("filter", "maxResults", "pageToken", "requestId", "start", "port", "orderBy"),
        *("includeAllScopes", "returnPartialSuccess", "secretId"),
    }
)


@dataclass(frozen=True)
class Request:
    """A request: the parts of its path, its query, its body."""

    parts: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    token: str | None = None

    @property
    def zone(self) -> str:
        """The zone that it names."""
        return self.parts["zone"]

    @property
    def name(self) -> str:
        """The resource that it names."""
        return self.parts["name"]


@dataclass(frozen=True)
class Method:
    """A method of the API.

    Parameters
    ----------
    name : str
        ``instances.bulkInsert``.
    verb, path : str
        Of HTTP. Of the path, what varies is in braces, after `root`.
    answer : callable
        Does it.
    root : str
        What its path begins with.
    takes_token : bool
        Whether callers show who they are: machines do.
    """

    name: str
    verb: str
    path: str
    answer: Callable[[Request], Mapping[str, Any]]
    root: str = "/compute/v1/projects/{project}"
    takes_token: bool = False

    def match(self, verb: str, path: str) -> Mapping[str, str] | None:
        """Return the parts of a path, if a request is of this method."""
        whole = self.root + (f"/{self.path}" if self.path else "")
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", whole)
        found = re.fullmatch(pattern, path) if verb == self.verb else None
        return found.groupdict() if found else None


class Server:
    """A server of methods.

    Parameters
    ----------
    methods : sequence of Method
        What it knows. All else it answers with 501.
    traffic : Traffic
        Where calls are counted, and get their faults from.
    """

    def __init__(self, methods: Sequence[Method], traffic: Traffic) -> None:
        self._methods, self._traffic = methods, traffic
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise each answer waits for an acknowledgement that the client's kernel delays by 40 ms.
            disable_nagle_algorithm = True

            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = self.headers.get("Authorization")
                try:
                    status, found = outer._answer(self.command, self.path, raw, token)
                except AnswerLostError:
                    self.close_connection = True
                    return
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = answer  # noqa: N815 - of the library

            def log_message(self, *_: Any) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass  # clients are killed

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        run = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        run.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(
        self, verb: str, url: str, raw: bytes, token: str | None
    ) -> tuple[int, Mapping[str, Any]]:
        path, _, query = url.partition("?")
        for method in self._methods:
            if (parts := method.match(verb, path)) is not None:
                break
        else:
            self._traffic.log_unknown(f"{verb} {path}")
            return 501, RefusedError(501, "notImplemented", f"unknown: {verb} {path}").body
        fault = self._traffic.begin(method.name, path, query)
        try:
            if fault is not None and fault.before is not None:
                fault.before()
            if fault is not None and not fault.after:
                fail(fault)
            known = token is None or method.takes_token
            require(known, "Authorization", "...", "A token over http can be read.")
            asked = dict(urllib.parse.parse_qsl(query))
            require({*asked} <= _QUERY, "query", asked, "Cannot bind query parameter.")
            self._traffic.check_allowed(method.name, path)
            found = method.answer(Request(parts, asked, raw, token))
            if fault is not None:
                fail(fault)
        except RefusedError as error:
            return error.status, error.body
        except AnswerLostError:
            raise
        except Exception:  # noqa: BLE001 - a fault of the tests is shown where they look
            return 501, RefusedError(501, "notImplemented", traceback.format_exc()).body
        finally:
            self._traffic.end(method.name)
        return 200, found
