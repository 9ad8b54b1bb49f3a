"""What a provider declares that it cannot do is a strict expected failure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest_plugins = ["pytester"]

SUITE = """
from typing import ClassVar

from scalable.testing.conformance import Limitation, ProviderConformance
from scalable.testing.fakes import FakeProvider


class Replaces(ProviderConformance):
    manifest = '''
        version: 1
        project: {name: conformance}
        targets: {here: {provider: fake}}
        components: {alpha: {}, beta: {slots: 2}}
    '''
    provider: ClassVar = FakeProvider()

    def make_provider(self):
        return self.provider

    def kill_worker(self, client, worker):
        self.provider.kill(worker)

    def leftovers(self):
        return self.provider.leftovers()


class NeverReplaces(Replaces):
    timeout = 8.0

    def kill_worker(self, client, worker):
        pass  # so that no other worker ever joins
"""

RunSuite = Callable[[str], pytest.RunResult]


@pytest.fixture
def run_suite(pytester: pytest.Pytester) -> RunSuite:
    """Run the test of ``replace`` for classes derived from those of `SUITE`."""

    def run(classes: str) -> pytest.RunResult:
        pytester.makepyfile(SUITE + classes)
        # Not in this process: pytester removes newly imported modules afterwards, the engine's among them.
        return pytester.runpytest_subprocess("-ra", "-k", "lost_worker_is_replaced")

    return run


def test_a_limitation_that_exists_is_an_expected_failure(run_suite: RunSuite) -> None:
    result = run_suite("""
class TestPlain(NeverReplaces):
    cannot: ClassVar = {"replace": "workers are immortal"}

class TestNarrow(NeverReplaces):
    cannot: ClassVar = {"replace": Limitation("workers are immortal", raises=AssertionError)}
""")
    result.assert_outcomes(xfailed=2)
    result.stdout.fnmatch_lines(["XFAIL *cannot replace a lost worker: workers are immortal*"])


def test_a_limitation_that_is_gone_fails_and_names_the_declaration(run_suite: RunSuite) -> None:
    result = run_suite("""
class TestHealed(Replaces):
    cannot: ClassVar = {"replace": "workers are immortal"}

class TestInherits(TestHealed):
    pass
""")
    result.assert_outcomes(failed=2)
    found = "*XPASS(strict)*workers are immortal*remove 'replace' from TestHealed.cannot*"
    result.stdout.fnmatch_lines([found, found])


def test_a_limitation_that_fails_by_another_exception_fails(run_suite: RunSuite) -> None:
    result = run_suite("""
class TestOther(NeverReplaces):
    cannot: ClassVar = {"replace": Limitation("workers are immortal", raises=LookupError)}
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: not within 8 s: another worker has joined*"])


def test_a_limitation_excuses_no_cluster_that_cannot_be_built(run_suite: RunSuite) -> None:
    result = run_suite("""
class TestBroken(Replaces):
    cannot: ClassVar = {"replace": "workers are immortal"}

    def make_provider(self):
        raise OSError("no such site")
""")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*OSError: no such site*"])


def test_a_limitation_that_cannot_be_run_is_skipped(run_suite: RunSuite) -> None:
    result = run_suite("""
class TestNotRun(Replaces):
    cannot: ClassVar = {"replace": Limitation("its death would be ours", run=False)}

    def make_provider(self):
        raise AssertionError("nothing is built")
""")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*cannot replace a lost worker: its death would be ours"])


def test_an_unknown_limitation_is_an_error_that_names_the_known_ones(run_suite: RunSuite) -> None:
    result = run_suite("""
class TestLiar(Replaces):
    cannot: ClassVar = {"fly": "no wings"}
""")
    result.assert_outcomes(errors=1)
    known = "*'adapt', 'explain_failed_start', 'interrupt', 'leftovers', 'replace'*"
    result.stdout.fnmatch_lines(["*ERROR collecting*", f"*TestLiar.cannot names *'fly'{known}"])
