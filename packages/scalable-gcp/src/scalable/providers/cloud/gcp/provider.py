"""The provider `gcp`."""

from __future__ import annotations

from collections.abc import Iterator

from scalable.manifest.issues import ValidationIssue
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.gcp.machines import Machine, read_machine_type
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.common import PlansOnly, dns_label, find_name_clashes, no_effect_warnings

__all__ = ["GCPProvider"]


class GCPProvider(PlansOnly[GCPOptions]):
    """Runs each worker on a Compute Engine VM of its own."""

    name = "gcp"
    options_model = GCPOptions

    def check(self, spec: DeploymentSpec, options: GCPOptions) -> Iterator[ValidationIssue]:
        """Find regions and zones that conflict, and components that the machine type cannot run."""
        if options.zone is None and options.region is None:
            message = "this key is required, unless region is set"
            yield spec.option_issue("zone", "E_MISSING_KEY", message)
        elif options.zone and options.region and not options.zone.startswith(f"{options.region}-"):
            message = "is not in the target's region; set one of them, or correct one"
            yield spec.option_issue("zone", "E_OUTSIDE_REGION", message)
        if options.machine_type and options.instance_type:
            message = "is another name of machine_type; set one of them"
            yield spec.option_issue("instance_type", "E_DUPLICATE_KEY", message)
        elif options.machine:
            yield from _check_machine(spec, read_machine_type(options.machine))
        yield from no_effect_warnings(
            spec, "mounts", "machines of Google Cloud do not have your directories"
        )
        yield from find_name_clashes(spec, dns_label)


def _check_machine(spec: DeploymentSpec, machine: Machine) -> Iterator[ValidationIssue]:
    for name, component in spec.components.items():
        if machine.vcpus is not None and component.cpus > machine.vcpus:
            message = f"is more than the target's machine_type has, {machine.vcpus} vCPUs"
            yield spec.component_issue(name, "cpus", "E_MACHINE_TOO_SMALL", message)
        if machine.memory is not None and (component.memory or 0) > machine.memory:
            message = f"is more than the target's machine_type has, {machine.memory // 2**20} MiB"
            yield spec.component_issue(name, "memory", "E_MACHINE_TOO_SMALL", message)
        if component.gpus and not machine.has_gpu:
            message = "the target's machine_type has no GPU; choose one of the series a2, a3 or g2"
            yield spec.component_issue(name, "gpus", "E_NOT_SUPPORTED", message)
