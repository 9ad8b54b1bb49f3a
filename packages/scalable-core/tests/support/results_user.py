"""A user of results: a module whose functions say in a file that they have run, and a store."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

from scalable.results.reuse import Results, open_results
from scalable.results.store.storage import Store

__all__ = ["User"]

MODEL = """
import os
import threading

STARTS = {starts!r}
SCALE = 2


def simulate(member, verbose=False):
    with open(os.environ.get("KEPT_STARTS", STARTS), "a") as file:
        file.write(f"simulate {{member}}\\n")
    return member * SCALE


def total(values, weight=1):
    with open(STARTS, "a") as file:
        file.write("total\\n")
    return sum(values) * weight


def fail(member):
    raise ArithmeticError(member)


def lock(member):
    return threading.Lock()


def array(member):
    import numpy as np

    with open(STARTS, "a") as file:
        file.write(f"array {{member}}\\n")
    return {{"values": np.full((100, 100), member), "text": "x"}}
"""


class User:
    """A user with a module of functions, a store, and clients."""

    def __init__(self, directory: Path) -> None:
        self.starts_file = directory / "starts"
        self.store = directory / "store"
        self._file = directory / "kept_user.py"
        self.text = MODEL.format(starts=str(self.starts_file))
        self.messages: list[str] = []
        self.write(self.text)

    def write(self, text: str) -> None:
        """Write the module, and import it anew, as the next process does."""
        self._file.write_text(text)
        self.forget()
        self.module: Any = importlib.import_module("kept_user")

    def forget(self) -> None:
        sys.modules.pop("kept_user", None)
        shutil.rmtree(self._file.parent / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()

    def starts(self) -> list[str]:
        """Return what has run since the last call, sorted."""
        found = self.starts_file.read_text().splitlines() if self.starts_file.exists() else []
        self.starts_file.unlink(missing_ok=True)
        return sorted(found)

    def results(self, **options: Any) -> Results:
        def report(text: str, is_problem: bool) -> None:
            self.messages.append(text)

        return open_results(str(self.store), report=report, **options)

    def objects(self) -> list[str]:
        """Return the names of the results in the store."""
        return [name for name, _ in Store(str(self.store)).results()]

    def files(self) -> list[Path]:
        """Return the files of results that have one of their own."""
        return sorted(self.store.rglob("*.result"))

    def version(self) -> Path:
        """Return the directory of the only version of a task."""
        (directory,) = {self.store / name.rpartition("/")[0] for name in self.objects()}
        return directory
