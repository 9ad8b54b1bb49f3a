"""Options that every target has, as a model for a provider's own options to subclass.

One definition yields validation, JSON Schema and documentation: the annotation of a field is its validation, and its
description is its documentation.

Examples
--------
>>> class DeskOptions(TargetOptions):
...     room: OneLine = Field(description="Where the desks are.")
>>> DeskOptions(room="attic", n_workers=2).n_workers
2
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from scalable.cluster.budget import MOST_WORKERS, OnExceed
from scalable.manifest.checking import check_model
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig, EnvironmentValue, FrozenModel
from scalable.manifest.units import Duration
from scalable.providers.base import DeploymentSpec

__all__ = [
    "IMAGE",
    "Count",
    "DaskImage",
    "EnvironmentVariables",
    "GroupSize",
    "GroupSizes",
    "ImageName",
    "Limits",
    "Matching",
    "OneLine",
    "RemoteTargetOptions",
    "SpotCapacity",
    "TargetOptions",
    "WorkerEnvironment",
    "WorkerRange",
    "common_options",
    "explicit_or_default",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Matching:
    """Annotation of a text field that must match a pattern, with an error that describes the pattern.

    Parameters
    ----------
    pattern : str
        Regular expression that the whole text must match, in the syntax that Python and JSON Schema share.
    description : str
        What such a text is called in errors: ``"a VPC id such as vpc-0a1b2c3d"``.

    Examples
    --------
    >>> from typing import Annotated
    >>> from pydantic import TypeAdapter
    >>> VpcId = Annotated[str, Matching("vpc-[0-9a-f]{8,17}", "a VPC id such as vpc-0a1b2c3d")]
    >>> TypeAdapter(VpcId).json_schema()
    {'pattern': '^vpc-[0-9a-f]{8,17}$', 'type': 'string'}
    """

    pattern: str
    description: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"must be {self.description}")
        return text


Count = Annotated[int, Field(ge=0, le=MOST_WORKERS)]
"""A count of workers: 0 or more, and no more than one scheduler can serve."""

OneLine = Annotated[
    str, Matching(r"[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*", "one line of text")
]
"""Text without line breaks and other control characters that is not only blanks."""

IMAGE = Matching(
    r"(?!.*//)[a-z0-9][a-zA-Z0-9._:/@-]*",
    "a container image such as ghcr.io/dask/dask:2026.8.0-py3.11",
)
"""How a container image in a registry is written."""

ImageName = Annotated[str, IMAGE]
"""A container image in a registry, by tag or digest."""

EnvironmentVariables = Mapping[
    Annotated[str, Matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")],
    EnvironmentValue,
]
"""Environment variables by name."""

DaskImage = Annotated[
    ImageName | None,
    Field(
        description="Container image of the scheduler, and of workers whose component has none. "
        "By default Dask's own for this version of Dask and Python."
    ),
]
"""The option ``image`` of a target whose workers always run in containers; None by default."""

WorkerEnvironment = Annotated[
    EnvironmentVariables,
    Field(description="Environment of every worker; variables of a component take precedence."),
]
"""The option of a target that sets variables of every worker; empty by default."""

SpotCapacity = Annotated[
    bool, Field(description="Whether workers use spare capacity, which the cloud may reclaim.")
]
"""The option ``spot`` of a target in a cloud; false by default."""


class WorkerRange(FrozenModel):
    """Bounds of an adaptive group, and how quickly it follows its tasks."""

    minimum: Count = Field(
        default=0, description="Workers that are kept even when there are no tasks."
    )
    maximum: int = Field(ge=0, description="Maximum number of workers.")
    idle_timeout: Annotated[Duration, Field(ge=0)] | None = Field(
        default=None,
        description="Time for which a worker without tasks is kept; at least a minute while tasks of its group "
        "wait for others. By default, in proportion to the time that a start takes.",
    )
    target_duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="Time in which the workers should finish the tasks of known duration; each other task gets a "
        "slot of its own. By default, workers are started as the tasks prove to be worth it.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.minimum > self.maximum:
            raise PydanticCustomError("E_BAD_VALUE", "minimum must not be above maximum")
        return self


def _branch_of(value: object) -> str:
    return "a mapping" if isinstance(value, (Mapping, WorkerRange)) else "a number"


# A union whose branch is chosen by shape yields one reason for an error, instead of one for each branch. The names of
# the branches contain a blank, so that they cannot be the name of a component.
GroupSize = Annotated[
    Annotated[Count, Tag("a number")] | Annotated[WorkerRange, Tag("a mapping")],
    Discriminator(_branch_of),
]
"""Workers of one group: a number, or the bounds of an adaptive group."""

GroupSizes = Annotated[
    Annotated[Count, Tag("a number")] | Annotated[Mapping[str, GroupSize], Tag("a mapping")],
    Discriminator(_branch_of),
]
"""Workers of every group: the same number for each, or their sizes by component."""


class Limits(FrozenModel):
    """Limits that a run must not exceed."""

    max_workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Workers of all groups at a time. Unlike the option `max_workers`, it sizes nothing: what may "
        "have more is refused.",
    )
    max_hourly_cost: Decimal | None = Field(
        default=None,
        gt=0,
        description="Cost of one hour, in the currency of the provider's prices.",
    )
    max_cost: Decimal | None = Field(
        default=None,
        gt=0,
        description="Cost of the run, in the currency of the provider's prices: what its workers and its scheduler "
        "have cost so far, by the hours for which they had machines.",
    )
    max_worker_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Hours for which the workers of the run have machines, together. Time in a queue does not count.",
    )
    on_exceed: OnExceed = Field(
        default=OnExceed.STOP_SCALING,
        description="What happens once `max_cost` or `max_worker_hours` is reached: `stop-scaling` starts no more "
        "workers; `drain` lets workers finish the tasks that they run; `abort` removes them at once.",
    )


class TargetOptions(FrozenModel):
    """Options that every target has; subclass it with those of one provider."""

    workers: GroupSizes | None = Field(
        default=None,
        description="Workers: one number for each group, or by component a number or "
        "{minimum, maximum, …} as for `adaptive`. Takes precedence over `adaptive` and `n_workers`.",
    )
    n_workers: Count | None = Field(
        default=None,
        description="Workers of each group; with `adaptive`, the number to start with. "
        "1 by default.",
    )
    adaptive: WorkerRange | None = Field(
        default=None, description="Scale each group with its tasks, between these bounds."
    )
    max_workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Maximum number of workers of all groups together. Without other counts, it makes each group "
        "adaptive between 0 and this maximum.",
    )
    startup_timeout: Annotated[Duration, Field(gt=0)] = Field(
        default=300,
        description="Time within which a worker must join once its machine runs. Time in a queue does not count.",
    )
    unresponsive_timeout: Annotated[Duration, Field(gt=0)] = Field(
        default=3600,
        description="Time for which a worker may not answer while its machine runs, for example because a task holds "
        "Python's global lock. After it, the worker is removed, and its tasks run again on others.",
    )
    limits: Limits = Field(
        default_factory=Limits,
        description="Limits that a run must not exceed; a provider without prices rejects a limit on cost.",
    )


class RemoteTargetOptions(TargetOptions):
    """Options of every target whose scheduler runs elsewhere; subclass it with those of one provider."""

    scheduler_timeout: Annotated[Duration, Field(gt=0)] = Field(
        default=300,
        description="Time after which a scheduler that does not answer is lost: its run ends in an error, and what it "
        "has started is removed.",
    )
    orphan_timeout: Annotated[Duration, Field(ge=0)] = Field(
        default=900,
        description="Time after which the scheduler and the workers end by themselves if no client is connected, such "
        "as after a crash of the client; 0 for never.",
    )

    @property
    def silence(self) -> int:
        """Seconds without a connection to the scheduler after which a worker that has not ended by itself is killed."""
        return max(900, self.startup_timeout)


def common_options(spec: DeploymentSpec) -> tuple[TargetOptions | None, list[ValidationIssue]]:
    """Return the options that every target has, parsed; the provider's own options are ignored.

    Returns
    -------
    TargetOptions or None
        None if there is an issue.
    list of ValidationIssue
        Their problems.
    """
    options = {
        name: value
        for name, value in spec.target.options.items()
        if name in TargetOptions.model_fields
    }
    return check_model(TargetOptions, options, spec.manifest.place(("targets", spec.target_name)))


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
