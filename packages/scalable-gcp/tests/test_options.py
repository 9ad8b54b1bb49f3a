from __future__ import annotations

import pytest

from scalable.manifest.validate import ValidationReport
from scalable.providers.cloud.gcp import GCPOptions, GCPProvider
from scalable.testing.offline import spec_of

EVERYTHING = """
    project_id: climate-lab
    region: europe-west4
    zones: [europe-west4-a, europe-west4-b]
    machine_type: n2-standard-4
    image: europe-west4-docker.pkg.dev/climate-lab/models/gcam:7.1
    n_workers: 4
    network: projects/host-project/global/networks/shared
    subnetwork: projects/host-project/regions/europe-west4/subnetworks/workers
    service_account: worker@climate-lab.iam.gserviceaccount.com
    spot: true
    disk_gb: 100
    network_project: host-project
    external_ips: false
    lifetime: 12:00:00
    boot_image: projects/debian-cloud/global/images/family/debian-12
    labels: {cost-center: climate}
    scheduler_machine_type: e2-standard-4
    environment: {LICENSE: abc}
    adaptive: {minimum: 1, maximum: 16, idle_timeout: 10m, target_duration: 5m}
"""


def report_of(options: str) -> ValidationReport:
    return GCPProvider().validate(spec_of("gcp", options))


@pytest.mark.parametrize("options", [EVERYTHING, "zone: us-central1-f", "region: us-central1"])
def test_valid_options(options: str) -> None:
    assert report_of(options).issues == ()


def test_defaults() -> None:
    options = GCPProvider().parse_options(spec_of("gcp", "region: us-central1"))
    assert (options.network, options.service_account, options.disk_gb) == ("default", "default", 50)
    assert options.machine is options.project_id is None


def test_a_machine_type_has_two_names() -> None:
    assert GCPOptions(machine_type="e2-micro").machine == "e2-micro"
    assert GCPOptions(instance_type="e2-micro").machine == "e2-micro"


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("project_id: Climate", "project_id", "must be a project id"),
        ("project_id: lab", "project_id", "must be a project id"),
        ("region: europe-west4-a", "region", "must be a region such as europe-west4"),
        ("zone: europe-west4", "zone", "must be a zone such as europe-west4-a"),
        ("machine_type: large", "machine_type", "must be a machine type such as n2-standard-4"),
        ("instance_type: m5.large", "instance_type", "must be a machine type"),
        ("image: a b", "image", "must be a container image"),
        ("network: Shared", "network", "must be a network such as default"),
        ("subnetwork: a/b", "subnetwork", "must be a subnetwork such as default"),
        ("service_account: me", "service_account", "the e-mail address of a service account"),
        ("spot: maybe", "spot", "must be true or false"),
        ("disk_gb: 5", "disk_gb", "must be at least 10"),
        ("disk_gb: 50G", "disk_gb", "must be a whole number"),
        ("zones: [europe-west4]", "zones[0]", "must be a zone such as europe-west4-a"),
        ("boot_image: debian-12", "boot_image", "must be a machine image such as projects/"),
        ("labels: {Lab: a}", "labels.Lab", "lower-case letters"),
        ("labels: {scalable-run: a}", "labels.scalable-run", "not with goog or scalable-"),
        ("labels: {lab: A}", "labels.lab", "must be the value of a label"),
        ("lifetime: 1m", "lifetime", "must be at least"),
        ("gpu_type: nvidia-v100", "gpu_type", "nvidia-l4"),
        ("preemptible: true", "preemptible", "unknown key"),
        ("projectid: x", "projectid", "did you mean 'project_id'?"),
    ],
)
def test_invalid_values(line: str, path: str, message: str) -> None:
    [issue] = report_of(line).errors
    assert (issue.path, issue.line) == (f"targets.here.{path}", 6)
    assert message in issue.message


def test_labels_of_target_and_component_leave_room_for_those_of_scalable() -> None:
    def found(n: int) -> list[str]:
        ours = ", ".join(f"t{i}: v" for i in range(40))
        tags = ", ".join(f"c{i}: v" for i in range(n))
        spec = spec_of(
            "gcp", f"zone: us-east1-b\nlabels: {{{ours}}}", f"gcam: {{tags: {{{tags}}}}}"
        )
        return [f"{each.path}: {each.message}" for each in GCPProvider().validate(spec).errors]

    assert found(20) == []
    [issue] = found(21)
    assert issue.startswith("components.gcam.tags: makes 65 labels")


def test_every_problem_is_found_at_once_and_located() -> None:
    report = report_of(
        "region: Europe\ndisk_gb: 5\nsopt: true\nworkers: {gcma: 2}\nlimits: {max_hourly_cost: 3}"
    )
    assert [(issue.path.removeprefix("targets.here."), issue.line) for issue in report.errors] == [
        ("region", 6),
        ("disk_gb", 7),
        ("sopt", 8),
        ("workers.gcma", 9),
        ("limits.max_hourly_cost", 10),
    ]


def test_every_option_is_described() -> None:
    properties = GCPProvider().options_schema()["properties"]
    assert set(properties) == set(GCPOptions.model_fields)
    assert all(option["description"].endswith(".") for option in properties.values())


ARM = "boot_image: projects/cos-cloud/global/images/family/cos-arm64-stable"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ("machine_type: c4a-standard-4\nscheduler_machine_type: t2a-standard-2", "machine_type"),
        ("instance_type: t2a-standard-4", "instance_type"),
        (f"{ARM}\ninstance_type: t2a-standard-4", "instance_type"),
        (f"{ARM}\nscheduler_machine_type: n4a-standard-2", "scheduler_machine_type"),
    ],
)
def test_a_processor_that_does_not_run_the_machine_image(options: str, path: str) -> None:
    issue = report_of(f"zone: us-central1-a\n{options}").errors[0]
    assert (issue.path, issue.code) == (f"targets.here.{path}", "E_NOT_SUPPORTED")
    assert "ARM" in issue.message


def test_a_run_on_processors_for_arm() -> None:
    both = "machine_type: c4a-standard-4\nscheduler_machine_type: t2a-standard-2"
    assert report_of(f"zone: us-central1-a\n{both}\n{ARM}").issues == ()


def test_an_image_that_no_registry_has() -> None:
    spec = spec_of("gcp", "zone: us-east1-b", "gcam: {image: /images/model.sif}")
    (issue,) = GCPProvider().validate(spec).errors
    assert (issue.path, issue.code) == ("components.gcam.image", "E_BAD_VALUE")


def test_more_variables_than_a_machine_can_be_told() -> None:
    def report_with(n: int) -> ValidationReport:
        env = ", ".join(f"V{number}: {'x' * 100_000}" for number in range(n))
        return GCPProvider().validate(
            spec_of("gcp", "zone: us-east1-b", f"gcam: {{env: {{{env}}}}}")
        )

    assert report_with(2).issues == ()
    (issue,) = report_with(3).errors
    assert (issue.path, issue.code) == ("components.gcam.env", "E_TOO_LARGE")
