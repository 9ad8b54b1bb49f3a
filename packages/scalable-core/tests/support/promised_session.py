"""A client, and what tests of Dask's promises ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import task_functions


class Session:
    """A client, and the options of every call."""

    def __init__(self, client: Any, options: dict[str, Any], directory: Path) -> None:
        self.client, self.options, self.directory = client, options, directory
        self.gate = directory / "gate"

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.submit(*args, **self.options, **kwargs)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.map(*args, **self.options, **kwargs)

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.compute(*args, **self.options, **kwargs)

    def persist(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.persist(*args, **self.options, **kwargs)

    @property
    def scheduler(self) -> Any:
        """The scheduler, which is in this process."""
        return self.client.cluster.scheduler

    def flaky(self, failures: int = 0) -> task_functions.Flaky:
        """Return a task that counts its calls."""
        return task_functions.Flaky(self.directory, failures)

    def blocked(self) -> Any:
        """Submit a task that runs until the gate is open."""
        return self.submit(task_functions.wait_for_file, self.gate)

    def open(self) -> None:
        """Let blocked tasks end."""
        self.gate.touch()

    def until(self, condition: Callable[[], object]) -> None:
        """Return once a condition holds."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)
