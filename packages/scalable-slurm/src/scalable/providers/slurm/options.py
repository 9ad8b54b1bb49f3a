"""The options of a target on Slurm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scalable.manifest.schema import FrozenModel
from scalable.manifest.units import Duration
from scalable.providers.options import Matching, OneLine, TargetOptions

__all__ = ["JobOptions", "SlurmOptions"]

Word = Annotated[str, Matching(r"[^\s\x00-\x1f\x7f]+", "one word, without whitespace")]

# squeue and scancel split names at commas.
JobName = Annotated[
    str, Matching(r"[^\s,\x00-\x1f\x7f]+", "one word, without whitespace or commas")
]

Interface = Annotated[
    # Linux names have 15 characters at most: IFNAMSIZ is 16, with the NUL.
    str, Matching(r"[^\s/\x00-\x1f\x7f]{1,15}", "the name of a network interface such as ib0")
]

# Options of sbatch that a directive must not override, and what sets them instead.
_RESERVED = {
    "--account": "use the option account",
    "--constraint": "use the option constraint",
    "--cpus-per-task": "use cpus of the component",
    "--gpus": "use gpus of the component",
    "--job-name": "use the option name",
    "--mem": "use memory of the component",
    "--mem-per-cpu": "use memory of the component",
    "--partition": "use the option queue",
    "--qos": "use the option qos",
    "--reservation": "use the option reservation",
    "--time": "use the option walltime",
    **dict.fromkeys(
        (
            "--array",
            "--comment",
            "--export",
            "--no-requeue",
            "--nodes",
            "--ntasks",
            "--output",
            "--parsable",
            "--requeue",
            "--test-only",
            "--wait",
            "--wrap",
        ),
        "Scalable sets it itself",
    ),
}


def _reject_reserved(directive: str) -> str:
    name = directive.partition("=")[0]
    # sbatch accepts any unique prefix of an option's name.
    taken = (why for option, why in _RESERVED.items() if option.startswith(name))
    if why := next(taken, None):
        raise ValueError(f"must not override an option that Scalable gives to sbatch: {why}")
    return directive


Directive = Annotated[
    str,
    Matching(
        r"--[a-z][a-z-]*(=[^\x00-\x1f\x7f]+)?",
        "an option of sbatch in one word, such as --exclusive or --mail-type=END",
    ),
    AfterValidator(_reject_reserved),
]


class JobOptions(FrozenModel):
    """Options of jobs, for a whole target or for single components of it."""

    queue: Word | None = Field(
        default=None, description="Partition. Slurm's default partition if not set."
    )
    account: Word | None = Field(
        default=None, description="Account that is charged. Slurm's default if not set."
    )
    walltime: Annotated[Duration, Field(ge=60)] | None = Field(
        default=None,
        description="Time after which Slurm ends a worker, rounded up to minutes. "
        "The partition's default if not set.",
    )
    qos: Word | None = Field(default=None, description="Quality of service.")
    constraint: Word | None = Field(
        default=None,
        description="Required node features, in the syntax of `sbatch --constraint`.",
    )
    reservation: Word | None = Field(default=None, description="Reservation to run in.")
    modules: tuple[Word, ...] = Field(
        default=(), description="Environment modules that a job loads before its worker starts."
    )
    prologue: tuple[OneLine, ...] = Field(
        default=(), description="Shell lines that a job runs before its worker starts."
    )
    directives: tuple[Directive, ...] = Field(
        default=(),
        description="Further options of sbatch, one word each: `--exclusive`, `--mail-type=END`.",
    )


class SlurmOptions(JobOptions, TargetOptions):
    """Options of a target on Slurm."""

    components: Mapping[str, JobOptions] = Field(
        default_factory=dict,
        description="Options for the jobs of single components, by component: "
        "any of the options from queue to directives.",
    )
    interface: Interface | None = Field(
        default=None,
        description="Network interface of scheduler and workers, such as ib0.",
    )
    container_runtime: Literal["auto", "none", "apptainer", "singularity", "docker", "podman"] = (
        Field(
            default="auto",
            description="What runs a component's image; `auto` leaves it to the component, "
            "`none` runs without containers.",
        )
    )
    logs_location: OneLine = Field(
        default=".scalable/logs",
        description="Directory for the logs and keys of runs, on a file system that the nodes share.",
    )
    name: JobName | None = Field(
        default=None, description="Prefix of the job names in Slurm's queue."
    )
    python: OneLine | None = Field(
        default=None,
        description="Python interpreter on the nodes. The one that runs Scalable if not set.",
    )
    local_directory: OneLine | None = Field(
        default=None,
        description="Directory on a node for what does not fit into a worker's memory. /tmp if not set.",
    )
    comm_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Has no effect; accepted with a warning."
    )

    def for_component(self, component: str) -> SlurmOptions:
        """Return the options for one component: its own where set, otherwise the target's.

        Examples
        --------
        >>> options = SlurmOptions(queue="short", qos="high", components={"gcam": JobOptions(queue="gpu")})
        >>> [(options.for_component(name).queue, options.for_component(name).qos) for name in ("gcam", "plots")]
        [('gpu', 'high'), ('short', 'high')]
        """
        own = self.components.get(component)
        if own is None:
            return self
        return self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
