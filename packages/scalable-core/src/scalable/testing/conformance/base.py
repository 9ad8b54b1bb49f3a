"""What a provider tells the suite, and what its tests share: attributes and hooks, specs, clusters."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentProvider, DeploymentSpec
from scalable.providers.registry import get_provider
from scalable.testing.conformance.failing import NativeCall
from scalable.testing.conformance.local import marked_processes
from scalable.testing.conformance.running import Running, by_value, die, worker_infos

if TYPE_CHECKING:
    from scalable.client import ScalableClient

__all__ = ["ABILITIES", "Limitation", "SuiteBase", "ability"]

ABILITIES = {
    "adapt": "scale a group with its work",
    "explain_failed_start": "explain why a worker cannot start",
    "interrupt": "end a worker while it runs a task",
    "leftovers": "list what it has left",
    "replace": "replace a lost worker",
}
"""What a provider may declare that it cannot do, with a reason."""

# Marks a test of one of them; registered by `scalable.testing.plugin`.
ability = pytest.mark.scalable_ability


_MARK = "SCALABLE_CONFORMANCE_PROCESS"

_NO_LEFTOVERS = """\
{name} cannot tell whether anything is left. Add a method that asks the native system, such as

    def leftovers(self) -> Sequence[str]:
        return [job for job in my_jobs() if job.is_alive]

or, for a provider of processes on this machine, `return self.local_processes()`; or say why that is impossible:
`cannot = {{"leftovers": "..."}}`"""


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


class SuiteBase:
    """What a provider sets and overrides, and what the tests share.

    Its attributes are described at `ProviderConformance`.
    """

    manifest: ClassVar[str]
    broken: ClassVar[Mapping[str, Any]] = {"preload_script": "/nonexistent/preload.py"}
    cannot: ClassVar[Mapping[str, str | Limitation]] = {}
    timeout: ClassVar[float] = 120.0
    client_options: ClassVar[Mapping[str, Any]] = {}
    other_image: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        unknown = sorted(set(cls.cannot) - set(ABILITIES))
        if unknown:
            raise TypeError(
                f"{cls.__name__}.cannot names {unknown}, which no test covers; known: {sorted(ABILITIES)}"
            )
        lists_leftovers = cls.leftovers is not SuiteBase.leftovers
        if lists_leftovers and "leftovers" in cls.cannot:
            raise TypeError(f"{cls.__name__} has leftovers(); remove 'leftovers' from its cannot")
        if hasattr(cls, "manifest") and not (lists_leftovers or "leftovers" in cls.cannot):
            raise TypeError(_NO_LEFTOVERS.format(name=cls.__name__))

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
        addresses = {info["name"]: address for address, info in worker_infos(client).items()}
        # From within, because the process may be on another machine. The call ends by a broken connection.
        with contextlib.suppress(OSError):
            client.run(by_value(die), workers=[addresses[worker]])

    def leftovers(self) -> Sequence[str]:
        """Return what exists in the native system now, of clusters of this process and of those it has started.

        Must be overridden: processes, jobs, machines, files with keys. It is called after the end of each cluster, and
        must return nothing then.
        """
        return ()

    def native_calls(self) -> Sequence[NativeCall]:
        """Return functions that `build_cluster` calls, each of which is made to fail in turn.

        These are in addition to those that the suite knows of: `tempfile.mkdtemp`, `Credentials.write`, the start of
        the scheduler in this process or elsewhere, and the first calls to it.
        """
        return ()

    # -- What the tests share

    @pytest.fixture(autouse=True)
    def _mark_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have everything that the test starts on this machine inherit a variable."""
        monkeypatch.setenv(_MARK, uuid.uuid4().hex)

    def local_processes(self) -> list[str]:
        """Return the processes on this machine that the present test has started, and that have not ended."""
        return marked_processes(_MARK)

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
        # Not after an error, which matters more.
        assert list(self.leftovers()) == []

    @pytest.fixture
    def running(self) -> Iterator[Running]:
        """Provide a cluster whose groups are still empty."""
        with self.cluster() as running:
            yield running
