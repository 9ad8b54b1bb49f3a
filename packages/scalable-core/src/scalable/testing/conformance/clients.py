"""Processes that build the cluster of a suite, to be ended in ways in which no test can end its own."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalable.testing.conformance.base import SuiteBase

__all__ = ["client_process", "expect", "let_it_exit"]

_CLIENT = """
import json, runpy, sys, time
path, file, name, options = map(json.loads, sys.argv[1:])
sys.path[:] = path
from scalable.providers.base import ScalePlan

if __name__ == "__main__":
    suite = runpy.run_path(file)[name]()
    provider = suite.make_provider()
    spec = suite.spec(**options)
    print("building", flush=True)
    handle = provider.build_cluster(spec)
    provider.scale(handle, ScalePlan({"alpha": 1, "beta": 0}))
    handle.backend.wait_for_group("alpha", timeout=suite.timeout)
    print("up", flush=True)
    if sys.stdin.readline() != "exit\\n":
        time.sleep(3600)
"""


@contextmanager
def client_process(suite: SuiteBase, options: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Start a process that builds a cluster with a worker of ``alpha``, and then does nothing.

    It prints ``building`` before it starts anything, and ``up`` once the worker has joined.

    Parameters
    ----------
    suite : SuiteBase
        An object of a class of a module, which the process makes another object of.
    options : mapping of str to object
        More options for the target.
    """
    facts = (sys.path, inspect.getfile(type(suite)), type(suite).__name__, dict(options))
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, *map(json.dumps, facts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def expect(client: subprocess.Popen[str], *lines: str) -> None:
    """Wait until the client has printed these lines."""
    assert client.stdout is not None
    assert client.stderr is not None
    for line in lines:
        said = client.stdout.readline().strip()
        assert said == line, f"{said!r} instead of {line!r}: {client.stderr.read()}"


def let_it_exit(client: subprocess.Popen[str], timeout: float) -> None:
    """Have the client's program come to its end, without closing its cluster."""
    _, errors = client.communicate("exit\n", timeout)
    assert client.returncode == 0, errors
