"""What stands between clients and moto's server: it names, records and refuses calls, loses answers, applies rules.

It knows nothing of tasks or instances: see `aws_account`.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

CALLER = "arn:aws:iam::123456789012:user/tests"

_HOP = ("connection", "content-length", "date", "host", "server", "transfer-encoding")
_SCOPE = re.compile(r"Credential=([^/]+)/[0-9]+/([^/]+)/([^/]+)/aws4_request")
_DENIED = {"ec2": "UnauthorizedOperation", "iam": "AccessDenied", "sts": "AccessDenied"}


class Answer(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """Return the content of an answer in JSON."""
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found

    def with_data(self, data: Mapping[str, Any]) -> Answer:
        """Return this answer with other content."""
        return self._replace(body=json.dumps(data).encode())


@dataclass
class Call:
    """A call that a client has made.

    Parameters
    ----------
    service, operation : str
        What is called: ``ecs``, ``RunTask``.
    params : dict
        Its parameters. Those of EC2 and IAM are flat: ``{"GroupId.1": "sg-1"}``.
    region, key : str
        Where, and the access key of whoever has signed it.
    at : float
        When, by `time.monotonic`.
    status : int
        The status of its answer; 0 as long as there is none, or it was lost.
    """

    service: str
    operation: str
    params: dict[str, Any]
    region: str
    key: str
    verb: str = field(repr=False)
    path: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    raw: bytes = field(repr=False)
    at: float = field(default_factory=time.monotonic)
    status: int = 0

    @property
    def is_json(self) -> bool:
        """Return whether its service speaks JSON."""
        return "x-amz-target" in self.headers

    @property
    def action(self) -> str:
        """Return what IAM calls it: ``ecs:RunTask``."""
        return f"{self.service}:{self.operation}"

    def content(self) -> bytes:
        """Return its parameters as they are sent."""
        if not self.params and not self.raw:
            return b""
        if self.is_json:
            return json.dumps(self.params).encode()
        return urllib.parse.urlencode(self.params).encode()

    def values(self, name: str) -> list[str]:
        """Return the values of a list among flat parameters: ``GroupId`` for ``GroupId.1``, ``GroupId.2``."""
        pattern = re.compile(rf"{re.escape(name)}(\.[0-9]+)?")
        return [str(value) for key, value in self.params.items() if pattern.fullmatch(key)]


class RefusedError(Exception):
    """An error that AWS answers.

    Parameters
    ----------
    code, text : str
        Its code and message.
    status : int
        The status of the answer.
    """

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        self.code, self.text, self.status = code, text, status
        super().__init__(f"{code}: {text}")


class LostAnswerError(Exception):
    """An answer that never arrives."""


@dataclass
class Fault:
    """Something that goes wrong with calls of one name, or of all: see `aws_account.AwsAccount.fault`."""

    operation: str
    code: str | None
    text: str
    status: int
    times: float
    skip: int
    after: bool
    before: Callable[[], None] | None

    def strikes(self, call: Call) -> bool:
        """Return whether it strikes a call, and count it."""
        if self.operation not in ("*", call.operation) or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True

    def error(self) -> Exception:
        """Return what the client gets."""
        return (
            LostAnswerError()
            if self.code is None
            else RefusedError(self.code, self.text, self.status)
        )


Rule = Callable[[Call, Callable[[], Answer]], Answer]
"""Answers a call, mostly by what moto answers, which it gets by calling its second argument."""

Page = Callable[[str, str, Mapping[str, str]], Answer]
"""Answers a request for metadata, from its verb, the rest of its path, and its headers."""


class Gateway:
    """A server that passes calls on to another one.

    Parameters
    ----------
    rules : mapping of str to callable
        Answer the calls of these names; all others are passed on.
    pages : mapping of str to callable
        Answer GET and PUT requests of paths that begin with these words: of metadata.
    regions : collection of str
        The regions that exist.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        pages: Mapping[str, Page],
        regions: frozenset[str],
    ) -> None:
        self.upstream_port = 0
        self.log: list[Call] = []
        self.faults: list[Fault] = []
        self.denied: set[str] = set()
        """Actions that the caller may not do: ``ecs:RunTask``."""
        self.is_other: Callable[[Call], bool] = lambda call: False
        """Returns whether a call is another's than the client's. Those are not in the log, and have no faults."""
        self._rules, self._pages, self._regions = rules, pages, regions
        self._lock = threading.Lock()
        self._local = threading.local()
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

            def _answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                try:
                    answer = gateway.answer(self.command, self.path, headers, raw)
                except LostAnswerError:
                    self.close_connection = True
                    return
                with contextlib.suppress(OSError):  # nobody waits any more
                    self.send_response(answer.status)
                    for key, value in answer.headers.items():
                        if key.lower() not in _HOP:
                            self.send_header(key, value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 200

            def handle_error(self, *_: Any) -> None:
                """Print nothing for clients that were killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # A long interval costs nothing: it is only how soon `close` is noticed.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="gateway", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def counts(self) -> Counter[str]:
        """Return how often each operation was called."""
        with self._lock:
            return Counter(call.operation for call in self.log)

    def answer(self, verb: str, path: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        """Answer a request."""
        for start, page in self._pages.items():
            if path.startswith(start):
                return page(verb, path.removeprefix(start), headers)
        call = self._read(verb, path, headers, raw)
        try:
            if self.is_other(call):
                return self._passed(call)
            with self._lock:
                self.log.append(call)
                struck = next((each for each in self.faults if each.strikes(call)), None)
            answer = self._answer(call, struck)
        except RefusedError as refusal:
            answer = refused(call, refusal)
        call.status = answer.status
        return answer

    def forward(self, call: Call) -> Answer:
        """Return what moto answers."""
        headers = {k: v for k, v in call.headers.items() if k not in (*_HOP, "accept-encoding")}
        path, body = call.path, call.content()
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=60)
                self._local.connection = connection
            try:
                connection.request(call.verb, path, body or None, headers)
                found = connection.getresponse()
                return Answer(found.status, dict(found.getheaders()), found.read())
            except (http.client.HTTPException, OSError):
                # Only a connection that was closed between two requests is worth another one.
                connection.close()
                self._local.connection = None
                if attempt == 2:
                    raise
        raise AssertionError

    def _read(self, verb: str, path: str, headers: Mapping[str, str], raw: bytes) -> Call:
        scope = _SCOPE.search(headers.get("authorization", ""))
        key, region, service = scope.groups() if scope else ("", "", "")
        params: dict[str, Any]
        if "x-amz-target" in headers:
            operation = headers["x-amz-target"].rpartition(".")[2]
            params = json.loads(raw or b"{}")
        else:
            params = dict(urllib.parse.parse_qsl(raw.decode(), keep_blank_values=True))
            operation = params.get("Action", f"{verb} {path}")
        return Call(service, operation, params, region, key, verb, path, headers, raw)

    def _answer(self, call: Call, struck: Fault | None) -> Answer:
        if call.region not in self._regions:
            raise LostAnswerError  # such a host does not exist
        if struck is not None and struck.before is not None:
            struck.before()
        if struck is not None and not struck.after:
            raise struck.error()
        if call.action in self.denied:
            text = f"User: {CALLER} is not authorized to perform: {call.action}"
            text += f" because no identity-based policy allows the {call.action} action"
            raise RefusedError(_DENIED.get(call.service, "AccessDeniedException"), text, 403)
        answer = self._passed(call)
        if struck is not None and answer.status < 400:
            raise struck.error()
        return answer

    def _passed(self, call: Call) -> Answer:
        rule = self._rules.get(call.operation)
        return rule(call, lambda: self.forward(call)) if rule else self.forward(call)


def refused(call: Call, refusal: RefusedError) -> Answer:
    """Return an error as the call's service puts it."""
    code, text = refusal.code, refusal.text
    if call.is_json:
        body = json.dumps({"__type": code, "message": text}).encode()
        kind = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-errortype": code}
        return Answer(refusal.status, kind, body)
    error = f"<Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    xml = (
        f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"
        if call.service == "ec2"
        else f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"
    )
    return Answer(refusal.status, {"Content-Type": "text/xml"}, xml.encode())


def paged(key: str, *, size: int) -> Rule:
    """Return a rule by which a list in JSON comes in pages, which moto mostly omits.

    Parameters
    ----------
    key : str
        What the list is called in the answer.
    size : int
        The items of a page, unless less are asked for.
    """

    def rule(call: Call, forward: Callable[[], Answer]) -> Answer:
        start = int(call.params.pop("nextToken", None) or 0)
        n = min(int(call.params.pop("maxResults", size)), size)
        answer = forward()
        if answer.status >= 400:
            return answer
        data = answer.data
        items = data.get(key, [])
        data[key] = items[start : start + n]
        data.pop("nextToken", None)
        if start + n < len(items):
            data["nextToken"] = str(start + n)
        return answer.with_data(data)

    return rule
