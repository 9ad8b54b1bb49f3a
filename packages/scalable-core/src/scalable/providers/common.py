"""Base class of providers, and helpers that several of them need.

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

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

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
    current_owner,
)
from scalable.providers.options import IMAGE, TargetOptions, common_options
from scalable.providers.registry import get_provider, install_hint, iter_provider_names

if TYPE_CHECKING:
    from scalable.cluster import GroupedCluster
    from scalable.cluster.port import GroupSpec

__all__ = [
    "BaseProvider",
    "PlansOnly",
    "ask",
    "check_mpi",
    "check_options",
    "cluster_handle",
    "dns_label",
    "explicit_or_default",
    "find_bad_images",
    "find_name_clashes",
    "find_processor_clashes",
    "group_specs",
    "no_effect_warnings",
    "owner_label",
    "owner_of_label",
    "redacted",
    "run_now",
    "scheduler_image",
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


def check_mpi(spec: DeploymentSpec, provider: str, *, supported: bool) -> Iterator[ValidationIssue]:
    """Yield an issue for each component that asks for nodes or ranks which its workers cannot have.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    provider : str
        The name of its provider.
    supported : bool
        Whether workers of that may have several nodes, or ranks.
    """
    for name, component in spec.components.items():
        if not component.runs_mpi:
            continue
        if not supported:
            field = "nodes" if component.nodes > 1 else "ranks"
            message = (
                f"provider {provider!r} runs each worker on a part of one machine and starts no MPI ranks; "
                "remove it, or choose a target on Slurm"
            )
            yield spec.component_issue(name, field, "E_NOT_SUPPORTED", message)
        elif component.ranks is not None and component.ranks < component.nodes:
            message = f"must be at least the number of nodes, {component.nodes}: each has one"
            yield spec.component_issue(name, "ranks", "E_OUT_OF_RANGE", message)
        elif component.slots > 1:
            message = "must be 1: one task at a time uses the ranks of its worker"
            yield spec.component_issue(name, "slots", "E_NOT_SUPPORTED", message)


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


def explicit_or_default(component: ComponentConfig, field: str, default: T | None) -> Any:
    """Return a component's own value of a field, else the target's default, else the schema's.

    Parameters
    ----------
    component : ComponentConfig
        The component.
    field : str
        ``"memory"``.
    default : object or None
        The target's default; None if it has none.
    """
    value = getattr(component, field)
    return value if field in component.model_fields_set or default is None else default


def find_bad_images(spec: DeploymentSpec) -> Iterator[ValidationIssue]:
    """Find images of components that no registry has, such as files, for a provider whose images all come from one."""
    for name, component in spec.components.items():
        if component.image is not None and not re.fullmatch(IMAGE.pattern, component.image):
            message = f"must be {IMAGE.description}: on this target, images come from a registry"
            yield spec.component_issue(name, "image", "E_BAD_VALUE", message)


def find_processor_clashes(
    spec: DeploymentSpec, is_arm: Mapping[str, bool], image: str
) -> Iterator[ValidationIssue]:
    """Find types of machines for ARM whose machine image is not for ARM; a run has one image for all of its machines.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    is_arm : mapping of str to bool
        Whether the type of machine that an option names is for ARM, by option: of the workers, and of the scheduler.
    image : str
        The option with the machine image, which by default is not for ARM.
    """
    for option in (each for each, arm in is_arm.items() if arm):
        if spec.target.options.get(image) is None:
            message = (
                f"is for ARM, and the machine image is not; set {image} to one for ARM, or choose "
                "another type"
            )
            yield spec.option_issue(option, "E_NOT_SUPPORTED", message)
        elif not all(is_arm.values()):
            message = (
                "is for ARM, and scheduler and workers have one machine image; choose both for ARM"
            )
            yield spec.option_issue(option, "E_NOT_SUPPORTED", message)


def no_effect_warnings(spec: DeploymentSpec, field: str, why: str) -> Iterator[ValidationIssue]:
    """Warn of each component that sets a field which has no effect on this target.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    field : str
        ``"mounts"``.
    why : str
        Why the field has no effect: ``"Fargate tasks see no directories of a host"``.
    """
    for name, component in spec.components.items():
        if getattr(component, field) and field in component.model_fields_set:
            message = f"has no effect on target {spec.target_name!r}: {why}"
            yield spec.component_issue(name, field, "W_NO_EFFECT", message, "warning")


def find_name_clashes(
    spec: DeploymentSpec, native: Callable[[str], str]
) -> Iterator[ValidationIssue]:
    """Find components whose names a backend with narrower rules cannot distinguish.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    native : callable
        Returns the backend's name of a component.
    """
    first: dict[str, str] = {}
    for name in spec.components:
        other = first.setdefault(native(name), name)
        if other != name:
            message = f"would have the same native name as {other!r}, {native(name)!r}; rename one of them"
            yield spec.manifest.issue(("components", name), "E_NAME_CLASH", message)


def dns_label(component: str) -> str:
    """Return a component's name as a label of RFC 1035, which Kubernetes and Compute Engine accept.

    Examples
    --------
    >>> dns_label("GCAM_core"), dns_label("plots_")
    ('gcam-core', 'plots')
    """
    return component.lower().replace("_", "-").rstrip("-")


def owner_label(owner: str, refused: str, length: int) -> str:
    """Return a user's name as a label: as it is, or what the native system accepts of it, and a checksum.

    Without that, ``anna.b`` and ``anna_b`` would be one user, who may remove what the other one has.

    Parameters
    ----------
    owner : str
        What `current_owner` returns.
    refused : str
        Regular expression of the characters that a label must not have.
    length : int
        Characters that it may have.

    Examples
    --------
    >>> owner_label("anna_b", "[^a-z0-9_-]", 63), owner_label("Anna.B", "[^a-z0-9_-]", 63)
    ('anna_b', 'anna_b-161a473b')
    """
    import hashlib  # which validating and planning do without

    def accepted(character: re.Match[str]) -> str:
        lower = character[0].lower()
        return "_" if re.search(refused, lower) else lower

    label = re.sub(refused, accepted, owner)
    if label == owner and len(owner) <= length:
        return owner
    checksum = hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{label[: length - len(checksum) - 1]}-{checksum}"


def owner_of_label(label: str, as_label: Callable[[str], str]) -> str:
    """Return the user whom a label means: the present one, if the label is theirs, and else the label.

    Parameters
    ----------
    label : str
        The label.
    as_label : callable
        Returns a user's label, by `owner_label`.
    """
    present = current_owner()
    return present if label == as_label(present) else label


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """Return what a provider renders without the values of variables, wherever there is text in it.

    Parameters
    ----------
    value : object
        Mappings, lists and scalars.
    redact : callable
        Returns a text with ``${VAR}`` in place of the values that the manifest takes from the environment.

    Examples
    --------
    >>> redacted({"env": [{"value": "hunter2"}], "n": 2}, lambda text: text.replace("hunter2", "${PASSWORD}"))
    {'env': [{'value': '${PASSWORD}'}], 'n': 2}
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, redact) for item in value]
    return value


def scheduler_image(spec: DeploymentSpec, image: str | None) -> str:
    """Return the image of a scheduler elsewhere: the target's, else that of the first component that has one.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    image : str or None
        What the target says.
    """
    from scalable.cluster.versions import matching_image  # imports Dask

    images = (component.image for component in spec.components.values())
    return image or next(filter(None, images), matching_image())


class _Api(Protocol):
    async def close(self) -> None: ...


A = TypeVar("A", bound=_Api)


def ask(connect: Callable[[], A], question: Callable[[A], Awaitable[T]]) -> T:
    """Return the answer to a question that a native system is asked once.

    Parameters
    ----------
    connect : callable
        Returns what asks it, which is closed then.
    question : callable
        Asks it.
    """

    async def answer() -> T:
        api = connect()
        try:
            return await question(api)
        finally:
            await api.close()

    return run_now(answer())


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also on a thread whose event loop is running, such as a notebook's."""
    # Validating and planning need neither.
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()
