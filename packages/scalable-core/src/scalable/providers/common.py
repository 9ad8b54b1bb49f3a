"""Base class of providers, and the groups and the handle of the clusters that they build.

A subclass names the model of its options and builds clusters; reading, validating, planning, scaling and closing are
done here. Nothing of Dask is imported.

Examples
--------
A provider of workers on desks, complete except for its backend::

    class DeskOptions(TargetOptions):
        '''Options of a target on desks.'''

        room: OneLine = Field(description="Where the desks are.")


    class DeskProvider(BaseProvider[DeskOptions]):
        '''Runs workers on desks.'''

        name = "desk"
        options_model = DeskOptions

        def check(self, spec, options):
            for tag, component in spec.components.items():
                if component.gpus:
                    yield spec.component_issue(tag, "gpus", "E_NO_GPU", "desks have no GPUs")

        def _build(self, spec, options):
            groups = group_specs(spec, options)
            cluster = GroupedCluster(DeskHost(), DeskBackend(options.room), groups)
            return cluster_handle(cluster, spec)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from scalable.errors import (
    NotSupportedError,
    ProviderError,
    UnknownProviderError,
    ValidationFailedError,
)
from scalable.manifest.checking import check_model
from scalable.manifest.document.paths import parse_path
from scalable.manifest.document.place import Place
from scalable.manifest.issues import Severity, ValidationIssue, ValidationReport
from scalable.manifest.messages import field_names
from scalable.manifest.schema import ComponentConfig
from scalable.planning import check_counts, component_request, scale_plan
from scalable.providers.base import (
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    EstimatesCost,
    ResourceRequest,
    ScalePlan,
)
from scalable.providers.checks import check_mpi
from scalable.providers.options import TargetOptions, common_options
from scalable.providers.registry import get_provider, install_hint, iter_provider_names

if TYPE_CHECKING:
    from scalable.cluster import GroupedCluster
    from scalable.cluster.port import GroupSpec

__all__ = [
    "BaseProvider",
    "PlansOnly",
    "check_options",
    "cluster_handle",
    "group_specs",
]

_CORE_KEYS = frozenset({"provider", "overlay"})
"""The keys of a target that are not its provider's."""

OptionsT = TypeVar("OptionsT", bound=TargetOptions)
T = TypeVar("T")


class BaseProvider(ABC, Generic[OptionsT]):
    """A provider whose options are one model.

    Attributes
    ----------
    name : str
        What manifests call it.
    options_model : type
        The model of its options.
    api_version : int
        The provider API that it was written for. The default stays 1 when there is a second version, so that a
        provider that states none is not mistaken for a newer one.
    supports_mpi : bool
        Whether a worker may have several nodes, or MPI ranks; false by default.
    """

    name: str
    options_model: type[OptionsT]
    api_version: int = 1
    supports_mpi: bool = False

    def validate(self, spec: DeploymentSpec) -> ValidationReport:
        """Return every problem of `spec` at once: of its options, of its counts, and those that `check` finds."""
        options, issues = self._read_options(spec)
        # Counts are checked even if an option of the provider's own is wrong.
        common = options or common_options(spec)[0]
        if common is not None:
            issues += check_counts(spec, common)
            issues += self._check_limits(spec, common)
        issues += check_mpi(spec, self.name, supported=self.supports_mpi)
        if options is not None:
            issues += self.check(spec, options)
        return ValidationReport.of(issues)

    def build_cluster(self, spec: DeploymentSpec) -> ClusterHandle:
        """Validate `spec`, then start a scheduler with every group known and empty.

        Raises
        ------
        ValidationFailedError
            The target or a component is wrong; nothing was started.
        """
        report = self.validate(spec)
        if not report.ok:
            raise ValidationFailedError(report)
        return self._build(spec, self.parse_options(spec))

    def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
        """Record the desired counts and return.

        A group that is adaptive already keeps its current size; only its range and its policy change.
        """
        backend = cluster.backend
        adapting = {
            tag
            for tag, group in backend.groups.items()
            if tag in plan.ranges_by_tag and group.minimum is not None
        }
        counts = {tag: count for tag, count in plan.workers_by_tag.items() if tag not in adapting}
        # Counts must never exceed the cap: it is lowered after them, and raised before them.
        lower = plan.max_workers is not None and (
            backend.max_workers is None or plan.max_workers < backend.max_workers
        )
        if not lower:
            backend.set_max_workers(plan.max_workers)
        backend.scale_groups(counts)
        backend.adapt_groups(plan.ranges_by_tag, plan.policies_by_tag)
        if lower:
            backend.set_max_workers(plan.max_workers)

    def close(self, cluster: ClusterHandle) -> None:
        """Remove everything that belongs to `cluster`.

        Raises
        ------
        LeftoverError
            Something could not be removed; the error names it.
        """
        cluster.backend.close()

    def parse_options(self, spec: DeploymentSpec) -> OptionsT:
        """Return the target's options, parsed.

        Raises
        ------
        ValidationFailedError
            An option is not valid.
        """
        options, issues = self._read_options(spec)
        if options is None:
            raise ValidationFailedError(ValidationReport.of(issues))
        return options

    def options_schema(self) -> Mapping[str, Any]:
        """Return the JSON Schema of the options."""
        return self.options_model.model_json_schema()

    def plan_scale(self, spec: DeploymentSpec) -> ScalePlan:
        """Return how many workers each group gets, and what each requires.

        Raises
        ------
        ValidationFailedError
            An option or a count is not valid.
        """
        options = self.parse_options(spec)
        return scale_plan(spec, options, lambda component: self.request(component, options))

    # For subclasses to override.

    def check(self, spec: DeploymentSpec, options: OptionsT) -> Iterable[ValidationIssue]:
        """Find problems of options with each other or with a component, which `options_model` cannot find. Offline."""
        return ()

    def request(self, component: ComponentConfig, options: OptionsT) -> ResourceRequest:
        """Return what one worker of a component requires, including defaults of the target."""
        return component_request(component)

    def knows_prices(self, spec: DeploymentSpec) -> bool:
        """Return whether there are prices for this target; by default, whether the provider has any at all."""
        return isinstance(self, EstimatesCost)

    @abstractmethod
    def _build(self, spec: DeploymentSpec, options: OptionsT) -> ClusterHandle:
        """Build the cluster of a valid `spec`; if this raises, everything that it had created has been removed."""

    def _read_options(self, spec: DeploymentSpec) -> tuple[OptionsT | None, list[ValidationIssue]]:
        place = spec.manifest.place(("targets", spec.target_name))
        options, issues = check_model(self.options_model, spec.target.options, place)
        return options, [*_with_owners(issues, self.name)]

    def _check_limits(
        self, spec: DeploymentSpec, options: TargetOptions
    ) -> Iterator[ValidationIssue]:
        limits = options.limits
        on_cost = {"max_hourly_cost": limits.max_hourly_cost, "max_cost": limits.max_cost}
        limited = [name for name, most in on_cost.items() if most is not None]
        for name in limited if not self.knows_prices(spec) else ():
            yield spec.option_issue(
                ("limits", name),
                "E_NOT_SUPPORTED",
                f"provider {self.name!r} knows no prices, so it cannot keep this limit; remove it",
            )


class PlansOnly(BaseProvider[OptionsT]):
    """A provider that validates and plans, and cannot build clusters in this version."""

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Return the finding that a start would fail."""
        return [
            CheckResult(
                "build",
                False,
                f"provider {self.name!r} cannot build clusters in this version: it validates and plans only",
                "use a target with `provider: local`",
            )
        ]

    def _build(self, spec: DeploymentSpec, options: OptionsT) -> ClusterHandle:
        (refusal,) = self.preflight(spec)
        raise NotSupportedError(f"{refusal.detail}; {refusal.remedy}")


def group_specs(spec: DeploymentSpec, options: TargetOptions) -> list[GroupSpec]:
    """Return the group of each component, with what the options of every target say about groups.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    options : TargetOptions
        Its options.
    """
    from scalable.cluster.port import GroupSpec  # planning needs no engine

    return [
        GroupSpec(
            tag,
            component.slots,
            options.startup_timeout,
            unresponsive_timeout=options.unresponsive_timeout,
        )
        for tag, component in spec.components.items()
    ]


def cluster_handle(
    cluster: GroupedCluster,
    spec: DeploymentSpec,
    metadata: Mapping[str, Any] | None = None,
    *,
    workers_are_near: bool = False,
) -> ClusterHandle:
    """Return the handle of a cluster, whose clients know the manifest's tasks.

    Parameters
    ----------
    cluster : GroupedCluster
        The cluster that was built.
    spec : DeploymentSpec
        The target that it was built for.
    metadata : mapping, optional
        Further facts about it, for display.
    workers_are_near : bool
        Whether every client can connect to the workers. Results then need not pass through the scheduler.
    """
    from scalable.client import ScalableClient  # a cluster that was built has imported Dask already

    def connect() -> ScalableClient:
        # False would keep clients that run beside the workers from connecting to them.
        near = True if workers_are_near else None
        return ScalableClient(cluster, tasks=spec.components_by_task, direct_to_workers=near)

    return ClusterHandle(cluster, connect, metadata or {})


def check_options(targets: Place, selected: str | None) -> Iterator[ValidationIssue]:
    """Find problems of the targets' options in a manifest that is not valid for other reasons.

    Parameters
    ----------
    targets : Place
        The section of the targets, valid or not.
    selected : str or None
        The target to run on: only its provider must be installed, and only its variables must be set.
    """
    for name, target in targets.entries():
        place = target.child("provider")
        scalar = place.scalar
        if scalar is None or scalar.problem or not isinstance(scalar.value, str):
            continue  # reported with the rest of the manifest
        unset: Severity = "error" if name == selected else "warning"
        try:
            provider = get_provider(scalar.value)
        except ProviderError as error:
            code = "UNKNOWN_PROVIDER" if isinstance(error, UnknownProviderError) else "PROVIDER"
            yield place.issue(f"{unset[0].upper()}_{code}", str(error), unset)
            continue
        if isinstance(provider, BaseProvider):
            own = {key: each.data for key, each in target.entries() if key not in _CORE_KEYS}
            issues = check_model(provider.options_model, own, target, unset=unset)[1]
            yield from _with_owners(issues, provider.name)


def _with_owners(issues: Iterable[ValidationIssue], name: str) -> Iterator[ValidationIssue]:
    """Add to each unknown option which installed providers know it."""
    for issue in issues:
        path = parse_path(issue.path)
        is_option = len(path) == 3 and path[0] == "targets"
        if not is_option or issue.message != "unknown key":
            yield issue
        elif owners := _owners(str(path[-1]), name):
            why = f"{name!r} has no such option, {' and '.join(owners)} has; remove it"
            yield replace(issue, message=f"unknown key: {why}")
        else:
            yield issue


def _owners(option: str, other_than: str) -> list[str]:
    owners = []
    for name in sorted(iter_provider_names()):
        if install_hint(name) is None:
            continue  # nobody's plugin is imported for a hint
        try:
            provider = get_provider(name) if name != other_than else None
        except ProviderError:
            continue  # it is of no help here, and reported where a target needs it
        if isinstance(provider, BaseProvider) and option in field_names(provider.options_model):
            owners.append(repr(name))
    return owners
