"""A bucket that answers with errors while a run goes on: nothing that was computed is lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from results_user import User

from scalable.client import ScalableClient
from scalable.errors import ResultStoreError
from scalable.results import cached
from scalable.results.reuse import Results, open_results

s3fs: Any = pytest.importorskip("s3fs")
moto_server: Any = pytest.importorskip("moto.server")
serving: Any = pytest.importorskip("werkzeug.serving")

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


@dataclass
class Gateway:
    """Stands before a server of S3, and answers some requests with an error in its place."""

    app: Any
    url: str = ""
    fault: tuple[str, str, str] | None = None
    """What it answers: the status, the code and the message."""
    methods: frozenset[str] = frozenset()
    faults: float = float("inf")
    """How often."""
    answered: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def break_down(
        self, status: str, code: str, message: str, methods: str, faults: float = float("inf")
    ) -> None:
        """Answer requests with an error from now on."""
        self.fault, self.methods, self.faults = (
            (status, code, message),
            frozenset(methods.split()),
            faults,
        )

    def mend(self) -> None:
        """Let all requests through."""
        self.fault = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method = environ["REQUEST_METHOD"]
        with self._lock:
            fault = self.fault if method in self.methods and self.faults > 0 else None
            if fault:
                self.faults -= 1
                self.answered.append(method)
        if fault is None:
            return self.app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code, message = fault
        body = ERROR.format(code=code, message=message).encode()
        start_response(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A bucket behind a gateway, and the user's credentials for it."""
    gateway = Gateway(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, gateway, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"kept-{uuid.uuid4().hex}"  # moto's buckets are those of the process
    s3fs.S3FileSystem().mkdir(bucket)
    gateway.url = f"s3://{bucket}/store"
    yield gateway
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(gateway: Gateway, user: User, connect: Callable[..., ScalableClient]) -> Callable[..., Any]:
    """Return a function that returns the client of a run."""

    def run(**options: Any) -> ScalableClient:
        def report(text: str, is_problem: bool) -> None:
            if is_problem:
                user.messages.append(text)

        results: Results = open_results(gateway.url, report=report, **options)
        return connect(results)

    return run


TROUBLE = {
    "expired": (
        "400 Bad Request",
        "ExpiredToken",
        "The provided token has expired.",
        "GET HEAD PUT",
    ),
    "read-only": ("403 Forbidden", "AccessDenied", "Access Denied", "PUT"),
    "full": ("403 Forbidden", "QuotaExceeded", "The quota of the bucket is exceeded.", "PUT"),
}


def told_of(user: User) -> list[str]:
    """Return what was told of results that are not kept, once something was: the event comes beside the results."""
    told: list[str] = []
    while not told:
        told = [text for text in user.messages if "could not be kept" in text]
    return told


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_run_goes_on_and_the_next_one_computes_what_is_missing(
    trouble: str, gateway: Gateway, user: User, run: Callable[..., Any]
) -> None:
    simulate = cached(user.module.simulate)
    client = run()
    assert client.gather(client.map(simulate, range(3))) == [0, 2, 4]
    gateway.break_down(*TROUBLE[trouble])
    futures = client.map(simulate, range(12))
    assert client.gather(futures) == [2 * member for member in range(12)]
    assert client.submit(sum, futures).result() == 132
    (message,) = told_of(user)
    assert message.startswith(
        f"a result of simulate could not be kept: cannot write to {gateway.url}: "
    )
    assert message.endswith("the run goes on with it, and the next one computes it again")
    assert "\n" not in message
    assert len(user.messages) <= 2  # what the client cannot list, and what a worker cannot keep
    starts, missing = user.starts(), sorted(f"simulate {member}" for member in range(3, 12))
    assert [start for start in starts if start in missing] == missing
    # If the store cannot be read, the client may not know yet that these are kept.
    assert {*starts} - {*missing} == {f"simulate {member}" for member in range(3)}
    gateway.mend()
    client = run()
    assert client.gather(client.map(simulate, range(12))) == [2 * member for member in range(12)]
    assert user.starts() == missing


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_run_ends_if_it_is_told_to(
    trouble: str, gateway: Gateway, user: User, run: Callable[..., Any]
) -> None:
    simulate = cached(user.module.simulate)
    client = run(on_store_error="fail")
    assert client.submit(simulate, 0).result() == 0
    gateway.break_down(*TROUBLE[trouble])
    with pytest.raises(OSError, match=r"mend the store|cannot read results at") as raised:
        client.submit(simulate, 1).result()
    assert "\n" not in str(raised.value)


def test_results_that_cannot_be_read_any_more_are_computed(
    gateway: Gateway, user: User, run: Callable[..., Any]
) -> None:
    simulate = cached(user.module.simulate)
    client = run()
    assert client.gather(client.map(simulate, range(10))) == [2 * member for member in range(10)]
    user.starts()
    client = run()
    futures = client.map(simulate, range(10))
    gateway.break_down(*TROUBLE["expired"])
    assert client.gather(futures) == [2 * member for member in range(10)]
    assert len(user.starts()) == 10
    assert len([text for text in user.messages if text.endswith("it is computed again")]) == 1


def test_a_bucket_that_asks_to_slow_down_keeps_results(
    gateway: Gateway, user: User, run: Callable[..., Any]
) -> None:
    simulate = cached(user.module.simulate)
    client = run()
    assert client.submit(simulate, 0).result() == 0
    slow = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
    gateway.break_down(*slow, "GET HEAD PUT", faults=5)
    assert client.gather(client.map(simulate, range(12))) == [2 * member for member in range(12)]
    assert len(gateway.answered) == 5
    user.starts()
    client = run()
    assert client.gather(client.map(simulate, range(12))) == [2 * member for member in range(12)]
    assert user.starts() == user.messages == []


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_run_does_not_start_without_its_store(
    trouble: str, gateway: Gateway, run: Callable[..., Any]
) -> None:
    gateway.break_down(*TROUBLE[trouble])
    with pytest.raises(ResultStoreError, match=gateway.url) as raised:
        run()
    assert "\n" not in str(raised.value)
