"""What can be known about a component before anything is asked of Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from scalable.providers.containers import check_container, chosen_runtime
from scalable.providers.slurm.request import PREFERRED_RUNTIME

if TYPE_CHECKING:
    from scalable.manifest.issues import ValidationIssue
    from scalable.providers.base import DeploymentSpec
    from scalable.providers.slurm.options import SlurmOptions

__all__ = ["check_component"]


def check_component(
    spec: DeploymentSpec, name: str, options: SlurmOptions
) -> Iterator[ValidationIssue]:
    """Find what a component cannot have, and what has no effect on it.

    Parameters
    ----------
    spec : DeploymentSpec
        A target with the component.
    name : str
        The component.
    options : SlurmOptions
        The target's options.
    """
    component = spec.components[name]
    yield from _check_mpi_job(spec, name, options)
    runtime = chosen_runtime(component, options.container_runtime, PREFERRED_RUNTIME)
    if runtime != "none":
        yield from check_container(spec, name, runtime)
    elif component.mounts:
        message = "have no effect without a container; give the component an image and a container runtime"
        yield spec.component_issue(name, "mounts", "W_NO_EFFECT", message, "warning")


def _check_mpi_job(
    spec: DeploymentSpec, name: str, options: SlurmOptions
) -> Iterator[ValidationIssue]:
    component = spec.components[name]
    if not component.runs_mpi:
        return
    if chosen_runtime(component, options.container_runtime, PREFERRED_RUNTIME) != "none":
        message = (
            "cannot be that of a component with nodes or ranks, whose worker starts srun, which no image has; "
            "remove it, and let the task start the container: srun apptainer exec …"
        )
        yield spec.component_issue(name, "image", "E_NOT_SUPPORTED", message)
    if options.for_component(name).workers_per_job not in ("auto", 1):
        message = f"must be 1 for {name}: with nodes or ranks, a worker has its job for itself"
        yield spec.option_issue("workers_per_job", "E_NOT_SUPPORTED", message)
