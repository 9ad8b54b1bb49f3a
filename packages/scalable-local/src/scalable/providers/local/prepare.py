"""The runtime that runs each component on this machine, and what it needs before workers can start."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from scalable.errors import ValidationFailedError
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.providers.base import CheckResult, DeploymentSpec
from scalable.providers.containers import (
    RUNTIMES,
    check_container,
    chosen_runtime,
    host_paths,
    mounts_and_preload,
    runs_as_child,
)
from scalable.providers.local import runtimes
from scalable.providers.local.containers import ContainerSetup, Runtime
from scalable.providers.local.options import LocalOptions
from scalable.providers.local.runtimes import RuntimeFailedError

__all__ = ["check_containers", "chosen_runtimes", "preflight", "prepare_containers"]

logger = logging.getLogger("scalable.providers.local")

_RUNTIME_REMEDY = "install or start it, or set containers: none"
_NO_LIMITS = "cannot limit the memory of containers here"


def chosen_runtimes(
    spec: DeploymentSpec, options: LocalOptions, first: str = RUNTIMES[0]
) -> dict[str, str]:
    """Return the runtime of each component that runs in a container.

    Parameters
    ----------
    spec, options
        The target.
    first : str
        The first runtime that is installed; by default the preferred one.
    """
    if not options.processes:
        return {}
    chosen = {
        tag: chosen_runtime(component, options.containers, first)
        for tag, component in spec.components.items()
    }
    return {tag: runtime for tag, runtime in chosen.items() if runtime != "none"}


def check_containers(spec: DeploymentSpec, options: LocalOptions) -> Iterator[ValidationIssue]:
    """Find what prevents components from running in containers on any machine. Offline."""
    for tag, runtime in chosen_runtimes(spec, options).items():
        yield from check_container(spec, tag, runtime)


def prepare_containers(spec: DeploymentSpec, options: LocalOptions) -> dict[str, ContainerSetup]:
    """Return the setup of every component that runs in a container, after fetching images that are missing here.

    Raises
    ------
    ValidationFailedError
        A runtime, an image or a directory is missing. It lists every problem, each at its cause in the manifest.
    """
    chosen = chosen_runtimes(spec, options, runtimes.first_installed() or RUNTIMES[0])
    known, issues = _probe_runtimes(spec, options, chosen)
    for tag, runtime in chosen.items():
        issues += check_container(spec, tag, runtime)
        issues += _check_directories(spec, tag)
    if not any(issue.severity == "error" for issue in issues):
        # This may take long, so it comes after every other check.
        issues += _fetch_images(spec, chosen)
    report = ValidationReport.of(issues)
    if not report.ok:
        raise ValidationFailedError(report)
    for probed in known.values():
        if _lacks_limits(spec, probed):
            logger.warning("%s %s", probed.name, _NO_LIMITS)
    return {tag: _setup(spec, tag, known[runtime]) for tag, runtime in chosen.items()}


def preflight(spec: DeploymentSpec, options: LocalOptions) -> Iterator[CheckResult]:
    """Check whether `prepare_containers` would succeed, without fetching anything."""
    chosen = chosen_runtimes(spec, options, runtimes.first_installed() or RUNTIMES[0])
    for name in sorted(set(chosen.values())):
        yield from _check_runtime(spec, name)
    for tag, runtime in chosen.items():
        missing = [
            host for host, path in host_paths(spec.components[tag]).items() if not path.exists()
        ]
        if missing:
            detail = spec.manifest.redact(f"not on this machine: {', '.join(missing)}")
            yield CheckResult(f"mounts of {tag}", False, detail, "create them, or mount others")
        yield _check_image(spec, tag, runtime)


# -- The state of this machine


def _probe_runtimes(
    spec: DeploymentSpec, options: LocalOptions, chosen: dict[str, str]
) -> tuple[dict[str, Runtime], list[ValidationIssue]]:
    known: dict[str, Runtime] = {}
    issues = []
    for name in sorted(set(chosen.values())):
        try:
            known[name] = runtimes.probe(name)
        except RuntimeFailedError as error:
            message = f"{error}; {_RUNTIME_REMEDY}"
            names_it = [tag for tag in chosen if spec.components[tag].runtime == name]
            if options.containers == "auto" and names_it:
                issue = spec.component_issue(names_it[0], "runtime", "E_NO_RUNTIME", message)
            else:
                issue = spec.option_issue("containers", "E_NO_RUNTIME", message)
            issues.append(issue)
    return known, issues


def _check_directories(spec: DeploymentSpec, tag: str) -> Iterator[ValidationIssue]:
    for host, path in host_paths(spec.components[tag]).items():
        if not path.exists():
            where = ("components", tag, "mounts", host)
            message = "is not on this machine; create it, or mount another"
            yield spec.manifest.issue(where, "E_MOUNT", message)


def _fetch_images(spec: DeploymentSpec, chosen: dict[str, str]) -> Iterator[ValidationIssue]:
    images = {(runtime, spec.components[tag].image or ""): tag for tag, runtime in chosen.items()}
    for (runtime, image), tag in images.items():
        if runtimes.has_image(runtime, image):
            continue
        try:
            # A warning, because warnings are shown by default, and this may take minutes.
            logger.warning("fetching image %s with %s", spec.manifest.redact(image), runtime)
            runtimes.pull(runtime, image)
        except RuntimeFailedError as error:
            cause = spec.manifest.redact(str(error))
            message = f"is not available: {cause}; correct it, build it, or log in to its registry"
            yield spec.component_issue(tag, "image", "E_IMAGE", message)


def _setup(spec: DeploymentSpec, tag: str, runtime: Runtime) -> ContainerSetup:
    component = spec.components[tag]
    mounts, preload = mounts_and_preload(component)
    return ContainerSetup(runtime, component.image or "", mounts, preload)


def _check_runtime(spec: DeploymentSpec, name: str) -> Iterator[CheckResult]:
    try:
        runtime = runtimes.probe(name)
    except RuntimeFailedError as error:
        yield CheckResult(name, False, error.detail, _RUNTIME_REMEDY)
        return
    yield CheckResult(name, True, "is installed and answers")
    if _lacks_limits(spec, runtime):
        remedy = "have the memory controller of cgroups delegated to your user, or use apptainer"
        yield CheckResult(f"memory under {name}", None, _NO_LIMITS, remedy)


def _lacks_limits(spec: DeploymentSpec, runtime: Runtime) -> bool:
    wanted = any(component.memory is not None for component in spec.components.values())
    return wanted and not runs_as_child(runtime.name) and not runtime.limits_memory


def _check_image(spec: DeploymentSpec, tag: str, runtime: str) -> CheckResult:
    name, image = f"image of {tag}", spec.components[tag].image or ""
    shown = spec.manifest.redact(image)
    if runtimes.has_image(runtime, image):
        return CheckResult(name, True, f"{shown} is here")
    if runtimes.is_image_file(runtime, image):
        return CheckResult(name, False, f"{shown} cannot be read", "give the path of an image")
    return CheckResult(name, None, f"{shown} is not here; a run would fetch it")
