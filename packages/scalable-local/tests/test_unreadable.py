"""What cannot be unpickled where it arrives: results, arguments and exceptions, of workers that are processes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from distributed import get_worker

from scalable.client import ScalableClient, TaskFailure
from scalable.session import ScalableSession

MANIFEST = """\
version: 1
project: {{name: unreadable}}
targets: {{here: {{provider: local, workers: 1}}}}
components:
  model: {{cpus: 1, env: {{PYTHONPATH: "{path}"}}}}
"""
LIMIT = 60
"""Seconds for what takes milliseconds. What is lost would take for ever."""

LICENCE = """\
class LicenceError(Exception):
    def __init__(self, server, days):
        super().__init__(server, days)

class Handle:
    pass
"""


@pytest.fixture(scope="module")
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScalableClient]:
    directory = tmp_path_factory.mktemp("unreadable")
    packages = directory / "of-workers-only"
    packages.mkdir()
    (packages / "licences.py").write_text(LICENCE)
    path = f"{packages}{os.pathsep}{request.config.rootpath}"
    (directory / "scalable.yaml").write_text(MANIFEST.format(path=path))
    with ScalableSession.from_yaml(directory / "scalable.yaml") as client:
        yield client


class UnreadableIn:
    """Raises something when it is unpickled in one process, or in all but one; large ones are unpickled in a thread."""

    def __init__(
        self, error: BaseException, process: int, size: int = 10_000, *, others: bool = False
    ) -> None:
        self.error, self.process, self.others = error, process, others
        self.data = b"x" * size

    def __reduce__(self) -> Any:
        return unpickle, (self.error, self.process, self.others, self.data)


def unpickle(error: BaseException, process: int, others: bool, data: bytes) -> UnreadableIn:
    if (os.getpid() == process) is not others:
        raise error
    return UnreadableIn(error, process, len(data), others=others)


ERRORS: list[tuple[BaseException, str]] = [
    (ValueError("no version"), "no version"),
    (FileNotFoundError(2, "No such file", "/data/x.nc"), r"/data/x\.nc"),
    (EOFError("cut off"), "cut off"),
    (ConnectionResetError("of its own"), "of its own"),
    (StopIteration(3), "StopIteration: 3"),
    (asyncio.CancelledError("stop"), "CancelledError: stop"),
    (SystemExit("no licence"), "SystemExit: no licence"),
    (KeyboardInterrupt("now"), "KeyboardInterrupt: now"),
    (GeneratorExit("closed"), "GeneratorExit: closed"),
]
by_text = pytest.mark.parametrize(("error", "text"), ERRORS, ids=[text for _, text in ERRORS])


@pytest.mark.parametrize("size", [10_000, 20_000_000])
@by_text
def test_whatever_unpickling_a_result_raises_comes_out_of_result(
    client: ScalableClient, error: BaseException, text: str, size: int
) -> None:
    bad = client.submit(UnreadableIn, error, os.getpid(), size, tag="model", pure=False)
    good = client.submit(bytes, 10_000, tag="model", pure=False)

    with pytest.raises(Exception, match=text) as caught:
        bad.result(timeout=LIMIT)
    assert not isinstance(caught.value, TimeoutError)
    assert good.result(timeout=LIMIT) == bytes(10_000)


def test_results_that_came_with_an_unreadable_one_are_there(client: ScalableClient) -> None:
    error = OSError("no such file")
    bad = client.submit(UnreadableIn, error, os.getpid(), tag="model", pure=False, key="bad")
    good = [client.submit(bytes, 10_000, tag="model", pure=False) for _ in range(3)]

    collected = client.gather([good[0], bad, *good[1:]], errors="collect")
    assert [len(each) for each in (collected[0], *collected[2:])] == [10_000] * 3
    assert isinstance(collected[1], TaskFailure)
    assert collected[1].reason == (
        "OSError: no such file (raised while the result was unpickled in this process)"
    )
    assert [len(each) for each in client.gather([*good, bad], errors="skip")] == [10_000] * 3
    assert bad.status == "error"


def test_dask_says_nothing_of_results_that_it_asks_for_again(
    client: ScalableClient, caplog: pytest.LogCaptureFixture
) -> None:
    bad = client.submit(UnreadableIn, OSError("gone"), os.getpid(), tag="model", pure=False)
    with pytest.raises(OSError, match="gone"):
        bad.result(timeout=LIMIT)
    shown = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.name for each in shown if each.name.startswith("distributed")] == []


@by_text
@pytest.mark.parametrize(
    "call",
    [
        lambda client, bad: client.submit(type, bad, tag="model", pure=False),
        lambda client, bad: client.submit(dict, bad=bad, tag="model", pure=False),
        lambda client, bad: client.map(type, [bad], tag="model", pure=False)[0],
        lambda client, bad: client.submit(type, client.scatter(bad), tag="model", pure=False),
    ],
    ids=["argument", "keyword", "map", "scattered"],
)
def test_what_a_worker_cannot_unpickle_is_an_error_of_the_call(
    client: ScalableClient,
    call: Callable[[ScalableClient, Any], Any],
    error: BaseException,
    text: str,
) -> None:
    before = client.submit(worker_name, tag="model", pure=False).result(timeout=LIMIT)

    with pytest.raises(Exception, match=text) as caught:
        call(client, UnreadableIn(error, os.getpid(), others=True)).result(timeout=LIMIT)
    assert not isinstance(caught.value, TimeoutError)
    assert client.submit(worker_name, tag="model", pure=False).result(timeout=LIMIT) == before


def worker_name() -> str:
    return str(get_worker().name)


# -- Actors


def actor_class() -> Callable[[], Any]:
    class Actor:
        def make(self, error: BaseException, process: int) -> UnreadableIn:
            return UnreadableIn(error, process)

        def take(self, argument: Any) -> str:
            return type(argument).__name__

        def generate(self) -> Any:
            return (number for number in range(3))

    return Actor


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("it stays where it is")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda actor: actor.make(ValueError("no version"), os.getpid()), "no version"),
        (lambda actor: actor.make(FileNotFoundError("a.nc"), os.getpid()), r"a\.nc"),
        (lambda actor: actor.make(SystemExit("bye"), os.getpid()), "SystemExit: bye"),
        (lambda actor: actor.take(Unsendable()), "Could not serialize object of type Unsendable"),
        (lambda actor: actor.take(UnreadableIn(OSError("b.nc"), os.getpid(), others=True)), "b.nc"),
        (lambda actor: actor.generate(), "generator|contact"),
    ],
)
def test_calls_of_actors_end(client: ScalableClient, call: Callable[[Any], Any], text: str) -> None:
    actor = client.submit(actor_class(), actor=True, tag="model", pure=False).result(timeout=LIMIT)

    with pytest.raises(Exception, match=text) as caught:
        call(actor).result(timeout=LIMIT)
    assert not isinstance(caught.value, TimeoutError)
    assert actor.take(1).result(timeout=LIMIT) == "int"


# -- Classes that only the workers have


def raise_foreign() -> NoReturn:
    import licences  # type: ignore[import-not-found]

    raise licences.LicenceError("server-1", 3)


def chain_foreign() -> NoReturn:
    try:
        raise_foreign()
    except Exception as error:
        raise LookupError("no model") from error


def make_foreign() -> Any:
    import licences

    return licences.Handle()


def test_an_exception_of_a_class_that_is_not_here_has_its_name_and_arguments(
    client: ScalableClient,
) -> None:
    future = client.submit(raise_foreign, tag="model", pure=False)
    with pytest.raises(Exception, match="server-1") as caught:
        future.result(timeout=LIMIT)
    assert type(caught.value).__name__ == "LicenceError"
    assert caught.value.args == ("server-1", 3)
    assert caught.value.__notes__ == [
        "(licences.LicenceError is not here: No module named 'licences')"
    ]
    (failure,) = client.gather([future], errors="collect")
    assert failure.reason.startswith("licences.LicenceError: ('server-1', 3)")


def test_it_may_be_the_cause_of_another(client: ScalableClient) -> None:
    with pytest.raises(LookupError, match="no model") as caught:
        client.submit(chain_foreign, tag="model", pure=False).result(timeout=LIMIT)
    assert type(caught.value.__cause__).__name__ == "LicenceError"


def test_a_result_of_a_class_that_is_not_here_names_its_module(client: ScalableClient) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'licences'"):
        client.submit(make_foreign, tag="model", pure=False).result(timeout=LIMIT)
