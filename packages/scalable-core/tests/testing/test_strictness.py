"""The suite fails a provider that breaks a requirement: one bad provider for each that could be missed."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import dask
import pytest
from distributed import LocalCluster, Security

from scalable.client import ScalableClient
from scalable.cluster.link import Report, RpcLink
from scalable.cluster.port import Explanation, Leftover, Reason
from scalable.costing import CostEstimate, CostLineItem
from scalable.errors import ClusterClosedError
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentProvider,
    DeploymentSpec,
    Owned,
    ScalePlan,
)
from scalable.providers.options import TargetOptions
from scalable.providers.tls import make_credentials
from scalable.testing.conformance import NativeCall, ProviderConformance
from scalable.testing.fakes import FakeProvider

OUTCOME = (AssertionError, pytest.fail.Exception)


class Suite(ProviderConformance):
    __test__ = False
    timeout: ClassVar = 5.0
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: fake}}
        components: {alpha: {}, beta: {slots: 2}}
    """

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider

    def make_provider(self) -> DeploymentProvider:
        return self.provider

    def kill_worker(self, client: ScalableClient, worker: str) -> None:
        self.provider.kill(worker)

    def leftovers(self) -> Sequence[str]:
        return self.provider.leftovers()


def failing() -> AbstractContextManager[Any]:
    return pytest.raises(OUTCOME)


def test_a_provider_that_finds_no_errors_fails() -> None:
    class Careless(FakeProvider):
        def validate(self, spec: DeploymentSpec) -> ValidationReport:
            return ValidationReport()

    suite = Suite(Careless())
    with failing():
        suite.test_every_error_is_reported_at_once()
    with failing():
        suite.test_a_count_for_an_unknown_group_is_an_error()


def test_a_provider_that_plans_at_random_fails() -> None:
    class Fickle(FakeProvider):
        numbers = itertools.count(1)

        def plan_scale(self, spec: DeploymentSpec) -> ScalePlan:
            return replace(super().plan_scale(spec), max_workers=next(self.numbers) + 10)

    with failing():
        Suite(Fickle()).test_the_same_manifest_gives_the_same_plan()


# -- Builds that fail


class Fragile(FakeProvider):
    """Does the same as its base, in a step of its own."""

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        self.prepare()
        return super()._build(spec, options)

    def prepare(self) -> None:
        pass


class FragileSuite(Suite):
    def native_calls(self) -> Sequence[NativeCall]:
        return [NativeCall(Fragile, "prepare")]


def test_a_provider_whose_builds_leave_nothing_passes() -> None:
    FragileSuite(Fragile()).test_a_failed_build_leaves_nothing_behind()


def test_a_provider_that_leaves_something_after_a_failed_build_fails() -> None:
    class Messy(FakeProvider):
        made: ClassVar[list[str]] = []

        def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
            self.made.append("network")
            return super()._build(spec, options)

        def close(self, cluster: ClusterHandle) -> None:
            super().close(cluster)
            self.made.clear()

        def leftovers(self) -> list[str]:
            return super().leftovers() + self.made

    with pytest.raises(AssertionError, match=r"is left when call 1 of \d of \w+"):
        Suite(Messy()).test_a_failed_build_leaves_nothing_behind()


def test_a_provider_that_hides_the_cause_of_a_failed_build_fails() -> None:
    class Vague(FakeProvider):
        def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
            try:
                return super()._build(spec, options)
            except Exception as error:
                raise RuntimeError("something went wrong") from error

    with pytest.raises(AssertionError, match="does not name the cause"):
        Suite(Vague()).test_a_failed_build_leaves_nothing_behind()


def test_a_provider_that_goes_on_after_a_failed_step_fails() -> None:
    class Careless(Fragile):
        def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
            with contextlib.suppress(RuntimeError):
                self.prepare()
            return FakeProvider._build(self, spec, options)

    with pytest.raises(AssertionError, match=r"although call 1 of 1 of Fragile\.prepare fails"):
        FragileSuite(Careless()).test_a_failed_build_leaves_nothing_behind()


def test_a_suite_that_names_what_no_build_calls_fails() -> None:
    with pytest.raises(AssertionError, match=r"names what no build calls: \['Fragile\.prepare'\]"):
        FragileSuite(FakeProvider()).test_a_failed_build_leaves_nothing_behind()


# -- Workers and groups


def test_a_provider_that_scales_other_groups_fails() -> None:
    class Clumsy(FakeProvider):
        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
            cluster.backend.scale_groups(dict.fromkeys(plan.workers_by_tag, 0))
            deadline = time.monotonic() + 60
            # Until none is left that could be taken back.
            while any(group.running + group.draining for group in cluster.backend.groups.values()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            super().scale(cluster, plan)

    suite = Suite(Clumsy())
    with suite.cluster() as running, failing():
        suite.test_groups_scale_independently(running)


def test_a_provider_that_ends_workers_during_a_task_fails() -> None:
    class Brutal(FakeProvider):
        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
            for tag, status in cluster.backend.groups.items():
                for worker in status.workers[plan.workers_by_tag.get(tag, 0) :]:
                    self.kill(worker)
            super().scale(cluster, plan)

    suite = Suite(Brutal())
    with suite.cluster() as running, failing():
        suite.test_running_tasks_finish_before_their_worker_stops(running)


def test_a_provider_that_cannot_close_twice_fails() -> None:
    class Touchy(FakeProvider):
        def close(self, cluster: ClusterHandle) -> None:
            if self.leftovers() == []:
                raise ClusterClosedError(cluster.backend.name)
            super().close(cluster)

    with pytest.raises(ClusterClosedError):
        Suite(Touchy()).test_close_is_idempotent()


def test_a_provider_that_leaves_something_behind_fails() -> None:
    class Forgetful(FakeProvider):
        def close(self, cluster: ClusterHandle) -> None:
            self.open = cluster

    provider = Forgetful()
    with failing(), Suite(provider).cluster():
        pass
    provider.open.backend.close()


class Lenient(Security):
    """Encrypts, and does not ask who connects."""

    def get_listen_args(self, role: str) -> Any:
        arguments = super().get_listen_args(role)  # type: ignore[no-untyped-call]
        arguments["ssl_context"].verify_mode = ssl.CERT_NONE
        return arguments


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_provider_that_lets_everybody_connect_fails(protocol: str) -> None:
    credentials = make_credentials()
    keys = {
        f"tls_{role}_{part}": getattr(credentials, part)
        for role in ("client", "scheduler")
        for part in ("cert", "key")
    }
    lenient: Any = Lenient  # untyped in distributed
    security = lenient(require_encryption=protocol == "tls", tls_ca_file=credentials.cert, **keys)
    with LocalCluster(
        n_workers=0, protocol=protocol, security=security, dashboard_address="127.0.0.1:0"
    ) as open_to_all:
        provider = FakeProvider()
        running: Any = SimpleNamespace(backend=open_to_all)
        with failing():
            Suite(provider).test_others_cannot_connect(running)


def test_a_provider_that_counts_paused_workers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    report = RpcLink.report

    async def hopeful(link: RpcLink) -> Report:
        found = await report(link)
        workers = {name: replace(info, status="running") for name, info in found.workers.items()}
        return replace(found, workers=workers)

    monkeypatch.setattr(RpcLink, "report", hopeful)
    suite = Suite(FakeProvider())
    with suite.cluster() as running, pytest.raises(AssertionError, match="unavailable"):
        suite.test_a_paused_worker_does_not_count_and_is_explained(running)


def test_a_provider_that_does_not_explain_paused_workers_fails() -> None:
    class Taciturn(FakeProvider):
        def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
            handle = super()._build(spec, options)
            said = {"alpha": Explanation(Reason.PAUSED, "some worker is unavailable")}
            vars(handle.backend)["explain"] = lambda: said
            return handle

    suite = Suite(Taciturn())
    with suite.cluster() as running, failing():
        suite.test_a_paused_worker_does_not_count_and_is_explained(running)


def test_a_provider_that_ignores_images_fails() -> None:
    class Blind(FakeProvider):
        def check(self, spec: DeploymentSpec, options: TargetOptions) -> Iterator[ValidationIssue]:
            yield from ()

    class WithImage(Suite):
        other_image = "example.org/conformance:other"

    with failing():
        WithImage(Blind()).test_each_component_has_its_own_image_or_validation_says_so()


# -- What belongs to the process


def _hook(*_: object) -> None:
    pass


def _rest() -> None:
    threading.Event().wait(20)


TOUCHES: Mapping[str, Callable[[pytest.MonkeyPatch, Path], object]] = {
    "config": lambda patch, _: patch.setitem(dask.config.config, "scalable-strictness", 1),
    "environment": lambda patch, _: patch.setenv("SCALABLE_STRICTNESS", "1"),
    "signals": lambda _, __: signal.signal(signal.SIGUSR2, lambda *_: None),
    "levels": lambda patch, _: patch.setattr(logging.getLogger("dask"), "level", 7),
    "handlers": lambda patch, _: patch.setattr(logging.root, "handlers", [logging.NullHandler()]),
    "directory": lambda patch, path: patch.chdir(path),
    "umask": lambda _, __: os.umask(0o123),
    "path": lambda patch, path: patch.syspath_prepend(path),
    "hooks": lambda patch, _: patch.setattr(sys, "excepthook", _hook),
    "filters": lambda _, __: warnings.filterwarnings("ignore", message="strictness"),
    "threads": lambda _, __: threading.Thread(target=_rest, daemon=True).start(),
}


@pytest.fixture
def _own_state() -> Iterator[None]:
    """Restore what monkeypatch cannot."""
    handler, mask = signal.getsignal(signal.SIGUSR2), os.umask(0o022)
    os.umask(mask)
    with warnings.catch_warnings():
        yield
    signal.signal(signal.SIGUSR2, handler)
    os.umask(mask)


@pytest.mark.usefixtures("_own_state")
@pytest.mark.parametrize("what", TOUCHES)
@pytest.mark.parametrize("at", ["build", "close"])
def test_a_provider_that_touches_what_belongs_to_the_process_fails(
    what: str, at: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Rude(FakeProvider):
        clusters = 0

        def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
            self.clusters += 1
            self.touch("build")
            return super()._build(spec, options)

        def close(self, cluster: ClusterHandle) -> None:
            super().close(cluster)
            self.touch("close")

        def touch(self, when: str) -> None:
            # What the first cluster does, and nothing undoes, is not seen.
            if when == at and self.clusters == 2:
                TOUCHES[what](monkeypatch, tmp_path)

    class Hasty(Suite):
        timeout: ClassVar = 1.0 if what == "threads" else 3.0

    expected = "threads do not end" if what == "threads" else what
    with pytest.raises(AssertionError, match=expected):
        Hasty(Rude()).test_nothing_that_belongs_to_the_process_is_touched()


# -- What some providers are able to do

PRICE = CostLineItem(
    "alpha", Decimal(1), "node", Decimal("0.5"), source="a list", as_of=date(2026, 1, 1)
)


class Able(FakeProvider):
    """Knows prices, renders, and checks."""

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
        items = [
            replace(PRICE, description=tag, quantity=Decimal(n))
            for tag, n in plan.workers_by_tag.items()
        ]
        return CostEstimate((*items, CostLineItem("network", Decimal(1), "GB")))

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        return [
            Artifact(f"{tag}.txt", "text/plain", spec.manifest.redact(str(component.env)))
            for tag, component in spec.components.items()
        ]

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        return [
            CheckResult("desk", True, "is there"),
            CheckResult("chair", None, "cannot be seen from here"),
            CheckResult("room", False, "is locked", "ask for the key"),
        ]


def test_an_able_provider_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(Able())
    suite.test_prices_have_a_source_and_unknown_is_not_free()
    suite.test_rendering_shows_every_group_and_no_secret(monkeypatch)
    suite.test_checks_make_nothing_and_say_what_to_do(monkeypatch)


def _changed(item: CostLineItem, **facts: Any) -> CostLineItem:
    """Return an item that its own class would refuse."""
    vars(item).update(facts)
    return item


NUMBERS = itertools.count(1)
ESTIMATES: Mapping[str, Callable[[Decimal], CostLineItem]] = {
    "not 0": lambda n: replace(PRICE, quantity=n, unit_price=Decimal(0)),
    "where is this price from": lambda n: _changed(replace(PRICE, quantity=n), source=""),
    "of which day": lambda n: _changed(replace(PRICE, quantity=n), as_of=None),
    "future": lambda n: replace(PRICE, quantity=n, as_of=date(9999, 1, 1)),
    "two prices": lambda n: replace(PRICE, quantity=n + next(NUMBERS)),
    "cost less": lambda n: replace(PRICE, quantity=1 / n),
    "some counts only": lambda n: replace(PRICE, unit_price=None) if n > 2 else PRICE,
}


@pytest.mark.parametrize("problem", ESTIMATES)
def test_a_provider_with_wrong_prices_fails(problem: str) -> None:
    class Wrong(Able):
        def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
            return CostEstimate((ESTIMATES[problem](Decimal(sum(plan.workers_by_tag.values()))),))

    with pytest.raises(AssertionError, match=problem):
        Suite(Wrong()).test_prices_have_a_source_and_unknown_is_not_free()


RENDERINGS: Mapping[str, Callable[[DeploymentSpec], str]] = {
    "a secret": lambda spec: f"alpha beta {dict(spec.components['alpha'].env)}",
    "two ways": lambda _: f"alpha beta {next(NUMBERS)}",
    "nothing is rendered of beta": lambda _: "alpha",
}


@pytest.mark.parametrize("problem", RENDERINGS)
def test_a_provider_that_renders_wrongly_fails(
    problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Able):
        def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
            return [Artifact("run.sh", "text/x-shellscript", RENDERINGS[problem](spec))]

    with pytest.raises(AssertionError, match=problem):
        Suite(Wrong()).test_rendering_shows_every_group_and_no_secret(monkeypatch)


def test_a_provider_whose_rendering_makes_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Eager(Able):
        made: ClassVar[list[str]] = []

        def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
            self.made.append("job")
            return super().render(spec, plan)

        def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
            self.made.append("machine")
            return super().preflight(spec)

        def leftovers(self) -> list[str]:
            return self.made

    with pytest.raises(AssertionError, match="job"):
        Suite(Eager()).test_rendering_shows_every_group_and_no_secret(monkeypatch)
    with pytest.raises(AssertionError, match="machine"):
        Suite(Eager()).test_checks_make_nothing_and_say_what_to_do(monkeypatch)


CHECKS: Mapping[str, Callable[[DeploymentSpec], CheckResult]] = {
    "what to do": lambda _: CheckResult("room", False, "is locked"),
    "what was found": lambda _: CheckResult("room", True, ""),
    "what was checked": lambda _: CheckResult("", True, "is open"),
    "more than one line": lambda _: CheckResult("room", True, "is open\nand warm"),
    "a secret": lambda spec: CheckResult("room", True, spec.components["alpha"].env["TOKEN"]),
}


@pytest.mark.parametrize("problem", CHECKS)
def test_a_provider_whose_checks_do_not_help_fails(
    problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(Able):
        def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
            return [CHECKS[problem](spec)]

    with pytest.raises(AssertionError, match=problem):
        Suite(Wrong()).test_checks_make_nothing_and_say_what_to_do(monkeypatch)


def test_a_provider_whose_checks_raise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nervous(Able):
        def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
            if not Path(os.environ["PATH"].partition(":")[0]).exists():
                raise FileNotFoundError("no such command: squeue")
            return super().preflight(spec)

    monkeypatch.setenv("PATH", "/")
    with pytest.raises(FileNotFoundError):
        Suite(Nervous()).test_checks_make_nothing_and_say_what_to_do(monkeypatch)


# -- What dead runs have left


def test_a_provider_that_lists_ours_as_somebody_elses_fails() -> None:
    class Stranger(FakeProvider):
        def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
            return [replace(item, owner="somebody") for item in super().list_owned(spec)]

    with pytest.raises(AssertionError, match="not of 'somebody'"):
        Suite(Stranger()).test_reaping_does_not_touch_what_was_not_asked_for()


@pytest.mark.parametrize("run", ["", "the only one"])
def test_a_provider_that_does_not_tell_runs_apart_fails(run: str) -> None:
    class Blurred(FakeProvider):
        def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
            numbered = enumerate(super().list_owned(spec))
            return [replace(item, run_id=run, place=str(n)) for n, item in numbered]

    with pytest.raises(AssertionError, match=r"has no run|of another cluster"):
        Suite(Blurred()).test_reaping_does_not_touch_what_was_not_asked_for()


def test_a_provider_that_reaps_everything_fails() -> None:
    class Greedy(FakeProvider):
        def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
            return super().reap(spec, self.list_owned(spec))

    with failing():
        Suite(Greedy()).test_reaping_does_not_touch_what_was_not_asked_for()


def test_a_provider_that_reaps_nothing_fails() -> None:
    class Lazy(FakeProvider):
        def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
            return []

    with pytest.raises(AssertionError, match="reaped units are gone"):
        Suite(Lazy()).test_reaping_does_not_touch_what_was_not_asked_for()


# -- Suites that cannot tell


def test_a_suite_without_leftovers_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"Hopeful cannot tell (.|\n)*def leftovers\(self\)"):

        class Hopeful(ProviderConformance):
            manifest = Suite.manifest


def test_a_suite_may_say_why_it_has_no_leftovers() -> None:
    class Excused(ProviderConformance):
        __test__ = False
        manifest = Suite.manifest
        cannot: ClassVar = {"leftovers": "there is no way to ask"}

        def make_provider(self) -> DeploymentProvider:
            return FakeProvider()

    with Excused().cluster():
        pass
    with pytest.raises(pytest.skip.Exception, match="there is no way to ask"):
        Excused().test_what_a_killed_client_leaves_ends_or_can_be_reaped()
    with pytest.raises(TypeError, match="remove 'leftovers' from its cannot"):

        class Both(Excused):
            def leftovers(self) -> Sequence[str]:
                return ()
