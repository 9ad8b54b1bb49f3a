from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.cloud import compute_v1

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.gcp import GCPProvider, provider
from scalable.testing.offline import compare_rendered, manifest_of, rendered, spec_of

RENDERED = Path(__file__).parent / "rendered"

OPTIONS = """
    project_id: climate-lab
    zones: [europe-west4-a, europe-west4-b]
    image: ghcr.io/jgcri/scalable-worker:2026.8
    labels: {cost-center: climate}
    environment: {LICENSE: "${LICENSE}"}
    workers: {gcam: 3, plots: 0}
"""
COMPONENTS = """
gcam:
    image: europe-west4-docker.pkg.dev/climate-lab/models/gcam:7.1
    cpus: 4
    memory: 16G
    env: {TOKEN: "${TOKEN}"}
    tags: {model: gcam}
    preload_script: /opt/gcam/preload.py
plots: {slots: 2}
"""


def artifacts(spec: DeploymentSpec) -> dict[str, str]:
    return rendered(GCPProvider(), spec)


def properties_of(options: str, components: str = "gcam: {}") -> dict[str, Any]:
    """Return the properties of the machines of ``gcam``."""
    found = artifacts(spec_of("gcp", f"{options}\nworkers: 1", components))
    body: dict[str, Any] = json.loads(found["02-bulkInsert-gcam.json"])
    properties: dict[str, Any] = body["instanceProperties"]
    return properties


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch) -> DeploymentSpec:
    monkeypatch.setattr(provider, "current_owner", lambda: "me")
    env = {"LICENSE": "secret-of-the-environment", "TOKEN": "other-secret"}
    manifest = parse_manifest(manifest_of("gcp", OPTIONS, COMPONENTS), env=env)
    return DeploymentSpec.from_manifest(manifest, target_name="here")


def test_the_requests_of_a_run(spec: DeploymentSpec) -> None:
    compare_rendered(artifacts(spec), RENDERED)


def test_google_knows_every_field(spec: DeploymentSpec) -> None:
    for text in artifacts(spec).values():
        compute_v1.BulkInsertInstanceResource.from_json(text, ignore_unknown_fields=False)


def test_no_rendered_request_has_a_secret(spec: DeploymentSpec) -> None:
    everything = "".join(artifacts(spec).values())
    assert "secret" not in everything
    assert "${LICENSE}" in everything
    assert "${TOKEN}" in everything
    assert "PRIVATE KEY" not in everything


def test_scripts_are_shell(spec: DeploymentSpec) -> None:
    for text in artifacts(spec).values():
        items = json.loads(text)["instanceProperties"]["metadata"]["items"]
        (script,) = (item["value"] for item in items if item["key"] == "startup-script")
        checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0


def test_a_key_that_is_kept_as_a_secret_is_in_no_machine() -> None:
    options = "zone: us-east1-b\nkeys: secret-manager\nservice_account: runs@lab.example"
    found = artifacts(spec_of("gcp", options, "gcam: {memory: 16G}"))
    assert [*found] == [
        "01-secretmanager-create.json",
        "02-secretmanager-setIamPolicy.json",
        "03-secretmanager-addVersion.json",
        "04-bulkInsert-scheduler.json",
        "05-bulkInsert-gcam.json",
    ]
    assert json.loads(found["01-secretmanager-create.json"])["ttl"] == f"{7 * 86400 + 3600}s"
    (binding,) = json.loads(found["02-secretmanager-setIamPolicy.json"])["policy"]["bindings"]
    assert binding["members"] == ["serviceAccount:runs@lab.example"]
    for name in [*found][3:]:
        items = json.loads(found[name])["instanceProperties"]["metadata"]["items"]
        (script,) = items
        assert script["key"] == "startup-script"
        assert "curl -s --retry 5 -H @- '(the secret)'" in script["value"]
        checked = subprocess.run(["bash", "-n"], input=script["value"], text=True, check=False)
        assert checked.returncode == 0


def test_every_machine_ends_by_itself() -> None:
    for options in ("zone: us-east1-b", "zone: us-east1-b\nspot: true\nlifetime: 1h"):
        scheduling = properties_of(options)["scheduling"]
        assert scheduling["instanceTerminationAction"] == "DELETE"
        assert int(scheduling["maxRunDuration"]["seconds"]) == (3600 if "1h" in options else 604800)
    assert scheduling["provisioningModel"] == "SPOT"


def test_machines_without_external_addresses() -> None:
    (card,) = properties_of("zone: us-east1-b\nexternal_ips: false")["networkInterfaces"]
    assert "accessConfigs" not in card
    (card,) = properties_of("zone: us-east1-b")["networkInterfaces"]
    assert card["accessConfigs"]


@pytest.mark.parametrize(
    ("registry", "is_google"),
    [
        ("europe-west4-docker.pkg.dev", True),
        ("gcr.io", True),
        ("eu.gcr.io", True),
        ("notgcr.io", False),
        ("gcr.io:5000", False),
        ("ghcr.io", False),
    ],
)
def test_the_token_is_for_registries_of_google_alone(registry: str, is_google: bool) -> None:
    items = properties_of("zone: us-east1-b", f"gcam: {{image: '{registry}/lab/gcam:7'}}")
    script = items["metadata"]["items"][0]["value"]
    assert ("docker login" in script) is is_google
    assert ("access_token" in script) is is_google


def test_gpus() -> None:
    options = "zone: us-east1-b\nboot_image: projects/lab/global/images/with-driver"
    own = properties_of(options, "gcam: {gpus: 1}")
    assert own["machineType"] == "g2-standard-4"
    assert own["scheduling"]["onHostMaintenance"] == "TERMINATE"
    attached = properties_of(f"{options}\ngpu_type: nvidia-tesla-t4", "gcam: {gpus: 2}")
    assert attached["machineType"].startswith("n1-")
    assert attached["guestAccelerators"] == [
        {"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 2}
    ]
