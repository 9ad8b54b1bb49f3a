"""An ensemble of which some members end their worker's process, each in another way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Future

from scalable.errors import WorkerDiedError
from scalable.session import ScalableSession

MANIFEST = """\
version: 1
project: {name: ensemble}
targets: {here: {provider: local, n_workers: 2}}
components: {model: {memory: 400MB}}
"""

MEMBERS = 60

ENDINGS = {
    7: "SIGSEGV",
    22: "exit code 3",
    38: "SIGABRT",
    45: "SIGHUP",
    51: "memory",
}
"""What the error of a bad member says."""


def make_member() -> Callable[[int], int]:
    # A nested function is pickled by value: workers cannot import this file.
    def simulate(number: int) -> int:
        if number == 7:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif number == 22:
            os._exit(3)
        elif number == 38:
            os.abort()
        elif number == 45:
            os.kill(os.getpid(), signal.SIGHUP)
        elif number == 51:
            kept = []
            while True:
                kept.append(bytearray(b"x") * 20_000_000)
        time.sleep(0.2)  # so that others are running whenever a member ends its worker
        return number * number

    return simulate


def result_or_error(future: Future[Any]) -> Any:
    try:
        return future.result(timeout=600)
    except WorkerDiedError as error:
        return error


def test_members_that_end_their_worker_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "scalable.yaml"
    path.write_text(MANIFEST)
    session = ScalableSession.from_yaml(path)
    with session as client:
        futures = client.map(make_member(), range(MEMBERS), tag="model")
        results = [result_or_error(future) for future in futures]
        group = session.groups["model"]

    for number, result in enumerate(results):
        if number not in ENDINGS:
            assert result == number * number, result
    for number, said in ENDINGS.items():
        error = results[number]
        assert isinstance(error, WorkerDiedError), error
        assert said.lower() in str(error).lower()
    assert not group.failed
