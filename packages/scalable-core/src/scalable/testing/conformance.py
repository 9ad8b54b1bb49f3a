"""The requirements of every provider, as tests that any provider can run.

A provider runs them by a subclass of a few lines in a test module of its own::

    from scalable.testing.conformance import ProviderConformance


    class TestConformance(ProviderConformance):
        manifest = '''
        version: 1
        project: {name: conformance}
        targets: {here: {provider: shell}}
        components: {alpha: {}, beta: {slots: 2}}
        '''

The tests start real workers and use only the public interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from scalable.errors import (
    GroupFailedError,
    GroupTimeoutError,
    UnknownTagError,
    ValidationFailedError,
)
from scalable.manifest.jsonschema import compose_schema
from scalable.manifest.parser import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import (
    API_VERSION,
    DeploymentProvider,
    DeploymentSpec,
    DescribesOptions,
    ScalePlan,
)
from scalable.providers.registry import describe_providers, get_provider
from scalable.providers.tls import make_credentials
from scalable.testing.offline import modules_of_planning

if TYPE_CHECKING:
    from scalable.client import ScalableClient
    from scalable.cluster import GroupedCluster
    from scalable.providers.base import ClusterHandle

__all__ = ["Limitation", "ProviderConformance", "Running", "by_value"]

ABILITIES = {
    "adapt": "scale a group with its work",
    "explain_failed_start": "explain why a worker cannot start",
    "interrupt": "end a worker while it runs a task",
    "replace": "replace a lost worker",
}
"""What a provider may declare that it cannot do, with a reason."""

# Marks a test of one of them; registered by `scalable.testing.plugin`.
_ability = pytest.mark.scalable_ability


@dataclass(frozen=True)
class Limitation:
    """Something that a provider cannot do, for `ProviderConformance.cannot`.

    Parameters
    ----------
    reason : str
        Why not.
    raises : type of BaseException, or tuple of them, optional
        The exceptions by which its test is expected to fail; any other is a failure. By default, all are expected.
    run : bool
        Whether its test can be run. Set it to False only for a test that would harm the process of the tests: it is
        skipped then, and nothing notices when the limitation is gone.
    """

    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...] | None = None
    run: bool = True


class ProviderConformance:
    """The requirements of a provider, one test each. Subclass it and set `manifest`.

    Attributes
    ----------
    manifest : str
        A manifest whose first target is the provider's, with two components: ``alpha`` with 1 slot, ``beta`` with 2.
        The target sets no worker counts.
    broken : mapping of str to str
        Fields that, added to ``alpha`` of `manifest`, keep its workers from starting.
    cannot : mapping of str to str or Limitation
        What the provider cannot do (``adapt``, ``explain_failed_start``, ``interrupt``, ``replace``), with the reason.
        Its test becomes a strict expected failure: once it passes, pytest fails it and names the declaration to remove.
    timeout : float
        Seconds to wait for a start, a result, or any other event.
    """

    manifest: ClassVar[str]
    broken: ClassVar[Mapping[str, Any]] = {"preload_script": "/nonexistent/preload.py"}
    cannot: ClassVar[Mapping[str, str | Limitation]] = {}
    timeout: ClassVar[float] = 120.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        unknown = sorted(set(cls.cannot) - set(ABILITIES))
        if unknown:
            raise TypeError(
                f"{cls.__name__}.cannot names {unknown}, which no test covers; known: {sorted(ABILITIES)}"
            )

    @pytest.fixture(autouse=True)
    def _expect_limitation(self, request: pytest.FixtureRequest) -> None:
        """Expect the test to fail if the provider declares that it cannot do what is tested."""
        marker = request.node.get_closest_marker("scalable_ability")
        if marker is None or marker.args[0] not in self.cannot:
            return
        (ability,) = marker.args
        declared = self.cannot[ability]
        limitation = Limitation(declared) if isinstance(declared, str) else declared
        reason = f"cannot {ABILITIES[ability]}: {limitation.reason}"
        if not limitation.run:
            pytest.skip(reason)
        owner = next(cls.__name__ for cls in type(self).__mro__ if "cannot" in vars(cls))
        # pytest applies it to the test itself, not to its other fixtures: a cluster that cannot be built is an error.
        request.applymarker(
            pytest.mark.xfail(
                reason=f"{reason} (when this test passes, remove {ability!r} from {owner}.cannot)",
                raises=limitation.raises,
                strict=True,
            )
        )

    # -- What a provider may override

    def make_provider(self) -> DeploymentProvider:
        """Return the provider; by default, the installed one that the manifest names."""
        return get_provider(self.spec().provider_name)

    def kill_worker(self, client: ScalableClient, worker: str) -> None:
        """Kill one worker's process without Scalable's knowledge, as a crash would."""
        addresses = {info["name"]: address for address, info in _workers(client).items()}
        # From within, because the process may be on another machine. The call ends by a broken connection.
        with contextlib.suppress(OSError):
            client.run(by_value(_die), workers=[addresses[worker]])

    def leftovers(self) -> Sequence[str]:
        """List what closed clusters have left in the native system, which must be nothing."""
        return ()

    # -- Before anything starts

    def spec(self, **options: Any) -> DeploymentSpec:
        """Return the spec of `manifest`, with more options for its target."""
        document = parse_manifest(self.manifest).raw
        return self._spec(document, options)

    def _spec(
        self,
        document: Mapping[str, Any],
        options: Mapping[str, Any],
        alpha: Mapping[str, Any] | None = None,
    ) -> DeploymentSpec:
        target = next(iter(document["targets"]))
        components = dict(document["components"])
        components["alpha"] = {**(components["alpha"] or {}), **(alpha or {})}
        manifest = parse_manifest(
            {
                **document,
                "targets": {target: {**document["targets"][target], **options}},
                "components": components,
            }
        )
        return DeploymentSpec.from_manifest(manifest, target_name=target)

    def test_the_api_version_is_supported(self) -> None:
        provider = self.make_provider()
        assert isinstance(provider, DeploymentProvider)
        assert getattr(provider, "api_version", 1) <= API_VERSION
        assert provider.name == provider.name.strip().lower() != ""

    def test_its_own_manifest_is_valid(self) -> None:
        report = self.make_provider().validate(self.spec())
        assert report.errors == ()

    def test_every_error_is_reported_at_once(self) -> None:
        spec = self.spec(sheep=1, goats=2, n_workers="many")
        paths = {issue.path for issue in self.make_provider().validate(spec).errors}
        assert {
            f"targets.{spec.target_name}.{key}" for key in ("sheep", "goats", "n_workers")
        } <= paths

    def test_a_count_for_an_unknown_group_is_an_error(self) -> None:
        report = self.make_provider().validate(self.spec(workers={"omega": 1}))
        assert not report.ok

    def test_validating_and_planning_import_no_dask(self) -> None:
        name = self.spec().provider_name
        sources = {info.distribution for info in describe_providers() if info.name == name}
        if not sources - {"this process"}:
            pytest.skip(f"provider {name!r} is not installed, so a new process cannot find it")
        assert not {"dask", "distributed"} & modules_of_planning(self.manifest)

    def test_its_options_have_a_schema(self) -> None:
        provider = self.make_provider()
        if not isinstance(provider, DescribesOptions):
            pytest.skip("this provider does not describe its options")
        schema = compose_schema({provider.name: provider.options_schema()})
        assert provider.name in json.dumps(schema)

    def test_the_same_manifest_gives_the_same_plan(self) -> None:
        first, second = (build_plan(self.spec(n_workers=2), self.make_provider()) for _ in range(2))
        assert first.to_json() == second.to_json()
        assert first.scale_plan.workers_by_tag == {"alpha": 2, "beta": 2}

    def test_an_invalid_manifest_builds_nothing(self) -> None:
        with pytest.raises(ValidationFailedError):
            self.make_provider().build_cluster(self.spec(sheep=1))
        assert list(self.leftovers()) == []

    def test_a_failed_build_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from scalable.cluster.link import RpcLink

        async def refuse(*_: object) -> None:
            raise RuntimeError("the scheduler refuses")

        # The last step of a build, when the scheduler is already up.
        monkeypatch.setattr(RpcLink, "start", refuse)
        with pytest.raises(RuntimeError, match="refuses"):
            self.make_provider().build_cluster(self.spec())
        assert list(self.leftovers()) == []

    # -- With a cluster

    @contextmanager
    def cluster(self, alpha: Mapping[str, Any] | None = None) -> Iterator[Running]:
        """Build a cluster, and close it in any case."""
        spec = self._spec(parse_manifest(self.manifest).raw, {}, alpha)
        provider = self.make_provider()
        handle = provider.build_cluster(spec)
        try:
            yield Running(provider, handle, self.timeout)
        finally:
            provider.close(handle)
            assert list(self.leftovers()) == []

    @pytest.fixture
    def running(self) -> Iterator[Running]:
        """Provide a cluster whose groups are still empty."""
        with self.cluster() as running:
            yield running

    def test_groups_are_listed_and_empty_at_first(self, running: Running) -> None:
        groups = running.backend.groups
        assert {tag: (group.wanted, group.running) for tag, group in groups.items()} == {
            "alpha": (0, 0),
            "beta": (0, 0),
        }

    def test_others_cannot_connect(self, running: Running) -> None:
        # Validating and planning import no Dask.
        from distributed import connect

        address = running.backend.scheduler_address
        if address.startswith("inproc"):
            return  # no port: nobody outside of this process can try
        owner = running.backend.security.get_connection_args("client")
        asyncio.run(_say_hello(connect(address, timeout=self.timeout, **owner)))
        for intruder in _intruders():
            with pytest.raises(OSError, match=r"."):
                asyncio.run(_say_hello(connect(address, timeout=5, **intruder)))
        with pytest.raises(OSError, match=r"."):
            asyncio.run(_say_hello(connect(_without_tls(address), timeout=5)))

    def test_tagged_tasks_run_on_workers_of_their_group(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        with running.client() as client:
            for tag in ("alpha", "beta"):
                names = client.gather(client.map(by_value(_worker_name), range(4), tag=tag))
                assert set(names) == set(running.backend.groups[tag].workers)
            with pytest.raises(UnknownTagError):
                client.submit(by_value(_worker_name), 0, tag="omega")

    def test_a_worker_has_as_many_threads_as_slots(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        with running.client() as client:
            facts = {
                info["name"]: (info["nthreads"], info["resources"])
                for info in _workers(client).values()
            }
        (alpha,), (beta,) = (running.backend.groups[tag].workers for tag in ("alpha", "beta"))
        assert facts == {alpha: (1, {"alpha": 1}), beta: (2, {"beta": 2})}

    def test_a_worker_has_its_environment_or_validation_warns(self) -> None:
        alpha = {"env": {"SCALABLE_CONFORMANCE": "alpha"}}
        spec = self._spec(parse_manifest(self.manifest).raw, {}, alpha)
        for issue in self.make_provider().validate(spec).warnings:
            if issue.path.startswith("components.alpha.env"):
                pytest.skip(f"users are warned: {issue.message}")
        with self.cluster(alpha) as running:
            running.scale(alpha=1, beta=1)
            with running.client() as client:
                values = [
                    client.submit(by_value(_variable), "SCALABLE_CONFORMANCE", tag=tag)
                    for tag in ("alpha", "beta")
                ]
                assert client.gather(values) == ["alpha", None]

    def test_waiting_for_a_group_times_out(self, running: Running) -> None:
        # Without work, an adaptive group has no worker to wait for.
        running.provider.scale(running.handle, ScalePlan(ranges_by_tag={"alpha": (0, 1)}))
        with pytest.raises(GroupTimeoutError) as late:
            running.backend.wait_for_group("alpha", timeout=0.1)
        assert isinstance(late.value, TimeoutError)
        assert (late.value.tag, late.value.wanted) == ("alpha", 1)
        running.scale(alpha=1)
        running.backend.wait_for_group("alpha", timeout=self.timeout)

    def test_groups_scale_independently(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        before = running.backend.groups["beta"].workers
        running.scale(alpha=2)
        running.scale(alpha=0)
        assert running.backend.groups["beta"].workers == before
        assert running.backend.groups["alpha"].running == 0

    def test_scaling_is_idempotent(self, running: Running) -> None:
        running.scale(alpha=1)
        before = running.backend.groups["alpha"].workers
        running.scale(alpha=1)
        assert running.backend.groups["alpha"].workers == before

    def test_scale_in_reruns_no_task_and_loses_no_result(
        self, running: Running, tmp_path: Path
    ) -> None:
        running.scale(alpha=2, beta=1)
        with running.client() as client:
            kept = client.map(by_value(_square), range(8), tag="alpha")
            assert client.gather(kept) == [n * n for n in range(8)]
            transitions = client.run_on_scheduler(by_value(_count_starts))
            running.scale(alpha=1)
            running.scale(alpha=0)
            assert client.gather(kept) == [n * n for n in range(8)]
            assert client.run_on_scheduler(by_value(_count_starts)) == transitions

    def test_running_tasks_finish_before_their_worker_stops(self, running: Running) -> None:
        running.scale(alpha=2, beta=1)
        with running.client() as client:
            futures = client.map(by_value(_logged_nap), [1.0] * 6, range(6), tag="alpha")
            running.until(lambda: _starts(client), "a task is under way")
            running.scale(alpha=1)
            assert client.gather(futures) == [1.0] * 6
            running.scale(alpha=0)
            assert sorted(_starts(client)) == list(range(6))

    @_ability("replace")
    def test_a_lost_worker_is_replaced_under_a_new_name(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        (victim,) = running.backend.groups["alpha"].workers
        with running.client() as client:
            self.kill_worker(client, victim)
            running.until(
                lambda: set(running.backend.groups["alpha"].workers) - {victim},
                "another worker has joined",
            )
            (successor,) = running.backend.groups["alpha"].workers
            name = client.submit(by_value(_worker_name), 0, tag="alpha", pure=False)
            assert name.result(self.timeout) == successor

    @_ability("explain_failed_start")
    def test_a_group_that_cannot_start_fails_with_its_reason(self) -> None:
        with self.cluster(alpha=self.broken) as running:
            running.provider.scale(running.handle, ScalePlan({"alpha": 1, "beta": 1}))
            with running.client() as client:
                future = client.submit(by_value(_square), 3, tag="alpha")
                with pytest.raises(GroupFailedError) as waited:
                    running.backend.wait_for_group("alpha", timeout=self.timeout)
                with pytest.raises(GroupFailedError):
                    future.result(self.timeout)
                assert client.submit(by_value(_square), 3, tag="beta").result(self.timeout) == 9
            assert waited.value.tag == "alpha"
            assert waited.value.explanation.summary
            assert running.backend.groups["alpha"].failed

    @_ability("adapt")
    def test_an_adaptive_group_scales_up_from_zero(self, running: Running) -> None:
        plan = ScalePlan({"alpha": 0, "beta": 0}, ranges_by_tag={"alpha": (0, 2)}, max_workers=2)
        running.provider.scale(running.handle, plan)
        with running.client() as client:
            assert client.submit(by_value(_square), 5, tag="alpha").result(self.timeout) == 25

    def test_close_is_idempotent(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            running.provider.close(running.handle)
            running.provider.close(running.handle)
            assert list(self.leftovers()) == []

    @_ability("interrupt")
    def test_close_ends_running_tasks(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            with running.client() as client:
                future = client.submit(by_value(_nap), 600.0, tag="alpha")
                running.until(lambda: any(client.processing().values()), "the task is under way")
                running.provider.close(running.handle)
                assert future.status in ("cancelled", "lost")


class Running:
    """A cluster under test."""

    def __init__(self, provider: DeploymentProvider, handle: ClusterHandle, timeout: float) -> None:
        self.provider = provider
        self.handle = handle
        self.timeout = timeout

    @property
    def backend(self) -> GroupedCluster:
        return self.handle.backend

    def client(self) -> closing[ScalableClient]:
        return closing(self.handle.client_factory())

    def scale(self, **counts: int) -> None:
        """Scale through the provider, and wait until the groups have these counts."""
        fixed = {tag: group.wanted for tag, group in self.backend.groups.items()}
        self.provider.scale(self.handle, ScalePlan({**fixed, **counts}))
        for tag, count in counts.items():
            if count:
                self.backend.wait_for_group(tag, count, timeout=self.timeout)
            self.until(partial(self._is, tag, count), f"{tag} has {count} workers")

    def _is(self, tag: str, count: int) -> bool:
        group = self.backend.groups[tag]
        return (group.running, group.pending, group.starting, group.draining) == (count, 0, 0, 0)

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + self.timeout
        while not condition():
            assert time.monotonic() < deadline, (
                f"not within {self.timeout:g} s: {what}; {self.backend}, {self.backend.explain()}"
            )
            time.sleep(0.1)


async def _say_hello(connecting: Awaitable[Any]) -> None:
    """Connect and disconnect. Both sides greet each other first, so this fails unless both accept."""
    comm = await connecting
    await comm.close()


def _intruders() -> Iterator[dict[str, Any]]:
    """Yield how others would connect: with keys of their own or with none, to whatever scheduler that is."""
    own = make_credentials().security().get_connection_args("client")
    own["ssl_context"].verify_mode = ssl.CERT_NONE
    own["require_encryption"] = False
    yield own
    without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    without.check_hostname = False
    without.verify_mode = ssl.CERT_NONE
    yield {**own, "ssl_context": without}


def _without_tls(address: str) -> str:
    return address.replace("tls://", "tcp://")


def _workers(client: ScalableClient) -> Mapping[str, Any]:
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function that is pickled by value: a worker's image need not have this module."""
    assert isinstance(function, FunctionType)
    # Without this module's globals, and in a module that no worker can import, so that it is pickled by value.
    copy = FunctionType(function.__code__, {"__builtins__": __builtins__}, function.__name__)
    copy.__module__ = "__main__"
    return copy


def _die() -> None:
    import os

    os._exit(3)


def _worker_name(_: int) -> str:
    from distributed import get_worker

    return str(get_worker().name)


def _square(n: int) -> int:
    return n * n


def _variable(name: str) -> str | None:
    import os

    return os.environ.get(name)


def _logged_nap(seconds: float, number: int) -> float:
    import time

    from distributed import get_worker

    get_worker().log_event("scalable-conformance", number)
    time.sleep(seconds)
    return seconds


def _starts(client: ScalableClient) -> list[int]:
    """Return the number of each nap, once per start."""
    return [number for _, number in client.get_events("scalable-conformance")]


def _nap(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


def _count_starts(dask_scheduler: Any) -> int:
    """Return how often tasks have been sent to workers so far."""
    return sum(1 for entry in dask_scheduler.transition_log if entry[2] == "processing")
