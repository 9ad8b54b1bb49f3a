"""The contract between Scalable and a provider.

A provider turns one target of a manifest into one Dask cluster with a worker group per component. It satisfies
`DeploymentProvider`, by structure or by subclassing `scalable.providers.common.BaseProvider`, and may have any of the
optional abilities below. Nothing here imports Dask, an SDK or a provider.

``scalable.providers`` is a namespace that every provider's distribution adds to, so it has no ``__init__``. These are
the core's modules in it, in reading order:

============  =======================================================================================
`base`        this contract: what a provider receives, what it does, what it may be able to do
`registry`    the providers that are installed or registered, by name
`options`     the options that every target has, and the types of field to build further ones from
`common`      `BaseProvider`, which reads and validates options, plans, scales and closes
`checks`      problems of targets and components that several providers look for
`rendering`   what a provider shows of the requests that a run would send
`labels`      names of components and users as native systems accept them
`queries`     questions that a native system is asked once, outside of any event loop
`prices`      prices that a version comes with, and newer ones that the user has fetched
`scheduler`   the arguments and the image of a scheduler that runs elsewhere
`worker`      the command line and the thread variables of a worker
`entry`       the program that this command line runs, sent as text
`forking`     the program that runs all workers of one job, sent as text
`containers`  the command that runs a worker in a container image, and the checks before that
`servers`     Dask servers of this process, without a port for HTTP
`tls`         the keys of a cluster
`logs`        where a run keeps the logs of workers, and the last lines of one
`blocking`    calls of an SDK that blocks, in threads that a backend can wait for
============  =======================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from scalable.errors import UnknownTargetError

if TYPE_CHECKING:
    from scalable.client import ScalableClient
    from scalable.cluster import AdaptivePolicy, GroupedCluster
    from scalable.cluster.port import Leftover
    from scalable.costing import CostEstimate
    from scalable.manifest.issues import Severity, ValidationIssue, ValidationReport
    from scalable.manifest.schema import ComponentConfig, ManifestModel, TargetConfig, TaskConfig

__all__ = [
    "API_VERSION",
    "Artifact",
    "CheckResult",
    "ClusterHandle",
    "DeploymentProvider",
    "DeploymentSpec",
    "DescribesOptions",
    "EstimatesCost",
    "ListedPrice",
    "Owned",
    "PlansScale",
    "Preflights",
    "Reaps",
    "RefreshedPrices",
    "RefreshesPrices",
    "Renders",
    "ResourceRequest",
    "RunsInside",
    "ScalePlan",
    "Submission",
    "current_owner",
]

API_VERSION = 1
"""The version of this contract. A provider states in `api_version` which one it was written for."""


@dataclass(frozen=True)
class ResourceRequest:
    """Resources that one worker of a group requires.

    Parameters
    ----------
    cpus : int
        Cores.
    memory : int or None
        Bytes; None leaves it to the provider.
    walltime : int or None
        Seconds; None where the provider has no walltime.
    gpus : int or None
        GPUs.
    """

    cpus: int = 1
    memory: int | None = None
    walltime: int | None = None
    gpus: int | None = None


@dataclass(frozen=True)
class ScalePlan:
    """Desired size of every group, and what its workers require.

    Parameters
    ----------
    workers_by_tag : mapping of str to int
        The count of a fixed group, the initial count of an adaptive one.
    resources_by_tag : mapping of str to ResourceRequest
        What each worker requires.
    ranges_by_tag : mapping of str to (int, int)
        Minimum and maximum of each adaptive group.
    policies_by_tag : mapping of str to AdaptivePolicy
        How quickly adaptive groups follow demand, where the target says so.
    max_workers : int or None
        Cap on the total over all groups.
    """

    workers_by_tag: Mapping[str, int] = field(default_factory=dict)
    resources_by_tag: Mapping[str, ResourceRequest] = field(default_factory=dict)
    ranges_by_tag: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    max_workers: int | None = None
    policies_by_tag: Mapping[str, AdaptivePolicy] = field(default_factory=dict)


@dataclass(frozen=True)
class DeploymentSpec:
    """One target of one manifest, ready for its provider.

    Parameters
    ----------
    target_name, provider_name : str
        The target and its provider, as the manifest calls them.
    manifest : ManifestModel
        The whole manifest: overlay merged, environment expanded.
    target : TargetConfig
        The target; its `options` are the provider's to parse.
    components, tasks : mapping
        By name.
    raw_manifest : mapping
        The merged document with ``${VAR}`` as written. Only this may be shown or stored.
    """

    target_name: str
    provider_name: str
    manifest: ManifestModel
    target: TargetConfig
    components: Mapping[str, ComponentConfig]
    tasks: Mapping[str, TaskConfig]
    raw_manifest: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_manifest(cls, manifest: ManifestModel, *, target_name: str) -> Self:
        """Return the spec of one target of a manifest.

        Raises
        ------
        UnknownTargetError
            A `KeyError`: the manifest has no target of that name.
        """
        try:
            target = manifest.targets[target_name]
        except KeyError:
            raise UnknownTargetError(target_name, manifest.targets) from None
        return cls(
            target_name=target_name,
            provider_name=target.provider,
            manifest=manifest,
            target=target,
            components=manifest.components,
            tasks=manifest.tasks,
            raw_manifest=manifest.raw,
        )

    def option_issue(
        self,
        option: str | tuple[str | int, ...],
        code: str,
        message: str,
        severity: Severity = "error",
    ) -> ValidationIssue:
        """Return an issue about an option of the target, or about a value inside one.

        Parameters
        ----------
        option : str or tuple
            ``"walltime"``, ``("tolerations", 0, "key")``.
        code : str
            ``E_…`` for an error, ``W_…`` for a warning.
        message : str
            What is wrong and what to do, in one line; no values, because they may come from the environment.
        severity : {"error", "warning"}
            An error prevents a run; a warning does not.
        """
        inside = (option,) if isinstance(option, str) else option
        return self.manifest.issue(("targets", self.target_name, *inside), code, message, severity)

    def component_issue(
        self,
        component: str,
        field: str,
        code: str,
        message: str,
        severity: Severity = "error",
    ) -> ValidationIssue:
        """Return an issue about a field of a component; see `option_issue`."""
        return self.manifest.issue(("components", component, field), code, message, severity)

    @property
    def components_by_task(self) -> dict[str, str]:
        """The component that runs each manifest task."""
        return {name: task.component for name, task in self.tasks.items()}


@dataclass
class ClusterHandle:
    """A cluster that a provider built, as a context manager that closes it.

    Parameters
    ----------
    backend : GroupedCluster
        The cluster.
    client_factory : callable
        Returns a client of the cluster that knows the manifest's tasks.
    metadata : mapping of str to object
        Further facts about the cluster, for display.
    """

    backend: GroupedCluster
    client_factory: Callable[[], ScalableClient]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.backend.close()


@runtime_checkable
class DeploymentProvider(Protocol):
    """Interface of every provider."""

    name: str

    def validate(self, spec: DeploymentSpec) -> ValidationReport:
        """Return every problem of `spec` at once, offline and without side effects."""
        ...

    def build_cluster(self, spec: DeploymentSpec) -> ClusterHandle:
        """Start a scheduler, with every group known and empty.

        All or nothing: when it raises, everything that it had created has been removed.
        """
        ...

    def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
        """Record the desired counts and return. Idempotent; scale-in loses no task and no result."""
        ...

    def close(self, cluster: ClusterHandle) -> None:
        """Remove everything that belongs to `cluster`.

        Idempotent. Continues past errors, and raises `LeftoverError` at the end if something could not be removed.
        """
        ...


@runtime_checkable
class EstimatesCost(Protocol):
    """Optional: the provider knows prices."""

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
        """Return the itemised cost of `plan`; None where nothing in it has a price."""
        ...


@dataclass(frozen=True)
class ListedPrice:
    """The price of one unit for one hour at one place, as a provider's list has it.

    Parameters
    ----------
    place : str
        Where it holds: ``us-east-1``.
    unit : str
        What is paid for: ``c6i.large``.
    price : Decimal or None
        The price; None if the list has none.
    currency : str
        ISO 4217 code.
    source : str
        The list; empty without a price.
    as_of : date or None
        The day on which it was asked; None without a price.
    """

    place: str
    unit: str
    price: Decimal | None = None
    currency: str = "USD"
    source: str = ""
    as_of: date | None = None


@dataclass(frozen=True)
class RefreshedPrices:
    """What a provider has learnt about its prices.

    Parameters
    ----------
    path : Path
        The file in which this user's prices are from now on.
    prices : sequence of ListedPrice
        What was asked for, including what has no price.
    """

    path: Path
    prices: Sequence[ListedPrice]


@runtime_checkable
class RefreshesPrices(Protocol):
    """Optional: the provider can ask for its present prices, and keep them for later estimates of this user."""

    def refresh_prices(self, specs: Sequence[DeploymentSpec]) -> RefreshedPrices:
        """Fetch the prices that estimates of these targets need, and save them.

        Estimates stay offline: they read what was saved, and give each price its own source and date. If this raises,
        the prices are as they were.

        Parameters
        ----------
        specs : sequence of DeploymentSpec
            The targets, whose options say for which places. Their components may be absent. There is always one: where
            there is no manifest, one without options, or with a ``region`` alone.

        Raises
        ------
        ProviderNotSetUpError
            This machine lacks what it takes to ask, such as credentials.
        ProviderError
            The prices cannot be learnt.
        """
        ...


@runtime_checkable
class PlansScale(Protocol):
    """Optional: the provider's own options influence what a worker requires."""

    def plan_scale(self, spec: DeploymentSpec) -> ScalePlan:
        """Return how many workers each group gets and what each requires; offline and deterministic."""
        ...


@runtime_checkable
class DescribesOptions(Protocol):
    """Optional: the provider's options have a JSON Schema."""

    def options_schema(self) -> Mapping[str, Any]:
        """Return the schema of the options that a target may have beside `provider` and `overlay`."""
        ...


@dataclass(frozen=True)
class CheckResult:
    """One finding of a preflight.

    Parameters
    ----------
    name : str
        What was checked.
    ok : bool or None
        Whether a start would work as far as this check goes; None where that cannot be determined from here.
    detail : str
        What was found, in one line.
    remedy : str
        What to do about it; empty where nothing is wrong.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


@runtime_checkable
class Preflights(Protocol):
    """Optional: the provider can check, online and read-only, whether a start would work."""

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Check credentials, quota, partition, image and reachability."""
        ...


@dataclass(frozen=True)
class Artifact:
    """One native thing that a run would send: a script, an object, a request.

    Parameters
    ----------
    name : str
        Its name, such as ``gcam.sbatch``.
    media_type : str
        Its media type, such as ``text/x-shellscript``.
    content : str
        The text; values from the environment appear as ``${VAR}``.
    """

    name: str
    media_type: str
    content: str


@runtime_checkable
class Renders(Protocol):
    """Optional: the provider can show exactly what a run would send."""

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        """Render every native artefact, offline and deterministically."""
        ...


@dataclass(frozen=True)
class Submission:
    """A workflow that is to run at its target, instead of on the user's machine.

    Parameters
    ----------
    files : mapping of str to bytes
        The manifest, the workflow and its modules, by their paths in one directory.
    arguments : sequence of str
        The arguments of ``scalable`` in that directory.
    variables : mapping of str to str
        The variables that the manifest takes from the environment. They may be secrets.
    """

    files: Mapping[str, bytes] = field(repr=False)
    arguments: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@runtime_checkable
class RunsInside(Protocol):
    """Optional: the provider can run a workflow at its target, beside the scheduler."""

    def run_inside(
        self, spec: DeploymentSpec, submission: Submission, write: Callable[[str], object]
    ) -> int:
        """Run ``scalable`` there, and return its exit status once it has ended and nothing of it is left.

        The run does not depend on this machine: it goes on while the connection is broken, or this process is gone.
        KeyboardInterrupt ends it.

        Parameters
        ----------
        spec : DeploymentSpec
            The target.
        submission : Submission
            What to run.
        write : callable
            Takes each line of its output, and of what there is to say about it.

        Raises
        ------
        SessionError
            It cannot be started there, or was removed by somebody else.
        """
        ...


@dataclass(frozen=True)
class Owned:
    """One native thing that carries Scalable's labels.

    Parameters
    ----------
    kind, name : str
        What it is, and which one: ``Slurm job``, ``4711_0``.
    run_id : str
        The run that it belongs to.
    owner : str
        The user who started that run: what `current_owner` returned there. Empty if that is not known.
    detail : str
        Its state as the native system reports it.
    place : str
        Where it is, if a provider's targets may lead to several places: a region, a cluster and namespace. Two targets
        that list the same kind, name and place mean the same resource.
    """

    kind: str
    name: str
    run_id: str
    owner: str
    detail: str = ""
    place: str = ""


@runtime_checkable
class Reaps(Protocol):
    """Optional: the provider finds and removes what dead runs left behind.

    Only the options of the target matter: its components may be absent, because it may come from the record of a run,
    or have no options at all where there is no manifest.
    """

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return everything at this target that carries Scalable's labels, of every run and of all owners.

        Read-only. Called in a thread other than the main thread, at the same time as for other targets. May raise
        anything, which is then reported for this target alone.

        Raises
        ------
        ProviderNotSetUpError
            This machine lacks what it takes to ask, such as a command or credentials.
        """
        ...

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """Remove these, which `list_owned` returned for the same target; return what could not be removed."""
        ...


def current_owner() -> str:
    """Return the name of the present user, by which a provider labels what it creates, and fills `Owned.owner`.

    It is the user name of the process's user id, whatever the environment says, or that id if it has no name.
    """
    import pwd  # which not all platforms have

    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # in a container, for example
        return str(user)
