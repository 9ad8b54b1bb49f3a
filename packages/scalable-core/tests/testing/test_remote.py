"""A scheduler in another process, under TLS."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from scalable.cluster import link
from scalable.cluster.link import RpcLink
from scalable.errors import SchedulerStartError
from scalable.testing import processes
from scalable.testing.conformance import NativeCall, Running
from scalable.testing.processes import RemoteFakeProvider
from scalable.testing.remote import RemoteConformance

_VARIABLE = "SCALABLE_REMOTE_FAKE"
if _VARIABLE not in os.environ:  # the client processes that the suite starts share it
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="scalable-remote-")
    atexit.register(shutil.rmtree, os.environ[_VARIABLE], ignore_errors=True)
ROOT = Path(os.environ[_VARIABLE])


class TestRemote(RemoteConformance):
    manifest = """
    version: 1
    project: {name: conformance}
    targets: {there: {provider: remote-fake}}
    components: {alpha: {}, beta: {slots: 2}}
    """
    stall = 20.0

    def make_provider(self) -> RemoteFakeProvider:
        return RemoteFakeProvider(ROOT)

    def leftovers(self) -> Sequence[str]:
        return self.make_provider().leftovers()

    def native_calls(self) -> Sequence[NativeCall]:
        return [
            NativeCall(processes, "make_credentials"),
            NativeCall(processes.ProcessRun, "start"),
            NativeCall(processes.ProcessScheduler, "connect"),
            NativeCall(processes.ProcessBackend, "__init__"),
        ]

    def replace_scheduler(self, running: Running) -> None:
        assert isinstance(running.provider, RemoteFakeProvider)
        replace_scheduler(running.provider, running)

    def another_python(self) -> Mapping[str, Any]:
        return {"python": str(write_another_python(ROOT))}


def replace_scheduler(provider: RemoteFakeProvider, running: Running) -> None:
    scheduler = provider.scheduler(running.backend)

    async def replace() -> None:
        await scheduler.stop()
        await scheduler.start()

    asyncio.run(replace())


_ANOTHER = """
import os
import distributed
from distributed import versions

facts = versions.get_system_info


def get_system_info():
    return {**facts(), "python": "3.9.1.final.0"}


async def crash(*_, **__):
    os._exit(139)  # as another Python does that is sent byte code


versions.get_system_info = get_system_info
distributed.Scheduler.register_scheduler_plugin = crash
"""


def write_another_python(root: Path) -> Path:
    """Write a program that is this Python, and whose schedulers report another and behave accordingly."""
    directory = root / "another"
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(_ANOTHER)
    program = directory / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={directory} exec {sys.executable} "$@"\n')
    program.chmod(0o700)
    return program


def test_an_engine_that_takes_another_scheduler_for_its_own_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def identity(_: RpcLink) -> str:
        return "the one"

    class Hasty(TestRemote):
        __test__ = False
        timeout = 15.0

    monkeypatch.setattr(RpcLink, "identity", identity)
    with pytest.raises((AssertionError, TimeoutError, CancelledError, pytest.fail.Exception)):
        Hasty().test_a_scheduler_that_was_replaced_is_lost()


def test_an_engine_that_compares_no_versions_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "check_scheduler_versions", lambda _: None)
    with pytest.raises((SchedulerStartError, OSError)):
        TestRemote().test_a_scheduler_of_another_python_is_named_before_anything_is_sent()
