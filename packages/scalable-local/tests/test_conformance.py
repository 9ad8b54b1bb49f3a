from __future__ import annotations

from typing import ClassVar

import pytest

from scalable.errors import LeftoverError
from scalable.testing.conformance import Limitation, ProviderConformance


class TestProcesses(ProviderConformance):
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: local}}
        components: {alpha: {}, beta: {slots: 2}}
    """


class TestThreads(ProviderConformance):
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
