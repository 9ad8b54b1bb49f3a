"""Options of a target on Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from scalable.manifest.schema import ContainerPath, FrozenModel
from scalable.manifest.units import Memory
from scalable.providers.kubernetes.labels import (
    A_LABEL_KEY,
    A_LABEL_VALUE,
    LABEL_KEY,
    LABEL_VALUE,
)
from scalable.providers.kubernetes.quantities import Millicores
from scalable.providers.options import (
    DaskImage,
    Matching,
    OneLine,
    RemoteTargetOptions,
    WorkerEnvironment,
)

__all__ = [
    "Amounts",
    "KubernetesOptions",
    "Prices",
    "Resources",
    "Toleration",
    "WorkerOptions",
    "WorkflowOptions",
]

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
Label = Annotated[
    str,
    Matching(
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        "a name of lower-case letters, digits and -, 63 characters at most",
    ),
]

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
Subdomain = Annotated[
    str,
    Field(max_length=253),
    Matching(
        r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
        "a name of lower-case letters, digits, - and .",
    ),
]

LabelKey = Annotated[str, Matching(LABEL_KEY, A_LABEL_KEY)]
LabelValue = Annotated[str, Matching(LABEL_VALUE, A_LABEL_VALUE)]


class Amounts(FrozenModel):
    """Amounts of resources."""

    cpu: Millicores | None = Field(default=None, description="Cores: 2, 0.5 or 500m.")
    memory: Memory | None = Field(default=None, description="Memory: 8G or 8Gi.")


class Resources(FrozenModel):
    """Requests and limits of a container."""

    requests: Amounts = Field(
        default_factory=Amounts,
        description="Resources that the Kubernetes scheduler reserves for a worker.",
    )
    limits: Amounts = Field(
        default_factory=Amounts, description="Resources that a worker must not exceed."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in Amounts.model_fields:
            request, limit = getattr(self.requests, name), getattr(self.limits, name)
            if request is not None and limit is not None and request > limit:
                raise PydanticCustomError(
                    "E_BAD_VALUE", "requests.{name} must not be above limits.{name}", {"name": name}
                )
        return self


class Toleration(FrozenModel):
    """A taint of nodes that workers tolerate, as Kubernetes writes it."""

    key: LabelKey | None = Field(
        default=None, description="Key of the taint; without one, every taint is tolerated."
    )
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="Whether the taint's value must be equal."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; without one, every effect is tolerated."
    )
    seconds: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        validation_alias="tolerationSeconds",
        description="How long a taint with effect NoExecute is tolerated.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        # As the API server validates it: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration
        if self.operator == "Exists" and self.value is not None:
            raise PydanticCustomError("E_BAD_VALUE", "operator Exists goes without a value")
        if self.operator == "Equal" and self.key is None:
            raise PydanticCustomError(
                "E_BAD_VALUE", "operator Equal needs a key; without one, use operator: Exists"
            )
        if self.seconds is not None and self.effect != "NoExecute":
            raise PydanticCustomError(
                "E_BAD_VALUE", "tolerationSeconds goes with effect: NoExecute only"
            )
        return self

    def as_object(self) -> dict[str, str | int]:
        """Return it as Kubernetes has it.

        Examples
        --------
        >>> Toleration(operator="Exists", effect="NoExecute", tolerationSeconds=60).as_object()
        {'operator': 'Exists', 'effect': 'NoExecute', 'tolerationSeconds': 60}
        """
        found = self.model_dump(exclude_none=True)
        if "seconds" in found:
            found["tolerationSeconds"] = found.pop("seconds")
        return found


class Prices(FrozenModel):
    """What a cluster's resources cost, where somebody knows it. What has no price is unknown, not free."""

    cpu_hour: Annotated[Decimal, Field(gt=0)] | None = Field(
        default=None, description="Price of one requested core for one hour."
    )
    gb_hour: Annotated[Decimal, Field(gt=0)] | None = Field(
        default=None, description="Price of one requested GB (10^9 bytes) of memory for one hour."
    )
    currency: Annotated[str, Matching("[A-Z]{3}", "a currency such as USD")] = Field(
        default="USD", description="Currency of the prices."
    )
    as_of: date = Field(description="Day of the prices, such as 2026-11-01.")
    source: OneLine = Field(description="Where the prices are from.")


class WorkerOptions(FrozenModel):
    """Options of workers, for a whole target or for single components of it."""

    worker_service_account: Subdomain | None = Field(
        default=None, description="Service account of the workers."
    )
    resources: Resources = Field(
        default_factory=Resources,
        description="Resources of workers whose component does not set cpus or memory.",
    )
    gpu_resource: LabelKey = Field(
        default="nvidia.com/gpu", description="The resource that a component's gpus request."
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), description="Taints of nodes that workers tolerate."
    )
    node_selector: Mapping[LabelKey, LabelValue] = Field(
        default_factory=dict, description="Labels that a worker's node must have."
    )
    queue: Subdomain | None = Field(
        default=None, description="Kueue's local queue that admits the workers."
    )
    pod_template: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Anything else of a worker's pod, as `metadata` and `spec` of Kubernetes: mappings are merged, "
        "items of lists by their names. The worker's container is called `worker`.",
    )


class WorkflowOptions(FrozenModel):
    """The pod of a workflow that runs inside the cluster."""

    image: DaskImage = Field(
        default=None,
        description="Image, which has scalable-core, scalable-kubernetes and what the workflow imports. "
        "By default the target's image.",
    )
    service_account: Subdomain = Field(
        default="scalable", description="Service account, which has the Role of a run."
    )
    cpu: Millicores = Field(default=1000, description="Cores: 2, 0.5 or 500m.")
    memory: Memory = Field(default=2 * 2**30, description="Memory: 8G or 8Gi.")
    mounts: Mapping[str, ContainerPath] = Field(
        default_factory=dict,
        description="Mounts, as those of a component. What the workflow writes elsewhere goes with its pod.",
    )


class KubernetesOptions(WorkerOptions, RemoteTargetOptions):
    """Options of a target on Kubernetes."""

    components: Mapping[str, WorkerOptions] = Field(
        default_factory=dict,
        description="Options for the workers of single components, by component: "
        "any of the options from worker_service_account to pod_template.",
    )
    namespace: Label | None = Field(
        default=None,
        description="Namespace. By default that of the context, or of the pod in which this runs.",
    )
    context: OneLine | None = Field(
        default=None, description="Context of the kubeconfig. By default the current one."
    )
    image: DaskImage = None
    image_pull_secrets: tuple[Subdomain, ...] = Field(
        default=(), description="Secrets of the namespace with which images are pulled."
    )
    env: WorkerEnvironment = Field(default_factory=dict)
    python: OneLine = Field(
        default="python3",
        description="Python in the images, by its path or by its name on the PATH.",
    )
    local_directory: Annotated[
        str, Matching("/[^\\x00-\\x1f\\x7f]*", "an absolute path in the container")
    ] = Field(
        default="/tmp",  # noqa: S108 - of a container that nobody else uses
        description="Directory in the container for what does not fit into a worker's memory.",
    )
    prices: Prices | None = Field(
        default=None,
        description="Prices, from which `scalable plan` estimates costs. Unknown by default.",
    )
    workflow: WorkflowOptions = Field(
        default_factory=WorkflowOptions,
        description="The pod of the workflow, for `scalable run --in-cluster`.",
    )
    scheduler_cpu: Millicores = Field(default=1000, description="Cores of Dask's scheduler.")
    scheduler_memory: Memory = Field(default=2 * 2**30, description="Memory of Dask's scheduler.")

    def for_component(self, component: str) -> KubernetesOptions:
        """Return the options for one component: its own where set, otherwise the target's.

        Examples
        --------
        >>> options = KubernetesOptions(queue="short", components={"gcam": WorkerOptions(queue="long")})
        >>> options.for_component("gcam").queue, options.for_component("plots").queue
        ('long', 'short')
        """
        own = self.components.get(component)
        if own is None:
            return self
        return self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
