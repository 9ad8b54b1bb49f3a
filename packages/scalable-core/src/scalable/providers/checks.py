"""Problems of targets and components that several providers look for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from scalable.manifest.issues import ValidationIssue
from scalable.providers.base import DeploymentSpec
from scalable.providers.options import IMAGE

__all__ = [
    "check_mpi",
    "find_bad_images",
    "find_name_clashes",
    "find_processor_clashes",
    "no_effect_warnings",
]


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
