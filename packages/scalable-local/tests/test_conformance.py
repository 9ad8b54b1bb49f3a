from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from scalable.errors import LeftoverError
from scalable.providers.local import provider
from scalable.testing.conformance import Limitation, NativeCall, ProviderConformance


class LocalConformance(ProviderConformance):
    __test__ = False

    @pytest.fixture(autouse=True)
    def _scratch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the clusters of this process keep their files where nobody else's are."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def leftovers(self) -> Sequence[str]:
        files = [
            path for path in Path(tempfile.gettempdir()).glob("scalable-*/**/*") if path.is_file()
        ]
        # The logs of workers that have failed are kept for users.
        return [*self.local_processes(), *(str(path) for path in files if path.suffix != ".log")]

    def native_calls(self) -> Sequence[NativeCall]:
        return [NativeCall(provider, "prepare_containers"), NativeCall(provider, "_make_backend")]


class TestProcesses(LocalConformance):
    __test__ = True

    @pytest.fixture(autouse=True)
    def _scratch_of_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have those of other clients, which a watchdog survives, do the same."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))

    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: local}}
        components: {alpha: {}, beta: {slots: 2}}
    """


class TestThreads(LocalConformance):
    __test__ = True
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: local, processes: false}}
        components: {alpha: {}, beta: {slots: 2}}
    """
    cannot: ClassVar = {
        "explain_failed_start": Limitation(
            "a worker in this process starts whatever its component specifies",
            raises=pytest.fail.Exception,  # nothing is raised
        ),
        "interrupt": Limitation("a thread cannot be interrupted", raises=LeftoverError),
        # Not run: killing the worker would kill the process that runs the tests.
        "replace": Limitation("a worker in this process cannot die without it", run=False),
    }

    @pytest.fixture(autouse=True)
    def _note_threads(self) -> None:
        self.before = {*threading.enumerate()}  # such as one that another test could not interrupt

    def leftovers(self) -> Sequence[str]:
        threads = {*threading.enumerate()} - self.before
        workers = [thread.name for thread in threads if thread.name.startswith("here-")]
        return [*super().leftovers(), *workers]
