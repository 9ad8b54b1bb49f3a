"""What the checks before a start find in a project, and what they say to do."""

from __future__ import annotations

from typing import Any

import pytest
from gce_clusters import spec_in
from gce_project import GceProject

from scalable.providers.base import CheckResult
from scalable.providers.cloud.gcp import GCPProvider


def checks(project: GceProject, components: Any = None, **options: Any) -> dict[str, CheckResult]:
    found = GCPProvider().preflight(spec_in(project, components, **options))
    return {each.name: each for each in found}


def test_a_project_that_has_everything(project: GceProject) -> None:
    found = checks(project, {"gcam": {}, "plots": {}}, external_ips=True)
    assert {each.name for each in found.values() if each.ok} == {
        *("credentials", "zones", "machine of gcam", "machine of plots"),
        *("machine of the scheduler", "machine image"),
        *("subnetwork", "firewall", "service account", "quota"),
    }


def test_names_that_do_not_exist_are_answered_with_near_ones(project: GceProject) -> None:
    zones = checks(project, zones=["us-central1-z"])["zones"]
    assert not zones.ok
    assert "us-central1-a" in (zones.remedy or "")
    machine = checks(project, machine_type="n2-standart-4")["machine of gcam"]
    assert "is not offered in us-central1-a, us-central1-b" in machine.detail
    assert "n2-standard-4" in (machine.remedy or "")
    scheduler = checks(project, scheduler_machine_type="e2-standart-2")["machine of the scheduler"]
    assert (scheduler.ok, "e2-standard-2" in (scheduler.remedy or "")) == (False, True)
    subnetwork = checks(project, subnetwork="nowhere")["subnetwork"]
    assert (subnetwork.ok, "nowhere" in subnetwork.detail) == (False, True)
    image = checks(project, boot_image="projects/nobody/global/images/nothing")["machine image"]
    assert (image.ok, "nobody" in image.detail) == (False, True)


@pytest.mark.parametrize(
    ("quotas", "options", "told"),
    [
        ({"CPUS_ALL_REGIONS": 3}, {}, "4 of CPUS_ALL_REGIONS are wanted, and 3 are free"),
        ({"CPUS": 3}, {}, "4 of CPUS are wanted, and 3 are free"),
        ({"CPUS": 9}, {"adaptive": {"maximum": 9}}, "20 of CPUS are wanted, and 9 are free"),
        ({"INSTANCES": 1}, {}, "2 of INSTANCES are wanted, and 1 are free"),
        ({"SSD_TOTAL_GB": 99}, {}, "100 of SSD_TOTAL_GB are wanted, and 99 are free"),
        ({"PREEMPTIBLE_CPUS": 1}, {"spot": True}, "2 of PREEMPTIBLE_CPUS are wanted"),
        ({"N2_CPUS": 1}, {"machine_type": "n2-standard-2"}, "2 of N2_CPUS are wanted"),
        ({"IN_USE_ADDRESSES": 1}, {"external_ips": True}, "2 of IN_USE_ADDRESSES are wanted"),
    ],
)
def test_a_quota_that_the_largest_run_exceeds_is_named(
    project: GceProject, quotas: dict[str, int], options: dict[str, Any], told: str
) -> None:
    project.conditions.quotas.update(quotas)
    found = checks(project, **options)["quota"]
    assert (found.ok, found.detail.startswith(told)) == (False, True), found
    assert "start fewer workers" in (found.remedy or "")
    project.conditions.quotas.clear()
    assert checks(project, **options)["quota"].ok


@pytest.mark.parametrize("components", [{"gcam": {}}, {"gcam": {"gpus": 1}}], ids=["cpus", "gpus"])
def test_spare_capacity_without_a_quota_of_its_own_takes_the_usual_one(
    project: GceProject, components: Any
) -> None:
    image = "projects/debian-cloud/global/images/family/debian-12"
    project.conditions.quotas.update(PREEMPTIBLE_CPUS=0, PREEMPTIBLE_NVIDIA_L4_GPUS=0)
    found = checks(project, components, spot=True, boot_image=image)["quota"]
    assert found.ok, found
    project.conditions.quotas.update(CPUS=1, NVIDIA_L4_GPUS=0)
    assert not checks(project, components, spot=True, boot_image=image)["quota"].ok


@pytest.mark.parametrize(
    ("quota", "options", "gpus", "told"),
    [
        ("NVIDIA_L4_GPUS", {}, 1, "3 of NVIDIA_L4_GPUS are wanted, and 2 are free"),
        ("PREEMPTIBLE_NVIDIA_L4_GPUS", {"spot": True}, 1, "3 of PREEMPTIBLE_NVIDIA_L4_GPUS"),
        ("GPUS_ALL_REGIONS", {}, 1, "3 of GPUS_ALL_REGIONS are wanted"),
        ("NVIDIA_T4_GPUS", {"gpu_type": "nvidia-tesla-t4"}, 2, "6 of NVIDIA_T4_GPUS are wanted"),
    ],
)
def test_a_quota_of_gpus_is_named(
    project: GceProject, quota: str, options: dict[str, Any], gpus: int, told: str
) -> None:
    project.conditions.quotas[quota] = 2
    image = "projects/debian-cloud/global/images/family/debian-12"
    found = checks(project, {"ml": {"gpus": gpus}}, boot_image=image, n_workers=3, **options)
    assert (found["quota"].ok, found["quota"].detail.startswith(told)) == (False, True), found
    project.conditions.quotas.clear()


def test_a_firewall_that_lets_only_the_network_in_may_be_right(project: GceProject) -> None:
    project.conditions.open_ports.clear()
    inside = checks(project)["firewall"]
    assert inside.ok
    outside = checks(project, external_ips=True)["firewall"]
    assert outside.ok is None
    assert "gcloud compute firewall-rules create" in (outside.remedy or "")


def test_what_machines_without_external_addresses_need(project: GceProject) -> None:
    for key in project.catalogue.subnetworks:
        project.catalogue.subnetworks[key] = False
    found = checks(project)["subnetwork"]
    assert not found.ok
    assert "--enable-private-ip-google-access" in (found.remedy or "")
    assert checks(project, external_ips=True)["subnetwork"].ok


def test_a_disk_below_the_image_is_found(project: GceProject) -> None:
    for key in project.catalogue.images:
        project.catalogue.images[key] = 80
    found = checks(project)["machine image"]
    assert (found.ok, found.remedy) == (False, "set disk_gb to more")


def test_a_service_account_that_machines_cannot_act_as_is_found(project: GceProject) -> None:
    missing = checks(project, service_account="runs@climate-tests.example")["service account"]
    assert (missing.ok, missing.detail) == (False, "there is no runs@climate-tests.example")
    project.secrets.accounts["runs@climate-tests.example"] = False
    disabled = checks(project, service_account="runs@climate-tests.example")["service account"]
    assert (disabled.ok, disabled.detail) == (False, "runs@climate-tests.example is disabled")
    assert "gcloud iam service-accounts enable" in (disabled.remedy or "")
    project.fault("serviceAccounts.get", 403, reason="PERMISSION_DENIED", times=9)
    assert checks(project)["service account"].ok is None


def test_secrets_that_may_not_be_listed_are_found(project: GceProject) -> None:
    assert checks(project, keys="secret-manager")["Secret Manager"].ok
    project.fault("secrets.list", 403, reason="SERVICE_DISABLED", times=9)
    found = checks(project, keys="secret-manager")["Secret Manager"]
    assert not found.ok
    assert "gcloud services enable secretmanager.googleapis.com" in (found.remedy or "")


def test_what_is_denied_is_not_checked(project: GceProject) -> None:
    project.fault("regions.get", 403, reason="forbidden", times=9)
    found = checks(project)["quota"]
    assert found.ok is None
    assert found.detail.startswith("not checked")


def test_an_api_that_is_disabled_is_said_with_the_command(project: GceProject) -> None:
    project.fault("projects.get", 403, reason="accessNotConfigured", times=9)
    (found,) = checks(project).values()
    assert not found.ok
    assert "gcloud services enable compute.googleapis.com" in (found.remedy or "")
