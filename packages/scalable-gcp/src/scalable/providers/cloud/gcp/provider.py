"""The provider `gcp`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from scalable.cluster.ledger import new_run_id
from scalable.cluster.port import Backend, Leftover
from scalable.costing import CostEstimate
from scalable.manifest.issues import ValidationIssue
from scalable.planning import most_expensive_plan
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    Owned,
    RefreshedPrices,
    ScalePlan,
    current_owner,
)
from scalable.providers.checks import (
    find_bad_images,
    find_name_clashes,
    find_processor_clashes,
    no_effect_warnings,
)
from scalable.providers.cloud.gcp.costs import estimate
from scalable.providers.cloud.gcp.instances import (
    MAX_METADATA,
    PORT,
    metadata_size,
    scheduler_body,
    subnetwork,
    worker_body,
)
from scalable.providers.cloud.gcp.keys import Keys, secret_requests
from scalable.providers.cloud.gcp.machines import Machine, attached_gpus, machine_named
from scalable.providers.cloud.gcp.names import Run, run_prefix, scheduler_name, worker_names
from scalable.providers.cloud.gcp.options import GCPOptions, LabelKey, LabelValue
from scalable.providers.cloud.gcp.prices import DISK_GB, PRICES
from scalable.providers.cloud.gcp.request import WorkerRequest, worker_request
from scalable.providers.common import BaseProvider, cluster_handle, group_specs
from scalable.providers.labels import dns_label
from scalable.providers.queries import ask
from scalable.providers.scheduler import scheduler_image

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi

__all__ = ["GCPProvider"]

T = TypeVar("T")

_CLOSE_TIMEOUT = 240.0
"""Seconds for each of the removals at the end."""
_MAX_LAUNCH = 1000
"""Machines in one call: https://cloud.google.com/compute/docs/instances/multiple/about-bulk-creation."""

# https://cloud.google.com/compute/docs/labeling-resources#requirements
_MAX_LABELS = 64
_OUR_LABELS = 4
"""Labels of a worker that are Scalable's."""

_CERTIFICATES_BYTES = 4096
"""What a run's certificate adds to a startup script at most, in which it is several times."""

_LABELS: TypeAdapter[Mapping[str, str]] = TypeAdapter(Mapping[LabelKey, LabelValue])


class GCPProvider(BaseProvider[GCPOptions]):
    """Runs each worker on a Compute Engine VM of its own."""

    name = "gcp"
    options_model = GCPOptions

    def check(self, spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
        """Find regions and zones that conflict, and components that no machine can run."""
        yield from _check_zones(spec, options)
        if options.machine_type and options.instance_type:
            message = "is another name of machine_type; set one of them"
            yield spec.option_issue("instance_type", "E_DUPLICATE_KEY", message)
        elif options.machine:
            yield from _check_machine(spec, machine_named(options.machine), options)
        else:
            yield from _check_choice(spec, options)
        yield from _check_processors(spec, options)
        if options.boot_image is None and any(each.gpus for each in spec.components.values()):
            message = (
                "set it to an image with NVIDIA's driver and container toolkit, because components "
                "require GPUs: Container-Optimized OS has none"
            )
            yield spec.option_issue("boot_image", "E_MISSING_KEY", message)
        yield from _check_labels(spec, options)
        if problem := PRICES.read().problem:
            yield spec.option_issue((), "W_PRICES", problem, "warning")
        yield from no_effect_warnings(
            spec, "mounts", "machines of Google Cloud do not have your directories"
        )
        yield from find_name_clashes(spec, dns_label)
        yield from find_bad_images(spec)
        yield from _check_metadata(spec, options)

    def knows_prices(self, spec: DeploymentSpec) -> bool:
        """Return whether there are prices for the target's region."""
        given = spec.target.options
        zones = given.get("zones")
        first = given.get("zone") or (zones[0] if isinstance(zones, list | tuple) and zones else "")
        region = given.get("region") or str(first).rpartition("-")[0]
        return PRICES.read().prices.find(str(region), DISK_GB) is not None

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
        """Return what the plan costs by the prices of this version or newer ones that the user has refreshed.

        What is in neither is unknown.
        """
        options, prices = self.parse_options(spec), PRICES.read().prices
        return estimate(options, _requests(spec, options, ""), plan.workers_by_tag, prices)

    def refresh_prices(self, specs: Sequence[DeploymentSpec]) -> RefreshedPrices:
        """Fetch the prices of the regions of these targets from Google, and save them for this user.

        Raises
        ------
        ProviderNotSetUpError
            This machine has no credentials.
        ProviderError
            No target has a region, or Google does not tell; the prices are as they were.
        """
        from scalable.providers.cloud.gcp.refresh import refresh_prices

        targets = [self.parse_options(spec) for spec in specs]
        return _ask(GCPOptions(), lambda api: refresh_prices(api, targets))

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Check whether a start would work: credentials, zones, machine types, image, network, accounts, quotas."""
        from scalable.providers.cloud.gcp.preflight import preflight

        options = self.parse_options(spec)
        requests = _requests(spec, options, "")
        counts = most_expensive_plan(spec, self, self.plan_scale(spec)).workers_by_tag
        return _ask(options, lambda api: preflight(api, options, requests, counts))

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        """Return the bodies of the requests of a run in the order in which they are sent, without the key.

        Names in parentheses stand for what only Google Cloud knows. Values that the manifest takes from the
        environment are shown as ``${VAR}``.
        """
        from scalable.cluster.versions import matching_image
        from scalable.providers.cloud.gcp.render import rendered

        options = self.parse_options(spec)
        run = Run(f"{run_prefix(spec.target_name)}-00000000", current_owner(), options.labels)
        network = subnetwork(options, options.project_id or "(project)", options.own_region)
        keys, secrets = _rendered_keys(options, run)
        image = scheduler_image(spec, options.image)
        body = scheduler_body(run, options, network, scheduler_name(run.name), image, keys)
        bodies = [("scheduler", body)]
        for tag, request in _requests(spec, options, matching_image()).items():
            if n := plan.workers_by_tag.get(tag, 0):
                body = worker_body(
                    run,
                    options,
                    network,
                    request,
                    names=worker_names(run.name, tag, "000000", n),
                    request_id="(request)",
                    scheduler=f"tls://(the scheduler's address):{PORT}",
                    keys=keys,
                )
                bodies.append((tag, body))
        sent = [(f"secretmanager-{name}", body) for name, body in secrets]
        sent += [(f"bulkInsert-{what}", body) for what, body in bodies]
        return [
            Artifact(
                f"{number:02}-{name}.json", "application/json", rendered(body, spec.manifest.redact)
            )
            for number, (name, body) in enumerate(sent, 1)
        ]

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return what the runs of all users have left in the target's region.

        Raises
        ------
        ProviderNotSetUpError
            This machine has no credentials, or no project.
        """
        from scalable.providers.cloud.gcp.owned import list_owned

        options = self.parse_options(spec)
        return _ask(options, lambda api: list_owned(api, options))

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """Remove all machines of the runs of these."""
        from scalable.providers.cloud.gcp.owned import reap

        return _ask(self.parse_options(spec), lambda api: reap(api, owned)) if owned else []

    def _build(self, spec: DeploymentSpec, options: GCPOptions) -> ClusterHandle:
        from dataclasses import replace

        from scalable.cluster import Pace
        from scalable.cluster.remote import RemoteHost, build_remote_cluster
        from scalable.cluster.versions import matching_image
        from scalable.providers.cloud.gcp.api import GceApi
        from scalable.providers.cloud.gcp.backend import GceBackend
        from scalable.providers.cloud.gcp.scheduler import GceScheduler
        from scalable.providers.tls import make_credentials

        name = new_run_id(run_prefix(spec.target_name))
        run = Run(name, current_owner(), options.labels)
        requests = _requests(spec, options, matching_image())
        api = GceApi(run.name, options.project_id)
        credentials = make_credentials()
        scheduler = GceScheduler(
            api,
            run,
            options,
            credentials,
            scheduler_image(spec, options.image),
            close_timeout=_CLOSE_TIMEOUT,
        )
        host = RemoteHost(
            scheduler,
            name=run.name,
            security=credentials.security(),
            start_timeout=options.startup_timeout,
            close_timeout=_CLOSE_TIMEOUT + 90,
            poll=1.0,
        )

        def make_backend(_: str) -> Backend:
            return GceBackend(
                api,
                scheduler.place,
                requests,
                scheduler=scheduler.address,
                scheduler_machine=scheduler.name,
                close_timeout=_CLOSE_TIMEOUT,
            )

        cluster = build_remote_cluster(
            host,
            make_backend,
            [replace(group, max_launch=_MAX_LAUNCH) for group in group_specs(spec, options)],
            max_workers=options.max_workers,
            pace=Pace(
                poll=2.0,
                close_timeout=_CLOSE_TIMEOUT + 90,
                scheduler_timeout=options.scheduler_timeout,
            ),
            orphan_timeout=options.orphan_timeout,
        )
        return cluster_handle(cluster, spec, {"run": run.name, "region": options.own_region})


def _requests(
    spec: DeploymentSpec, options: GCPOptions, default_image: str
) -> dict[str, WorkerRequest]:
    found = {
        tag: worker_request(component, options, default_image)
        for tag, component in spec.components.items()
    }
    # Others are refused by `GCPProvider.check`.
    return {tag: request for tag, request in found.items() if request is not None}


def _rendered_keys(options: GCPOptions, run: Run) -> tuple[Keys, list[tuple[str, dict[str, Any]]]]:
    """Return the keys as they are shown, and the requests to Secret Manager by their names."""
    from scalable.providers.cloud.gcp.render import KEY

    certificate = "(the run's certificate)"
    if options.keys == "metadata":
        return Keys(certificate, KEY), []
    account = options.service_account
    account = "(the project's service account)" if account == "default" else account
    requests = secret_requests(
        options.project_id or "(project)", run, account, options.lifetime, KEY
    )
    named = zip(("create", "setIamPolicy", "addVersion"), requests, strict=True)
    shown = [
        (name, {**each.body, **({"payload": {"data": KEY}} if name == "addVersion" else {})})
        for name, each in named
    ]
    return Keys(certificate, "", "(the secret)"), shown


def _ask(options: GCPOptions, question: Callable[[GceApi], Awaitable[T]]) -> T:
    from scalable.providers.cloud.gcp.api import GceApi

    return ask(lambda: GceApi("scalable", options.project_id), question)


def _check_zones(spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
    if options.zone and options.zones:
        message = "goes without zones; set one of them"
        yield spec.option_issue("zone", "E_DUPLICATE_KEY", message)
    elif not options.own_region:
        message = "this key is required, unless region or zones is set"
        yield spec.option_issue("zone", "E_MISSING_KEY", message)
    if options.zone and not options.zone.startswith(f"{options.own_region}-"):
        message = "is not in the target's region; set one of them, or correct one"
        yield spec.option_issue("zone", "E_OUTSIDE_REGION", message)
    for number, zone in enumerate(options.zones):
        if not zone.startswith(f"{options.own_region}-"):
            message = (
                "is not in the target's region; a run is in one region, because its subnetwork is"
            )
            yield spec.option_issue(("zones", number), "E_OUTSIDE_REGION", message)
        if zone in options.zones[:number]:
            message = "is there twice; remove it"
            yield spec.option_issue(("zones", number), "E_DUPLICATE_KEY", message)


def _check_labels(spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
    for name, component in spec.components.items():
        try:
            _LABELS.validate_python(dict(component.tags))
        except ValidationError:
            message = (
                "Compute Engine takes 63 lower-case letters, digits, _ and - in keys and values of labels; a key "
                "begins with a letter, and not with goog or scalable-"
            )
            yield spec.component_issue(name, "tags", "E_BAD_VALUE", message)
        n = len({*options.labels, *component.tags}) + _OUR_LABELS
        if n > _MAX_LABELS:
            message = (
                f"makes {n} labels with those of the target and of Scalable, and Compute Engine takes {_MAX_LABELS}; "
                "use fewer"
            )
            yield spec.component_issue(name, "tags", "E_BAD_VALUE", message)


def _check_machine(
    spec: DeploymentSpec, machine: Machine, options: GCPOptions
) -> Iterator[ValidationIssue]:
    for name, component in spec.components.items():
        if machine.vcpus is not None and component.cpus > machine.vcpus:
            message = f"is more than the target's machine_type has, {machine.vcpus} vCPUs"
            yield spec.component_issue(name, "cpus", "E_MACHINE_TOO_SMALL", message)
        if machine.usable is not None and (component.memory or 0) > machine.usable:
            message = f"is more than the target's machine_type leaves to a worker, {machine.usable // 2**20}Mi"
            yield spec.component_issue(name, "memory", "E_MACHINE_TOO_SMALL", message)
        if component.gpus and machine.series == "n1":
            if options.gpu_type not in (None, "nvidia-tesla-t4") or (
                attached_gpus(machine.vcpus or 0, component.gpus) is None
            ):
                message = "a machine of series n1 takes up to 4 GPUs of type nvidia-tesla-t4"
                yield spec.component_issue(name, "gpus", "E_NOT_SUPPORTED", message)
        elif component.gpus and machine.gpus == 0:
            message = "the target's machine_type has no GPU; choose one of the series a2, a3 or g2"
            yield spec.component_issue(name, "gpus", "E_NOT_SUPPORTED", message)
        elif machine.gpus is not None and component.gpus > machine.gpus:
            message = f"is more than the target's machine_type has, {machine.gpus} GPUs"
            yield spec.component_issue(name, "gpus", "E_MACHINE_TOO_SMALL", message)
    if options.gpu_type and machine.gpu_type and options.gpu_type != machine.gpu_type:
        message = f"the target's machine_type has GPUs of type {machine.gpu_type}; remove this"
        yield spec.option_issue("gpu_type", "E_NOT_SUPPORTED", message)


def _check_metadata(spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
    """Find components whose variables make the startup script of their machines larger than Compute Engine takes."""
    run = Run(f"{run_prefix(spec.target_name)}-00000000", "", options.labels)
    for tag, request in _requests(spec, options, "").items():
        body = worker_body(
            run,
            options,
            "",
            request,
            names=[],
            request_id="",
            scheduler=f"tls://10.0.0.1:{PORT}",
            keys=Keys("", ""),
        )
        size = metadata_size(body) + _CERTIFICATES_BYTES
        if size > MAX_METADATA:
            message = (
                f"makes a startup script of {size} bytes with the rest that a machine is told, and Compute Engine "
                f"takes {MAX_METADATA}; set fewer or shorter variables"
            )
            yield spec.component_issue(tag, "env", "E_TOO_LARGE", message)


def _check_processors(spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
    """Find types of machines whose processor does not run the machine image."""
    named = {
        "machine_type" if options.machine_type else "instance_type": options.machine,
        "scheduler_machine_type": options.scheduler_machine_type,
    }
    # What is chosen for a component is never for ARM.
    is_arm = {option: machine_named(name or "").is_arm for option, name in named.items()}
    yield from find_processor_clashes(spec, is_arm, "boot_image")


def _check_choice(spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
    for name, component in spec.components.items():
        if worker_request(component, options, "") is None:
            message = "no machine type that is known here has these cpus, memory and gpus; set machine_type"
            yield spec.component_issue(name, "cpus", "E_NO_MACHINE", message)
