from __future__ import annotations

from typing import ClassVar

from scalable.testing.conformance import ProviderConformance


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
        "explain_failed_start": "a worker in this process starts with any component",
        "interrupt": "a thread cannot be interrupted",
        "replace": "a worker in this process cannot die without it",
    }
