"""The options of a target on Slurm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from scalable.manifest.schema import FrozenModel
from scalable.manifest.units import Duration
from scalable.providers.options import Matching, OneLine, TargetOptions
from scalable.providers.slurm.directives import find_owned, names_several_clusters
from scalable.providers.slurm.paths import check_variables

__all__ = ["JobOptions", "SlurmOptions"]

Word = Annotated[str, Matching(r"[^\s\x00-\x1f\x7f]+", "one word, without whitespace")]

# squeue and scancel split names at commas.
JobName = Annotated[
    # It is also part of the name of a directory, which has 255 bytes at most.
    str,
    Matching(
        r"[^\s,/\\\x00-\x1f\x7f]{1,50}",
        "one word of 50 characters at most, without whitespace, commas or slashes",
    ),
]


def _check_cluster(name: str) -> str:
    if names_several_clusters(name):
        raise ValueError("must be the name of one cluster, which would run all jobs")
    return name


ClusterName = Annotated[
    str,
    Matching(r"[^\s,\x00-\x1f\x7f]+", "the name of one cluster, without whitespace or commas"),
    AfterValidator(_check_cluster),
]

Interface = Annotated[
    # Linux names have 15 characters at most: IFNAMSIZ is 16, with the NUL.
    str, Matching(r"[^\s/\x00-\x1f\x7f]{1,15}", "the name of a network interface such as ib0")
]

Address = Annotated[
    str, Matching(r"[^\s\x00-\x1f\x7f]*", "a host and a port such as 10.0.0.7:8787 or :8787")
]

Host = Annotated[str, Matching(r"[^\s/\x00-\x1f\x7f]+", "the name or the address of a host")]

Port = Annotated[int, Field(ge=1, le=65535)]


def _check_range(ports: str) -> str:
    first, _, last = ports.partition(":")
    if not 1 <= int(first) <= int(last or first) <= 65535:
        raise ValueError("must be ports from 1 to 65535, the lower one first")
    return ports


Ports = Annotated[
    str,
    Matching(r"[0-9]{1,5}(:[0-9]{1,5})?", "a range of ports such as 9000:9100"),
    AfterValidator(_check_range),
]

Shebang = Annotated[
    str,
    Matching(
        r"#!\s*/[^\x00-\x1f\x7f]*\bbash\b[^\x00-\x1f\x7f]*",
        "the line of a bash, such as #!/bin/bash -l",
    ),
]

# Options of sbatch that a directive must not override, because an option of the target or the component sets them.
_RESERVED = {
    "--account": "use the option account",
    "--constraint": "use the option constraint",
    "--cpus-per-task": "use cpus of the component",
    "--gpus": "use gpus of the component",
    "--mem": "use memory of the component",
    "--mem-per-cpu": "use memory of the component",
    "--nodes": "Scalable sets it itself",
    "--ntasks": "Scalable sets it itself",
    "--partition": "use the option queue",
    "--qos": "use the option qos",
    "--reservation": "use the option reservation",
    "--time": "use the option walltime",
}


def _reject_reserved(directive: str) -> str:
    name = directive.partition("=")[0]
    # sbatch accepts any unique prefix of an option's name.
    taken = next((item for item in _RESERVED.items() if item[0].startswith(name)), None)
    if found := taken or find_owned(directive):
        raise ValueError(f"must not override an option that Scalable gives to sbatch: {found[1]}")
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
    workers_per_job: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="Workers that one job runs, started together. `auto`: as many as fit on a node where jobs get "
        "nodes for themselves (an exclusive partition, or the directive `--exclusive`), otherwise 1.",
    )
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
    cluster: ClusterName | None = Field(
        default=None,
        description="Slurm cluster, where a site has several. "
        "`$SBATCH_CLUSTERS` or `$SLURM_CLUSTERS` if not set, else the one of this machine.",
    )
    interface: Interface | None = Field(
        default=None,
        description="Network interface of scheduler and workers, such as ib0.",
    )
    scheduler_interface: Interface | None = Field(
        default=None,
        description="Network interface of the scheduler, where it is another than the workers'.",
    )
    scheduler_host: Host | None = Field(
        default=None,
        description="Name or address that the scheduler listens on, in place of an interface.",
    )
    scheduler_port: Port | None = Field(
        default=None, description="Port that the scheduler listens on. A free one if not set."
    )
    worker_ports: Ports | None = Field(
        default=None,
        description="Ports that workers listen on, such as 9000:9100: "
        "as many as workers can share a node. Free ones if not set.",
    )
    dashboard_address: Address | None = Field(
        default=None,
        description="Address of the dashboard, which does not use TLS. "
        "A free port on the loopback interface if not set.",
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
    local_directory: Annotated[OneLine, AfterValidator(check_variables)] | None = Field(
        default=None,
        description="Directory on a node for what does not fit into a worker's memory. "
        "`$TMPDIR` and other variables in it are those of the job. /tmp if not set.",
    )
    shebang: Shebang | None = Field(
        default=None, description="First line of the job script. `#!/bin/bash` if not set."
    )
    comm_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Has no effect; accepted with a warning."
    )

    @model_validator(mode="after")
    def _check_scheduler(self) -> Self:
        if self.scheduler_host is not None and self.scheduler_interface is not None:
            raise ValueError("must have scheduler_host or scheduler_interface, not both")
        return self

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
