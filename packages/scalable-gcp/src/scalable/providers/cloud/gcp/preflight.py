"""The checks of ``scalable check``: read-only questions to Google Cloud."""

from __future__ import annotations

import difflib
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from scalable.cluster.port import Reason
from scalable.errors import NativeTimeoutError, ProviderNotSetUpError
from scalable.providers.base import CheckResult
from scalable.providers.cloud.gcp.api import GceApi, GceError, GceUnreachableError
from scalable.providers.cloud.gcp.instances import PORT, boot_image, subnetwork
from scalable.providers.cloud.gcp.machines import Machine, machine_named
from scalable.providers.cloud.gcp.names import regions_of, zones_of
from scalable.providers.cloud.gcp.refusals import explain_refusal
from scalable.providers.cloud.gcp.secret_manager import default_account, list_secrets

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.options import GCPOptions
    from scalable.providers.cloud.gcp.request import WorkerRequest

__all__ = ["preflight"]


async def preflight(
    api: GceApi,
    options: GCPOptions,
    requests: Mapping[str, WorkerRequest],
    counts: Mapping[str, int],
) -> list[CheckResult]:
    """Check credentials, project, zones, machine types, machine image, subnetwork, firewall, service account, quotas.

    Parameters
    ----------
    api : GceApi
        Compute Engine.
    options : GCPOptions
        The target's options.
    requests : mapping of str to WorkerRequest
        The workers of each group, by tag.
    counts : mapping of str to int
        How many a run has at most.
    """
    first = await _check_credentials(api)
    if not first.ok:
        return [first]
    results = [first]
    zones = await _ask("zones", _check_zones, api, options)
    results.append(zones)
    if zones.ok:
        names = options.own_zones or zones_of(options.own_region, await api.zones())
        needs = {
            f"machine of {r.tag}": _Need(r.machine, r.cpus, r.memory) for r in requests.values()
        }
        needs["machine of the scheduler"] = _Need(machine_named(options.scheduler_machine_type))
        for name, need in needs.items():
            results.append(await _ask(name, _check_machine, api, name, need, names))
    results.append(await _ask("machine image", _check_image, api, options))
    results.append(await _ask("subnetwork", _check_subnetwork, api, options))
    results.append(await _ask("firewall", _check_firewall, api, options))
    results.append(await _ask("service account", _check_account, api, options))
    if options.keys == "secret-manager":
        results.append(await _ask("Secret Manager", _check_secrets, api))
    results.append(await _ask("quota", _check_quota, api, options, requests, counts))
    return results


async def _ask(
    name: str, check: Callable[..., Awaitable[CheckResult]], *args: object
) -> CheckResult:
    """Return the result of a check, or that it could not be made."""
    try:
        return await check(*args)
    except (GceError, GceUnreachableError, NativeTimeoutError) as error:
        if isinstance(error, GceError) and error.status in (400, 404):
            return CheckResult(name, False, str(error), "correct it, or create it")
        return CheckResult(name, None, f"not checked: {error}")


async def _check_credentials(api: GceApi) -> CheckResult:
    try:
        project = await api.check_credentials()
        await api.call("Projects", "get")
    except ProviderNotSetUpError as error:
        return CheckResult("credentials", False, error.missing, error.remedy)
    except GceError as error:
        remedy = explain_refusal(error).remedy
        return CheckResult("credentials", False, str(error), remedy)
    except (GceUnreachableError, NativeTimeoutError) as error:
        return CheckResult("credentials", False, str(error), "check the network")
    return CheckResult("credentials", True, f"project {project}")


async def _check_zones(api: GceApi, options: GCPOptions) -> CheckResult:
    all_zones = await api.zones()
    region = options.own_region
    if not options.own_zones:
        if there := zones_of(region, all_zones):
            return CheckResult("zones", True, ", ".join(there))
        near = _near(region, regions_of(all_zones))
        return CheckResult("zones", False, f"there is no region {region}", near)
    for zone in options.own_zones:
        if zone not in all_zones:
            return CheckResult("zones", False, f"there is no zone {zone}", _near(zone, all_zones))
    return CheckResult("zones", True, ", ".join(options.own_zones))


def _near(name: str, names: Sequence[str], otherwise: str = "correct it") -> str:
    found = difflib.get_close_matches(name, names, 3)
    return f"did you mean {' or '.join(found)}?" if found else otherwise


class _Need(NamedTuple):
    """A machine, and the cores and bytes that it must have at least."""

    machine: Machine
    cpus: int = 1
    memory: int | None = None


async def _check_machine(api: GceApi, name: str, need: _Need, zones: Sequence[str]) -> CheckResult:
    """Find out in which of the zones a machine type is offered, and whether it holds what runs there."""
    kind = need.machine.name
    there = []
    for zone in zones:
        try:
            found = await api.call("MachineTypes", "get", zone=zone, machine_type=kind)
        except GceError as error:
            if error.status != 404:
                raise
            continue
        there.append(zone)
        usable = found.memory_mb * 2**20 * 93 // 100
        if found.guest_cpus < need.cpus or usable < (need.memory or 0):
            detail = (
                f"{kind} has {found.guest_cpus} vCPUs and leaves {usable // 2**20}Mi to a worker"
            )
            return CheckResult(name, False, detail, "choose a larger machine_type")
    if not there:
        detail = f"{kind} is not offered in {', '.join(zones)}"
        offered = [each.name for each in await api.call("MachineTypes", "list", zone=zones[0])]
        return CheckResult(name, False, detail, _near(kind, offered, "choose other zones"))
    return CheckResult(name, True, f"{kind} is offered in {', '.join(there)}")


async def _check_image(api: GceApi, options: GCPOptions) -> CheckResult:
    path = boot_image(options)
    _, project, _, _, *rest = path.split("/")
    if len(rest) == 2:
        found = await api.call("Images", "get_from_family", project=project, family=rest[1])
    else:
        found = await api.call("Images", "get", project=project, image=rest[0])
    if found.disk_size_gb > options.disk_gb:
        detail = f"{path} needs a disk of {found.disk_size_gb} GB"
        return CheckResult("machine image", False, detail, "set disk_gb to more")
    return CheckResult("machine image", True, path)


async def _check_subnetwork(api: GceApi, options: GCPOptions) -> CheckResult:
    path = subnetwork(options, api.project, options.own_region)
    _, project, _, region, _, name = path.split("/")
    found = await api.call("Subnetworks", "get", project=project, region=region, subnetwork=name)
    if region != options.own_region:
        detail = f"{path} is in another region than the target's, {options.own_region}"
        return CheckResult("subnetwork", False, detail, "choose one of this region")
    if not options.external_ips and not found.private_ip_google_access:
        command = f"gcloud compute networks subnets update {name} --region {region} --enable-private-ip-google-access"
        detail = f"{path} has no Private Google Access, and machines have no external addresses"
        return CheckResult("subnetwork", False, detail, f"run `{command}`")
    return CheckResult("subnetwork", True, path)


async def _check_firewall(api: GceApi, options: GCPOptions) -> CheckResult:
    """Find a rule that lets clients in. Clients in the network have private addresses, as have the workers."""
    project = options.network_project or api.project
    network = options.network.rpartition("/")[2]
    rules = [
        rule
        for rule in await api.call("Firewalls", "list", project=project)
        if rule.network.rpartition("/")[2] == network
        and rule.direction == "INGRESS"
        and not rule.disabled
        and any(_lets_in(each) for each in rule.allowed)
    ]
    command = (
        f"gcloud compute firewall-rules create scalable --project {project} --network {network} "
        f"--allow tcp:{PORT} --target-tags scalable --source-ranges YOUR_ADDRESS/32"
    )
    if not rules:
        return CheckResult("firewall", False, f"no rule lets tcp:{PORT} in", f"run `{command}`")
    # Of several, one that lets the most in.
    rule = max(rules, key=lambda each: any(map(_is_public, each.source_ranges)))
    detail = f"rule {rule.name} lets tcp:{PORT} in from {', '.join(rule.source_ranges) or 'some machines'}"
    if options.external_ips and not any(map(_is_public, rule.source_ranges)):
        remedy = f"for a client outside of the network, run `{command}`"
        return CheckResult("firewall", None, f"{detail} alone", remedy)
    return CheckResult("firewall", True, detail)


def _is_public(addresses: str) -> bool:
    return not ipaddress.ip_network(addresses, strict=False).is_private


def _lets_in(allowed: object) -> bool:
    if getattr(allowed, "I_p_protocol") not in ("tcp", "all", "6"):  # noqa: B009 - untyped
        return False
    ports: Sequence[str] = getattr(allowed, "ports")  # noqa: B009
    bounds = [port.partition("-") for port in ports]
    return not ports or any(int(a) <= PORT <= int(b or a) for a, _, b in bounds)


async def _check_account(api: GceApi, options: GCPOptions) -> CheckResult:
    """Find out whether the service account exists that machines act as, and is enabled."""
    name = options.service_account
    if name == "default":
        name = await default_account(api)
        if not name:
            detail = "the project has no default service account"
            return CheckResult("service account", False, detail, "set service_account")
    try:
        found = await api.rest("iam", "GET", f"/v1/projects/-/serviceAccounts/{quote(name)}")
    except GceError as error:
        if error.status != 404:
            raise
        remedy = "correct service_account, or create it by `gcloud iam service-accounts create`"
        return CheckResult("service account", False, f"there is no {name}", remedy)
    if found.get("disabled"):
        remedy = f"run `gcloud iam service-accounts enable {name}`"
        return CheckResult("service account", False, f"{name} is disabled", remedy)
    return CheckResult("service account", True, name)


async def _check_secrets(api: GceApi) -> CheckResult:
    try:
        await list_secrets(api)
    except GceError as error:
        told = explain_refusal(error, "secretmanager")
        if told.reason is Reason.CREDENTIALS:
            return CheckResult("Secret Manager", False, told.summary, told.remedy)
        raise
    return CheckResult("Secret Manager", True, "secrets of runs can be listed")


async def _check_quota(
    api: GceApi,
    options: GCPOptions,
    requests: Mapping[str, WorkerRequest],
    counts: Mapping[str, int],
) -> CheckResult:
    """Compare what a run has at most with the quotas of region and project that there are for it."""
    project = await api.call("Projects", "get")
    region = await api.call("Regions", "get", region=options.own_region)
    # One of spare capacity counts once it was granted; until then, Spot machines are taken off the usual one:
    # https://cloud.google.com/compute/docs/instances/create-use-spot
    quotas = {
        each.metric: each
        for each in (*project.quotas, *region.quotas)
        if each.limit or not each.metric.startswith("PREEMPTIBLE_")
    }
    wanted = _wanted(options, requests, counts, {*quotas})
    free = {metric: int(quotas[metric].limit - quotas[metric].usage) for metric in wanted}
    short = [metric for metric, n in wanted.items() if n > free[metric]]
    told = short or wanted
    detail = "; ".join(f"{wanted[m]} of {m} are wanted, and {free[m]} are free" for m in told)
    if short:
        remedy = (
            "ask for a larger quota in the console (IAM & Admin, Quotas), or start fewer workers"
        )
        return CheckResult("quota", False, detail, remedy)
    return CheckResult("quota", True if wanted else None, detail or "not known")


_GPU_QUOTAS = {
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
}
"""The quota of each type of GPU: https://cloud.google.com/compute/resource-usage#gpu_quota."""


def _wanted(
    options: GCPOptions,
    requests: Mapping[str, WorkerRequest],
    counts: Mapping[str, int],
    metrics: Set[str],
) -> dict[str, int]:
    """Return what scheduler and workers take of each quota.

    A series may have one of its own for vCPUs: https://cloud.google.com/compute/resource-usage.
    """
    scheduler = machine_named(options.scheduler_machine_type)
    machines = [(scheduler, 1, False)]
    machines += [(each.machine, counts.get(t, 0), options.spot) for t, each in requests.items()]
    wanted: Counter[str] = Counter()
    for machine, n, spot in machines:
        own = f"{machine.series.upper()}_CPUS"
        usual = own if own in metrics else "CPUS"
        granted = spot and "PREEMPTIBLE_CPUS" in metrics
        wanted["PREEMPTIBLE_CPUS" if granted else usual] += n * (machine.vcpus or 0)
        wanted["CPUS_ALL_REGIONS"] += n * (machine.vcpus or 0)
    for tag, request in requests.items():
        kind, count = request.attached or (request.machine.gpu_type, request.machine.gpus or 0)
        if gpus := _GPU_QUOTAS.get(kind):
            n = count * counts.get(tag, 0)
            granted = options.spot and f"PREEMPTIBLE_{gpus}" in metrics
            wanted[f"PREEMPTIBLE_{gpus}" if granted else gpus] += n
            wanted["GPUS_ALL_REGIONS"] += n
    total = sum(n for _, n, _ in machines)
    wanted["INSTANCES"] = total
    # pd-balanced counts among them, and Hyperdisk does not.
    wanted["SSD_TOTAL_GB"] = options.disk_gb * sum(
        n for machine, n, _ in machines if machine.disk == "pd-balanced"
    )
    if options.external_ips:
        wanted["IN_USE_ADDRESSES"] = total
    return {metric: n for metric, n in wanted.items() if metric in metrics}
