"""The provider `aws`."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from scalable.cluster.ledger import new_run_id
from scalable.cluster.port import Backend, Leftover
from scalable.costing import CostEstimate
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.planning import most_expensive_plan
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    Owned,
    RefreshedPrices,
    ResourceRequest,
    ScalePlan,
    current_owner,
)
from scalable.providers.checks import find_bad_images, no_effect_warnings
from scalable.providers.cloud.aws.checks import (
    check_definitions,
    check_fargate,
    check_labels,
    check_machines,
    check_options,
    check_processors,
    check_user_data,
)
from scalable.providers.cloud.aws.costs import estimate_ec2, estimate_fargate
from scalable.providers.cloud.aws.fargate import (
    UNITS_PER_VCPU,
)
from scalable.providers.cloud.aws.foundation import (
    allow_ingress,
    create_cluster,
    create_log_group,
    create_profile,
    create_role,
    create_security_group,
    fill_profile,
    put_key,
    put_role_policy,
    role_arn,
)
from scalable.providers.cloud.aws.instances import (
    run_scheduler_instance,
    run_worker_instances,
    scheduler_script,
    worker_script,
)
from scalable.providers.cloud.aws.machines import machine_named, smallest_machine
from scalable.providers.cloud.aws.names import Run, profile_name, role_name, run_prefix
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.prices import PRICES, VCPU, VOLUME_GB
from scalable.providers.cloud.aws.request import WorkerRequest, worker_request
from scalable.providers.cloud.aws.tasks import (
    PORT,
    MachineImage,
    Place,
    Request,
    batches,
    run_scheduler,
    run_workers,
    scheduler_definition,
    worker_definition,
)
from scalable.providers.common import BaseProvider, cluster_handle, group_specs
from scalable.providers.options import explicit_or_default
from scalable.providers.queries import ask
from scalable.providers.scheduler import scheduler_image

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsApi

__all__ = ["AWSBatchProvider"]

T = TypeVar("T")

_MIB = 2**20

_CLOSE_TIMEOUT = 300.0
"""Seconds for each of the removals at the end. Network interfaces go up to some minutes after their tasks."""

_MAX_LAUNCH = 100
"""Tasks that Fargate starts of an account at once, beyond which it takes 20 per second:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html."""


class AWSBatchProvider(BaseProvider[AWSOptions]):
    """Runs each worker as a Fargate task or on an EC2 instance of its own."""

    name = "aws"
    options_model = AWSOptions

    def check(self, spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
        """Find options of the other cluster type, and components that its machines cannot run."""
        yield from check_options(spec, options)
        yield from no_effect_warnings(
            spec, "mounts", "machines of AWS do not have your directories"
        )
        yield from find_bad_images(spec)
        yield from check_labels(spec, options)
        if options.cluster_type == "fargate":
            yield from check_fargate(spec, options)
            yield from check_definitions(spec, options)
        else:
            yield from check_machines(spec, options)
            yield from check_processors(spec, options)
            yield from check_user_data(spec, options)
        if options.spot_fallback and not options.spot:
            message = "has no effect without spot: true"
            yield spec.option_issue("spot_fallback", "W_NO_EFFECT", message, "warning")
        if problem := PRICES.read().problem:
            yield spec.option_issue((), "W_PRICES", problem, "warning")

    def request(self, component: ComponentConfig, options: AWSOptions) -> ResourceRequest:
        """Return the component's own request, completed by the target's options for its workers."""
        cpus = options.worker_cpu and math.ceil(options.worker_cpu / UNITS_PER_VCPU)
        memory = options.worker_mem and options.worker_mem * _MIB
        return replace(
            super().request(component, options),
            cpus=explicit_or_default(component, "cpus", cpus),
            memory=explicit_or_default(component, "memory", memory),
        )

    def knows_prices(self, spec: DeploymentSpec) -> bool:
        """Return whether there is a price for every task of the target."""
        given = spec.target.options
        region = given.get("region")
        if given.get("spot") or not isinstance(region, str):
            return False
        fargate = given.get("cluster_type", "fargate") == "fargate"
        return PRICES.read().prices.find(region, VCPU if fargate else VOLUME_GB) is not None

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
        """Return what the plan costs by the prices of this version or newer ones that the user has refreshed.

        What is in neither is unknown.
        """
        prices = PRICES.read().prices
        options = self.parse_options(spec)
        # The image is no part of what is paid for.
        requests = {
            tag: worker_request(component, options, "")
            for tag, component in spec.components.items()
        }
        if options.cluster_type == "fargate":
            return estimate_fargate(options, requests, plan.workers_by_tag, prices)
        return estimate_ec2(options, _machines(options, requests), plan.workers_by_tag, prices)

    def refresh_prices(self, specs: Sequence[DeploymentSpec]) -> RefreshedPrices:
        """Fetch the prices of the regions of these targets from AWS, and save them for this user.

        Raises
        ------
        ProviderNotSetUpError
            This machine has no credentials, or no region.
        ProviderError
            AWS does not tell; the prices are as they were.
        """
        from scalable.providers.cloud.aws.refresh import refresh_prices

        targets = [self.parse_options(spec) for spec in specs]
        return _ask(AWSOptions(), lambda api: refresh_prices(api, targets))

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Check whether a start would work: credentials, network, roles, images, machines, quotas."""
        from scalable.providers.cloud.aws.preflight import preflight

        options = self.parse_options(spec)
        requests = _worker_requests(spec, options)
        machines = {} if options.cluster_type == "fargate" else _machines(options, requests)
        counts = most_expensive_plan(spec, self, self.plan_scale(spec)).workers_by_tag
        image = scheduler_image(spec, options.image)
        return _ask(options, lambda api: preflight(api, options, image, requests, machines, counts))

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        """Return the requests of a run in the order in which they are sent, without the key.

        Names in parentheses stand for what only AWS knows. Values that the manifest takes from the environment are
        shown as ``${VAR}``.
        """
        from scalable.providers.cloud.aws.render import rendered

        options = self.parse_options(spec)
        return [
            Artifact(
                f"{number:02}-{request.operation}-{what}.json"
                if what
                else f"{number:02}-{request.operation}.json",
                "application/json",
                rendered(request, spec.manifest.redact),
            )
            for number, (what, request) in enumerate(_shown_requests(spec, options, plan), 1)
        ]

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return what the runs of all users have left in the target's region.

        Raises
        ------
        ProviderNotSetUpError
            This machine has no credentials, or no region.
        """
        from scalable.providers.cloud.aws.owned import list_owned

        options = self.parse_options(spec)
        return _ask(options, lambda api: list_owned(api, options.kinds))

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """Remove everything of the runs of these."""
        from scalable.providers.cloud.aws.owned import reap

        options = self.parse_options(spec)
        return _ask(options, lambda api: reap(api, owned, options.own_roles)) if owned else []

    def _build(self, spec: DeploymentSpec, options: AWSOptions) -> ClusterHandle:
        from scalable.cluster import Pace
        from scalable.cluster.remote import RemoteHost, build_remote_cluster
        from scalable.providers.cloud.aws.api import AwsApi
        from scalable.providers.cloud.aws.ec2_backend import Ec2Backend
        from scalable.providers.cloud.aws.fargate_backend import FargateBackend
        from scalable.providers.cloud.aws.scheduler import Ec2Scheduler, FargateScheduler
        from scalable.providers.tls import make_credentials

        name = new_run_id(run_prefix(spec.target_name))
        run = Run(name, current_owner(), options.tags)
        requests = _worker_requests(spec, options)
        fargate = options.cluster_type == "fargate"
        api = AwsApi(run.name, options.region)
        credentials = make_credentials()
        on_task = options.scheduler_type == "fargate"
        scheduler = (FargateScheduler if on_task else Ec2Scheduler)(
            api,
            run,
            options,
            credentials,
            scheduler_image(spec, options.image),
            gpus=any(request.gpus for request in requests.values()),
            close_timeout=_CLOSE_TIMEOUT,
        )
        host = RemoteHost(
            scheduler,
            name=run.name,
            security=credentials.security(),
            start_timeout=options.startup_timeout,
            close_timeout=_CLOSE_TIMEOUT + 60,
            poll=1.0,
        )

        def make_backend(_: str) -> Backend:
            assert scheduler.place is not None  # noqa: S101 - it has been started
            common = (api, run, options, scheduler.place, requests)
            if fargate:
                return FargateBackend(
                    *common,
                    scheduler=scheduler.address,
                    scheduler_task=scheduler.native,
                    close_timeout=_CLOSE_TIMEOUT,
                )
            return Ec2Backend(
                *common,
                _machines(options, requests),
                scheduler=scheduler.address,
                scheduler_instance="" if on_task else scheduler.native,
                close_timeout=_CLOSE_TIMEOUT,
            )

        cluster = build_remote_cluster(
            host,
            make_backend,
            [
                replace(group, max_launch=_MAX_LAUNCH if fargate else None)
                for group in group_specs(spec, options)
            ],
            max_workers=options.max_workers,
            pace=Pace(
                poll=2.0,
                close_timeout=_CLOSE_TIMEOUT + 60,
                scheduler_timeout=options.scheduler_timeout,
            ),
            orphan_timeout=options.orphan_timeout,
        )
        return cluster_handle(cluster, spec, {"run": run.name, "region": api.region})


def _machines(options: AWSOptions, requests: Mapping[str, WorkerRequest]) -> dict[str, str]:
    """Return the type of instance of each component: the one that the target names, else the smallest that fits."""
    found = {}
    for tag, request in requests.items():
        machine = smallest_machine(request.cpus, request.memory or 0, request.gpus)
        name = options.instance_type or (machine and machine.name)
        if name is not None:  # else refused by `AWSBatchProvider.check`
            found[tag] = name
    return found


def _worker_requests(spec: DeploymentSpec, options: AWSOptions) -> dict[str, WorkerRequest]:
    from scalable.cluster.versions import matching_image  # imports Dask

    return {
        tag: worker_request(component, options, matching_image())
        for tag, component in spec.components.items()
    }


def _ask(options: AWSOptions, question: Callable[[AwsApi], Awaitable[T]]) -> T:
    from scalable.providers.cloud.aws.api import AwsApi

    return ask(lambda: AwsApi("scalable", options.region), question)


def _shown_requests(
    spec: DeploymentSpec, options: AWSOptions, plan: ScalePlan
) -> Iterator[tuple[str, Request]]:
    """Yield the requests of a run, each with what it is for where there are several of its kind."""
    from scalable.providers.cloud.aws.render import KEY

    run = Run(f"{run_prefix(spec.target_name)}-00000000", current_owner(), options.tags)
    region, partition, account = options.region or "(region)", "aws", "(account)"
    group = "(security group)"
    place = Place(
        region=region,
        vpc=options.vpc or "(VPC)",
        subnets=options.subnets or ["(subnets)"],
        security_groups=options.security_groups or [group],
        execution_role=options.execution_role_arn or role_arn(run, partition, account),
        profile=options.instance_profile or profile_name(run.name),
        ami=MachineImage(options.ami or "(the newest Amazon Linux 2023)", "(root device)"),
        gpu_ami=MachineImage(
            options.ami or "(the newest image with NVIDIA's driver)", "(root device)"
        ),
        key=f"(ARN of {KEY})",
        certificate="(the run's certificate)",
    )
    kinds = options.kinds
    if "fargate" in kinds:
        yield "", create_cluster(run, options.cluster_type)
    yield "", create_log_group(run)
    yield "", put_key(run, KEY)
    if not options.security_groups:
        yield "", create_security_group(run, place.vpc)
        yield "", allow_ingress(group, [options.client_cidr or "(this machine's address)"])
    if "fargate" in kinds and options.execution_role_arn is None:
        name = role_name(run.name)
        yield "", create_role(run, name, "ecs-tasks")
        yield "", put_role_policy(run, name, region, partition, account)
    if "ec2" in kinds and options.instance_profile is None:
        name = profile_name(run.name)
        yield "", create_role(run, name, "ec2")
        yield "", put_role_policy(run, name, region, partition, account)
        yield "", create_profile(run)
        yield "", fill_profile(run)
    image = scheduler_image(spec, options.image)
    if options.scheduler_type == "fargate":
        yield "scheduler", scheduler_definition(run, place, image, options)
        yield "scheduler", run_scheduler(run, place, options)
    else:
        script = scheduler_script(run, place, image, options)
        subnet = place.subnets[0]
        yield "scheduler", run_scheduler_instance(run, place, options, subnet, script)
    shown = _shown_tasks if options.cluster_type == "fargate" else _shown_instances
    yield from shown(spec, options, plan, run, place)


_SHOWN_ADDRESS = f"tls://(the scheduler's address):{PORT}"


def _shown_tasks(
    spec: DeploymentSpec, options: AWSOptions, plan: ScalePlan, run: Run, place: Place
) -> Iterator[tuple[str, Request]]:
    for tag, request in _worker_requests(spec, options).items():
        yield tag, worker_definition(run, place, request, options, _SHOWN_ADDRESS)
        for batch in batches("(request)", plan.workers_by_tag.get(tag, 0)):
            yield (
                tag,
                run_workers(run, place, options, request, batch, "(request)", spot=options.spot),
            )


def _shown_instances(
    spec: DeploymentSpec, options: AWSOptions, plan: ScalePlan, run: Run, place: Place
) -> Iterator[tuple[str, Request]]:
    subnet = place.subnets[0]
    requests = _worker_requests(spec, options)
    machines = _machines(options, requests)
    for tag, request in requests.items():
        if not plan.workers_by_tag.get(tag):
            continue
        machine = machine_named(machines[tag])
        memory = request.memory or (machine.usable if machine else 0)
        yield (
            tag,
            run_worker_instances(
                run,
                place,
                options,
                request,
                machine=machines[tag],
                subnet=subnet,
                token="(request)-0",  # noqa: S106 - of a call, and no secret
                n=plan.workers_by_tag[tag],
                request_id="(request)",
                script=worker_script(run, place, request, options, _SHOWN_ADDRESS, memory),
                spot=options.spot,
            ),
        )
